"""Reading SST files as columns shows what RocksDB's iterator shows, whatever made the files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
    WriteBatch,
)

from bkctl.errors import CorruptionError
from bkctl.store import column_scan, merge
from bkctl.store.database import Database

Pairs = list[tuple[bytes, bytes]]
keys = st.binary(max_size=3) | st.integers(0, 40).map(lambda n: b"row%04d" % n)
steps = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(keys, st.binary(max_size=40)), max_size=30)),
    st.tuples(st.just("delete"), st.lists(keys, max_size=10)),
    st.tuples(st.just("ingest"), st.dictionaries(keys, st.binary(max_size=9), min_size=1)),
    st.just(("flush", None)),
    st.just(("compact", None)),
)


def table_options(version: int, codec: DBCompressionType) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_disable_auto_compactions(True)
    options.set_level_compaction_dynamic_level_bytes(False)  # so that all levels are used
    options.set_compression_type(codec)
    table = BlockBasedOptions()
    table.set_format_version(version)
    table.set_block_size(64)
    options.set_block_based_table_factory(table)
    return options


class Store:
    """A store with one family, `write`, changed step by step."""

    def __init__(self, path: Path, version: int = 2) -> None:
        self.path = path
        self._options = table_options(version, DBCompressionType.lz4())
        families = {"write": table_options(version, DBCompressionType.lz4())}
        access = AccessType.read_write()
        self._db = Rdict(str(path), self._options, column_families=families, access_type=access)
        self.write = self._db.get_column_family("write")

    def put(self, pairs: Pairs) -> None:
        for key, value in pairs:
            self.write[key] = value

    def delete(self, doomed: list[bytes]) -> None:
        for key in doomed:
            del self.write[key]

    def ingest(self, pairs: dict[bytes, bytes]) -> None:
        file = str(self.path) + ".sst"
        writer = SstFileWriter(self._options)
        writer.open(file)
        for key, value in sorted(pairs.items()):
            writer[key] = value
        writer.finish()
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        self.write.ingest_external_file([file], options)

    def flush(self, _: None = None) -> None:
        self.write.flush()

    def compact(self, _: None = None) -> None:
        self.write.compact_range(None, None)

    def close(self) -> None:
        self.write.flush()
        self._db.close()


def by_rocksdb(database: Database, lower: bytes, upper: bytes) -> Pairs:
    return database.scan("write", lower, upper).take(1 << 30)


def by_columns(database: Database, lower: bytes, upper: bytes) -> tuple[Pairs, bool]:
    """The records, and whether they were read without RocksDB to the end."""
    scan = database.scan_columns("write", lower, upper)
    found: Pairs = []
    while (read := scan.take()) is not None:
        assert len(read[0])
        found += zip(read[0].tolist(), read[1].tolist(), strict=True)
    return found, scan.is_merged


def opened(path: Path, check: Callable[[Database], None]) -> None:
    database = Database(path, path)
    try:
        check(database)
    finally:
        database.close()


@pytest.fixture(params=[1, 200, 1 << 20])
def chunk_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(column_scan, "SCAN_CHUNK", request.param)
    monkeypatch.setattr(column_scan, "SEEK_CHUNK", request.param)
    monkeypatch.setattr(merge, "_MAX_CHUNK", request.param)
    return int(request.param)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=1, max_size=9), st.sampled_from([2, 4, 5, 6]), keys, keys)
def test_columns_show_what_rocksdb_shows(
    chunk_size: int, changes: list[tuple[str, object]], version: int, low: bytes, high: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store", version)
        for name, argument in changes:
            getattr(store, name)(argument)
        store.close()

        def check(database: Database) -> None:
            for lower, upper in ((b"", b"\xff" * 4), (min(low, high), max(low, high))):
                expected = by_rocksdb(database, lower, upper)
                assert by_columns(database, lower, upper) == (expected, True)

        opened(store.path, check)


def test_versions_kept_for_a_snapshot_are_passed_over(chunk_size: int, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    snapshots = []
    for round_ in range(30):
        store.put([(b"k%d" % i, b"%d" % round_) for i in range(round_, round_ + 5)])
        snapshots.append(store.write.snapshot())
    store.flush()
    snapshots.clear()
    store.close()

    def check(database: Database) -> None:
        found = by_columns(database, b"", b"z")
        assert found == (by_rocksdb(database, b"", b"z"), True)
        assert len(found[0]) == 34

    opened(store.path, check)


def test_small_files_of_one_level_are_read_together(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.ingest({b"k%04d" % i: b"old" for i in range(1000)})
    # Each gets a sequence number of its own, and a place above what it overlaps.
    for first in range(0, 1000, 50):
        store.ingest({b"k%04d" % i: b"new%d" % first for i in range(first, first + 20)})
    store.close()

    def check(database: Database) -> None:
        tables = database.tables("write")
        above = [run for run in tables.runs("write", b"", b"z") if len(run.files) > 1]
        assert [len(run.files) for run in above] == [20]
        assert len({tables.open(file).sequence for file in above[0].files}) == 20
        for lower, upper in ((b"", b"z"), (b"k0110", b"k0455"), (b"k0030", b"k0040")):
            expected = by_rocksdb(database, lower, upper)
            assert by_columns(database, lower, upper) == (expected, True)
        scan = database.scan_columns("write", b"", b"z")
        read = scan.take()
        assert read is not None
        assert len(read[0]) == 970  # up to the end of the level above

    opened(store.path, check)


def test_a_seek_goes_on_where_it_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v") for i in range(1000)])
    store.close()

    def check(database: Database) -> None:
        scan = database.scan_columns("write", b"k0100", b"k0900")
        scan.seek(b"k05")
        read = scan.take()
        assert read is not None
        assert read[0][0] == b"k0500"

    opened(store.path, check)


def delete_a_range(store: Store) -> None:
    store.write.delete_range(b"k0100", b"k0200")


def add_a_wide_column(store: Store) -> None:
    store.write.put_entity(b"k0150", names=[b"a"], values=[b"b"])


def add_a_long_key(store: Store) -> None:
    store.put([(b"k0150" + b"x" * 5000, b"v")])


@pytest.mark.parametrize("change", [delete_a_range, add_a_wide_column, add_a_long_key])
def test_what_only_rocksdb_reads_is_left_to_it(
    change: Callable[[Store], None], chunk_size: int, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v") for i in range(300)])
    store.flush()
    change(store)
    store.close()

    def check(database: Database) -> None:
        assert by_columns(database, b"", b"z") == (by_rocksdb(database, b"", b"z"), False)

    opened(store.path, check)


def test_records_in_memory_are_left_to_rocksdb(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"a", b"1")])
    store.flush()
    batch = WriteBatch(raw_mode=True)
    batch.put(b"b", b"2", store.write.get_column_family_handle("write"))
    store.write.write(batch)
    database = Database(tmp_path / "store", tmp_path)  # replays the log into its memory
    try:
        assert by_columns(database, b"", b"z") == ([(b"a", b"1"), (b"b", b"2")], False)
    finally:
        database.close()
        store.close()


def test_damage_is_told_by_rocksdb_and_never_ends_a_scan(chunk_size: int, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v%d" % i) for i in range(300)])
    store.close()
    (file,) = sorted(store.path.glob("*.sst"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 0x40
    file.write_bytes(content)

    def check(database: Database) -> None:
        with pytest.raises(CorruptionError, match="checksum mismatch"):
            by_columns(database, b"", b"z")

    opened(store.path, check)


def test_a_file_that_cannot_be_opened_is_left_to_rocksdb(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v%d" % i) for i in range(300)])
    store.close()
    database = Database(store.path, store.path)
    try:
        for file in store.path.glob("*.sst"):
            file.unlink()
        # RocksDB has it open already.
        assert by_columns(database, b"", b"z") == (by_rocksdb(database, b"", b"z"), False)
    finally:
        database.close()
