"""What an incremental backup leaves unread never holds what it must tell."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.backup import changes
from bkctl.backup.changes import Changes, find_changes
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX, decode_ts, versioned_key
from bkctl.mvcc.scan import EntryScanner
from bkctl.regions.plan import make_plan
from bkctl.regions.region import Region, RegionEpoch
from bkctl.regions.region_map import RegionMap, whole_key_space
from bkctl.sst.reader import FileReader, SstReader
from bkctl.store.database import Database
from bkctl.store.manifest import LiveFile
from bkctl.store.source import Source, SourceOptions
from examples.tikv_store import TikvStore
from tests.backup.helpers import backup
from tests.histories import histories, windows
from tests.model import History
from tests.oracles import bench_tool, read_oracle
from tests.sst.table_builder import TableBuilder, internal

Entry = tuple[bytes, bytes]


def scan(source: Source, db_dir: Path, start_ts: int, end_ts: int) -> list[Entry]:
    """What a backup emits out of a view: write records, and their values' keys."""
    database = Database(db_dir, source.path)
    scanner = EntryScanner(database, DATA_PREFIX, DATA_END, start_ts, end_ts)
    entries: list[Entry] = []
    while (batch := scanner.scan_entries()) is not None:
        for segment in batch.segments:
            entries += zip(segment.keys.tolist(), segment.values.tolist(), strict=True)
            for keys, values in scanner.long_values.fetch(segment.default_keys):
                entries += zip(keys.tolist(), values.tolist(), strict=True)
    del scanner
    database.close()
    return sorted(entries)


def collected(source: Source, file: LiveFile, deletions_count: bool) -> changes._Properties:
    """What TiKV's collector notes of a file, worked out from its records."""
    stamps, trailers = [], []
    with FileReader(source.read_path(file)) as reader:
        sst = SstReader(reader, file.name, ingested=True)
        for block in sst.blocks():
            of_block: list[int] = []
            keys, _ = sst.read_entries(block, of_block)
            trailers += of_block
            stamps += [
                decode_ts(key[-8:])
                for key, trailer in zip(keys, of_block, strict=True)
                if deletions_count or trailer & 0xFF == 1
            ]
        range_deletions = sst.properties.num_range_deletions
    hides_nothing = not range_deletions and all(trailer & 0xFF == 1 for trailer in trailers)
    return changes._Properties(
        min(stamps, default=2**64 - 1), max(stamps, default=0), hides_nothing
    )


def fill(data: st.DataObject, history: History, tikv: TikvStore) -> None:
    """Replay a history into many files that overlap, with GC and dropped ranges on the way."""
    done = History()
    for operation in history.operations:
        getattr(tikv, operation.method)(*operation.arguments, **dict(operation.options))
        getattr(done, operation.method)(*operation.arguments, **dict(operation.options))
        what = data.draw(st.sampled_from(["", "", "flush", "flush", "collect", "drop", "compact"]))
        if what == "flush":
            tikv.flush()
        elif what == "compact":
            tikv.compact()
        elif what in ("collect", "drop"):
            there = [(key, ts) for key, versions in done.versions.items() for ts in versions]
            if there:
                data_key = versioned_key(*data.draw(st.sampled_from(sorted(there))))
                tikv.flush()
                family = tikv._families["write"]
                if what == "collect":
                    family.delete(data_key)
                else:
                    family.delete_range(data_key, data_key + b"\xff")
                tikv.flush()


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(histories(max_steps=20), st.data())
def test_leaving_out_what_is_unchanged_changes_nothing(
    history: History, data: st.DataObject
) -> None:
    deletions_count = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            changes,
            "_read_properties",
            lambda source, file: collected(source, file, deletions_count),
        )
        with TikvStore(Path(folder) / "store") as tikv:
            fill(data, history, tikv)
        with Source(SourceOptions(tikv.path, work_dir=Path(folder))) as source:
            plan = make_plan(None, b"", b"", halves(data, history), False)
            for _ in range(3):
                start_ts, end_ts = data.draw(windows(history))
                found = find_changes(source, plan.ranges, start_ts, end_ts)
                entries = scan(source, source.db_dir, start_ts, end_ts)
                assert scan(source, source.without(found.unread), start_ts, end_ts) == entries
                read = found.ranges
                assert all(
                    any(r.data_start_key <= key < r.data_end_key for r in read)
                    for key, _ in entries
                )
                assert len(read) + len(found.skipped) == len(plan.ranges)


def halves(data: st.DataObject, history: History) -> RegionMap:
    """Two regions that meet at one of the history's keys."""
    keys = [versioned_key(key, 0)[1:-8] for key in history.versions if key]
    if not keys:
        return whole_key_space()
    cut = data.draw(st.sampled_from(sorted(keys)))
    return RegionMap.build(
        [Region(1, b"", cut, RegionEpoch(1, 1)), Region(2, cut, b"", RegionEpoch(1, 1))]
    )


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A store with two versions of a key, in a file that tests replace."""
    with TikvStore(tmp_path / "store") as tikv:
        tikv.write_record(b"k", 10, b"P\x09v\x01x")
        tikv.write_record(b"k", 20, b"P\x13v\x01x")
        tikv.flush()
    with Source(SourceOptions(tmp_path / "store", work_dir=tmp_path)) as opened:
        yield opened


SOUND = {
    "tikv.min_ts": (10).to_bytes(8, "big"),
    "tikv.max_ts": (20).to_bytes(8, "big"),
    "rocksdb.deleted.keys": b"\0",
}


def changes_with(source: Source, properties: dict[str, bytes]) -> Changes:
    """What is to be read when the one file has these properties: versions at 20 and 10."""
    (path,) = (source.read_path(f) for f in source.live_files() if f.family == "write")
    keys = [versioned_key(b"k", ts) for ts in (20, 10)]
    records = [(internal(key), b"P\x09v\x01x") for key in keys]
    content = TableBuilder(5).build([records], properties)
    path.unlink()
    path.write_bytes(content)
    plan = make_plan(None, b"", b"", whole_key_space(), False)
    return find_changes(source, plan.ranges, 20, 30)


def test_a_file_of_old_versions_is_left_out_with_its_range(source: Source) -> None:
    found = changes_with(source, SOUND)
    assert len(found.unread) == 1
    assert not found.ranges
    assert next(iter(found.skipped)).reason.startswith("unchanged since ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"tikv.max_ts": b""},
        {"tikv.max_ts": b"\0" * 7},
        {"tikv.max_ts": (21).to_bytes(8, "big")},
        {"tikv.min_ts": (21).to_bytes(8, "big")},
        {"tikv.min_ts": (11).to_bytes(8, "big")},
        {"tikv.min_ts": b"\xff" * 8, "tikv.max_ts": b"\0" * 8},
        {"tikv.num_errors": (1).to_bytes(8, "big")},
    ],
    ids=lambda wrong: ",".join(f"{k}={v.hex()}" for k, v in wrong.items()),
)
def test_properties_that_do_not_hold_make_a_file_changed(
    source: Source, wrong: dict[str, bytes]
) -> None:
    found = changes_with(source, SOUND | wrong)
    assert not found.unread
    assert len(found.ranges) == 1


@pytest.mark.parametrize("missing", ["tikv.min_ts", "tikv.max_ts"])
def test_a_file_without_timestamps_is_changed(source: Source, missing: str) -> None:
    found = changes_with(source, {name: v for name, v in SOUND.items() if name != missing})
    assert len(found.ranges) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"rocksdb.deleted.keys": b"\1"},
        {"rocksdb.num.range-deletions": b"\1"},
        {"rocksdb.merge.operands": b"\1"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_file_that_may_hide_others_stays_in_the_view(
    source: Source, wrong: dict[str, bytes]
) -> None:
    found = changes_with(source, SOUND | wrong)
    assert not found.unread
    assert not found.ranges


def test_a_file_whose_properties_are_damaged_is_changed(source: Source) -> None:
    changes_with(source, SOUND)
    (path,) = (source.read_path(f) for f in source.live_files() if f.family == "write")
    content = bytearray(path.read_bytes())
    content[content.index(b"tikv.max_ts")] ^= 1
    path.write_bytes(content)
    plan = make_plan(None, b"", b"", whole_key_space(), False)
    found = find_changes(source, plan.ranges, 20, 30)
    assert len(found.ranges) == 1
    path.unlink()
    assert len(find_changes(source, plan.ranges, 20, 30).ranges) == 1


def test_a_lock_keeps_its_range(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.must_prewrite_put(b"k", b"v", b"k", 15)
    with Source(SourceOptions(tmp_path / "store")) as source:
        plan = make_plan(None, b"", b"", whole_key_space(), False)
        assert len(find_changes(source, plan.ranges, 20, 30).ranges) == 1


def test_time_slices_are_read_alone_and_exactly(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sizes = map(str, (20_000, 60, 4, 7, 8, 0, 20))
    subprocess.run([bench_tool("tikvgen"), store, *sizes], check=True, capture_output=True)
    for line in read_oracle(tmp_path / "store.oracle"):
        if line.kind != "inc":
            continue
        reports = [
            backup(
                store,
                tmp_path / f"repository-{read_all}",
                start_ts=line.start_ts,
                end_ts=line.end_ts,
                name=f"b{line.start_ts}",
                read_all=read_all,
            )
            for read_all in (False, True)
        ]
        for report in reports:
            assert report.status == "ok"
            assert (report.total_kvs, report.crc64xor) == (line.kvs, line.crc64xor)
        if not line.kvs:
            assert reports[0].ranges.total == 0
