"""The entry scanner shows what the model says, whatever was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError, KeyIsLockedError
from bkctl.mvcc import long_values
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.entries import account_long
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX, split_versioned, versioned_key
from bkctl.mvcc.scan import EntryScanner
from bkctl.mvcc.write import PUT, parse_write
from bkctl.store.column_scan import ColumnScan
from bkctl.store.database import Database
from bkctl.store.open_view import open_database
from bkctl.store.source import Source, SourceOptions
from bkctl.titan.stored import StoredValues
from examples.tikv_store import TikvStore
from tests.histories import histories
from tests.model import MAX_TS, History


def scan(
    source: Source, start_ts: int, end_ts: int
) -> tuple[list[tuple[bytes, int]], Accounting, int]:
    """(raw key, commit_ts) of what is emitted, its accounting, and how many are in `default`."""
    database = open_database(source.db_dir, source.path)
    scanner = EntryScanner(database, DATA_PREFIX, DATA_END, start_ts, end_ts)
    writes, defaults = Accounting(), Accounting()
    emitted: list[tuple[bytes, int]] = []
    while (batch := scanner.scan_entries()) is not None:
        assert batch.size <= 1024
        for segment in batch.segments:
            emitted += map(split_versioned, segment.keys.tolist())
            segment.account(writes)
            for keys, values in scanner.long_values.fetch(segment.default_keys):
                account_long(defaults, keys, values)
    del scanner
    database.close()
    long_values = defaults.total_kvs
    writes.merge(defaults)
    return emitted, writes, long_values


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(histories(), st.data())
def test_a_scan_shows_what_the_model_says(history: History, data: st.DataObject) -> None:
    newest = max(history.timestamps(), default=0)
    moments = sorted({0, *history.timestamps(), min(newest + 1, MAX_TS)})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        with TikvStore(store) as tikv:
            history.replay(tikv)
            tikv.flush()
        with Source(SourceOptions(store, work_dir=Path(folder))) as source:
            for _ in range(4):
                start_ts, end_ts = sorted(
                    (data.draw(st.sampled_from(moments)), data.draw(st.sampled_from(moments)))
                )
                expected = history.expected(start_ts, end_ts)
                emitted, accounting, default_kvs = scan(source, start_ts, end_ts)
                assert emitted == [(entry[0], entry[1]) for entry in expected.entries]
                assert (accounting.total_kvs, accounting.total_bytes, accounting.crc64xor) == (
                    expected.kvs,
                    expected.bytes,
                    expected.crc64xor,
                )
                assert default_kvs == expected.default_kvs
                assert is_blocked(source, end_ts) == bool(history.blocking_locks(end_ts))


class Sliced:
    """A scan by columns, given out in pieces of at most so many records."""

    def __init__(self, scan: ColumnScan, limit: int) -> None:
        self._scan, self._limit = scan, limit
        self._pieces: list[tuple[ByteStrings, StoredValues]] = []

    def take(self) -> tuple[ByteStrings, ByteStrings] | None:
        read = self.take_stored()
        return None if read is None else (read[0], self.resolve(*read))

    def take_stored(self) -> tuple[ByteStrings, StoredValues] | None:
        if not self._pieces and (read := self._scan.take_stored()) is not None:
            self._pieces = [
                (read[0].slice(start, stop), read[1].slice(start, stop))
                for start in range(0, len(read[0]), self._limit)
                for stop in [min(start + self._limit, len(read[0]))]
            ]
        return self._pieces.pop(0) if self._pieces else None

    def resolve(self, keys: ByteStrings, stored: StoredValues) -> ByteStrings:
        return self._scan.resolve(keys, stored)

    def seek(self, key: bytes) -> None:
        self._pieces.clear()
        self._scan.seek(key)

    def lookup(self, keys: ByteStrings, plain_bytes: int) -> StoredValues | None:
        return self._scan.lookup(keys.slice(0, min(self._limit, len(keys))), plain_bytes)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(histories(), st.data())
def test_where_reads_begin_and_end_does_not_matter(history: History, data: st.DataObject) -> None:
    moments = sorted({0, *history.timestamps()})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        store = Path(folder) / "store"
        with TikvStore(store) as tikv:
            history.replay(tikv)
            tikv.flush()
        with Source(SourceOptions(store, work_dir=Path(folder))) as source:
            drawn = st.tuples(st.sampled_from(moments), st.sampled_from(moments))
            windows = [tuple(sorted(data.draw(drawn))) for _ in range(3)]
            expected = [scan(source, *window) for window in windows]
            whole = Database.scan_columns
            for limit, sample in ((1, 1024), (2, 0), (3, 0)):
                # Values may be looked up rather than scanned for, too.
                patch.setattr(long_values, "_SAMPLE", sample)
                patch.setattr(long_values, "_FEW", 1)
                patch.setattr(
                    Database,
                    "scan_columns",
                    lambda *args, limit=limit: Sliced(whole(*args), limit),
                )
                for window, (emitted, accounting, default_kvs) in zip(
                    windows, expected, strict=True
                ):
                    again = scan(source, *window)
                    assert (again[0], again[2]) == (emitted, default_kvs)
                    assert again[1].crc64xor == accounting.crc64xor


@pytest.mark.parametrize("value_size", [0, 60, 255])
def test_a_batch_ends_where_its_room_does(value_size: int, tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv, tikv.batched():
        for i in range(9000):
            value = b"v" * (i % (value_size + 1))
            tikv.write_record(b"k%05d" % i, 10, b"P\x09v" + bytes([len(value)]) + value)
    with Source(SourceOptions(tmp_path / "store")) as source:
        database = Database(source.db_dir, source.path)
        sizes = [6 + i % (value_size + 1) for i in range(9000)]
        for room in (0, 1, sum(sizes[:1024]), sum(sizes[:4096]), sum(sizes[:4096]) + 1, 1 << 30):
            scanner = EntryScanner(database, DATA_PREFIX, DATA_END, 0, 20)
            at = 0
            while (batch := scanner.scan_entries(room)) is not None:
                assert batch.size % 1024 == 0 or at + batch.size == 9000
                last = at + (batch.size - 1) // 1024 * 1024
                assert last == at or sum(sizes[at:last]) < room
                at += batch.size
            assert at == 9000
        database.close()


def is_blocked(source: Source, end_ts: int) -> bool:
    database = Database(source.db_dir, source.path)
    try:
        EntryScanner(database, DATA_PREFIX, DATA_END, 0, end_ts).check_locks()
    except KeyIsLockedError:
        return True
    finally:
        database.close()
    return False


def test_versions_of_one_key_over_many_reads_decide_once(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv, tikv.batched():
        for ts in range(10, 30_010, 10):
            tikv.write_record(b"hot", ts, b"P" + varint(ts - 1) + b"v\x01x")
        tikv.write_record(b"next", 10, b"P\x09v\x01y")
    with Source(SourceOptions(tmp_path / "store")) as source:
        for end_ts, commit_ts in [(15, 10), (20_000, 20_000), (40_000, 30_000)]:
            emitted, _, _ = scan(source, 0, end_ts)
            assert emitted == [(b"hot", commit_ts), (b"next", 10)]
        assert scan(source, 20_000, 20_005)[0] == []


def varint(number: int) -> bytes:
    from bkctl.codec.varint import encode_uvarint

    return encode_uvarint(number)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (b"X\x01", "unknown type"),
        (b"P\x80", "cut"),
        (b"P\x01v\x09abc", "cut short"),
        (b"P\x01RF\0", "cut"),
    ],
)
def test_a_damaged_record_is_corruption_that_names_its_key(
    record: bytes, told: str, tmp_path: Path
) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.write_record(b"k", 10, record)
    with (
        Source(SourceOptions(tmp_path / "store")) as source,
        pytest.raises(CorruptionError, match=told) as caught,
    ):
        scan(source, 0, 20)
    assert versioned_key(b"k", 10).hex().upper() in str(caught.value)


def test_a_long_value_that_is_missing_is_corruption(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.write_record(b"k", 10, b"P\x09")
        tikv.write_record(b"l", 10, b"P\x09")
        tikv.default_record(b"l", 9, b"v" * 300)
    with (
        Source(SourceOptions(tmp_path / "store")) as source,
        pytest.raises(CorruptionError, match="missing from the default family"),
    ):
        scan(source, 0, 20)


def test_keys_and_values_of_many_lengths_are_counted_alike(tmp_path: Path) -> None:
    history = History()
    for i in range(3000):
        key, value = b"k" * (i % 41) + b"%d" % i, b"v" * (i % 300)
        history.must_prewrite_put(key, value, key, 10)
        history.must_commit(key, 10, 11)
    with TikvStore(tmp_path / "store") as tikv, tikv.batched():
        history.replay(tikv)
    expected = history.expected(0, 20)
    with Source(SourceOptions(tmp_path / "store")) as source:
        _, accounting, default_kvs = scan(source, 0, 20)
    assert default_kvs == expected.default_kvs > 0
    assert (accounting.total_kvs, accounting.total_bytes, accounting.crc64xor) == (
        3000,
        expected.bytes,
        expected.crc64xor,
    )
    assert parse_write(b"P\x09").write_type == PUT
