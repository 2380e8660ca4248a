"""Large ranges are cut at the files' own boundaries; what comes of it is the whole range."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.checkpoint import FinishedRange
from bkctl.archive.report import Report
from bkctl.backup.balance import balance
from bkctl.backup.parts import count_whole, finished_span, left_of, span_of, whole_of
from bkctl.codec import memcomparable
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region, RegionEpoch
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.storage.url import parse_storage
from bkctl.store.manifest import LiveFile
from bkctl.titan.manifest import BlobFileMeta
from bkctl.verify.level import Level
from bkctl.verify.verify import Verifier
from tests.backup.helpers import Quiet, backup, cut_short, files_of, whole
from tests.oracles import OracleLine, read_oracle, require_shared

STORES = ["mvcc-short", "mvcc-long"]
END_TS = 440000000001000000
user_keys = st.binary(max_size=3)


def encoded(key: bytes, is_raw: bool) -> bytes:
    return key if is_raw or not key else memcomparable.encode(key)


def range_between(number: int, start: bytes, end: bytes, is_raw: bool) -> BackupRange:
    bounds = encoded(start, is_raw), encoded(end, is_raw)
    return BackupRange(Region(number, *bounds, RegionEpoch(1, 1)), *bounds, is_raw)


@st.composite
def ranges_in_order(draw: st.DrawFn, is_raw: bool) -> list[BackupRange]:
    cuts = draw(st.lists(user_keys.filter(bool), unique=True, max_size=5).map(sorted))
    every = [
        range_between(number, start, end, is_raw)
        for number, (start, end) in enumerate(pairwise([b"", *cuts, b""]))
    ]
    kept = draw(st.lists(st.sampled_from(every), unique_by=lambda r: r.region.id, min_size=1))
    return sorted(kept, key=lambda brange: brange.region.id)


@st.composite
def files(draw: st.DrawFn, is_raw: bool) -> list[LiveFile]:
    found = []
    for number, (key, size) in enumerate(draw(st.lists(st.tuples(user_keys, st.integers(1, 9))))):
        timestamp = b"" if is_raw else draw(st.binary(min_size=8, max_size=8))
        smallest = b"z" + (key if is_raw else memcomparable.encode(key)) + timestamp
        garbled = draw(st.sampled_from([smallest, smallest, b"z" + key, key]))
        found.append(LiveFile(number, "write", 6, size, garbled, garbled + b"\xff", 0))
    return found


def assert_tiles(ranges: list[BackupRange], parts: list[BackupRange]) -> None:
    left = iter(parts)
    for brange in ranges:
        part = next(left)
        assert part.start_key == brange.start_key
        while part.end_key != brange.end_key:
            assert part.region == brange.region
            assert part.data_start_key < part.data_end_key
            following = next(left)
            assert following.start_key == part.end_key
            part = following
    assert next(left, None) is None


@given(st.data(), st.booleans(), st.integers(1, 4), st.integers(1, 12))
def test_parts_tile_their_ranges(data: st.DataObject, is_raw: bool, jobs: int, size: int) -> None:
    ranges = data.draw(ranges_in_order(is_raw))
    parts = balance(ranges, data.draw(files(is_raw)), jobs, size)
    assert_tiles(ranges, parts)
    for part in parts:
        # What is cut is a user key's beginning: its versions are in one part.
        assert part.raw_start_key is not None
        assert part.raw_end_key is not None


@given(st.data(), st.booleans())
def test_what_is_left_and_what_is_done_tile_the_ranges(data: st.DataObject, is_raw: bool) -> None:
    ranges = data.draw(ranges_in_order(is_raw))
    parts = balance(ranges, data.draw(files(is_raw)), 2, 1)
    done = data.draw(st.lists(st.sampled_from(parts), unique_by=span_of))
    left = list(left_of(ranges, map(span_of, done)))
    assert_tiles(ranges, sorted([*left, *done], key=span_of))
    whole = [r for r in ranges if not any(whole_of(span_of(part), [r]) for part in left)]
    assert count_whole(ranges, map(span_of, done)) == len(whole)


@given(st.data(), st.booleans())
def test_records_of_finished_parts_name_their_span(data: st.DataObject, is_raw: bool) -> None:
    for brange in data.draw(ranges_in_order(is_raw)):
        record = FinishedRange(1, 1, brange.raw_start_key, brange.raw_end_key, ())
        assert finished_span(record, is_raw) == span_of(brange)


@given(st.data(), st.booleans(), st.integers(1, 4), st.integers(1, 12))
def test_parts_by_blob_files_tile_their_ranges(
    data: st.DataObject, is_raw: bool, jobs: int, size: int
) -> None:
    ranges = data.draw(ranges_in_order(is_raw))
    blobs = [
        BlobFileMeta(file.number, file.size, 0, file.smallest_key, file.largest_key)
        for file in data.draw(files(is_raw))
    ]
    odd = [
        BlobFileMeta(1, 20, 0),
        BlobFileMeta(2, 20, 0, b"zz", b"za"),
        BlobFileMeta(3, 9, 0, b"z"),
    ]
    blobs += data.draw(st.lists(st.sampled_from(odd)))
    assert_tiles(ranges, balance(ranges, data.draw(files(is_raw)), jobs, size, blobs))


def test_values_in_blob_files_count_as_evenly_spread() -> None:
    keys = [memcomparable.encode(b"k%02d" % i) for i in range(40)]
    ranges = [range_between(1, b"", b"", False)]
    names = [b"z" + key + bytes(8) for key in keys]
    indexes = [LiveFile(i, "default", 6, 1, key, key + b"~", 0) for i, key in enumerate(names)]
    assert len(balance(ranges, indexes, 2, 100)) == 1
    # All of them, and then those of the second half.
    blobs = [
        BlobFileMeta(90, 4000, 0, names[0], names[-1]),
        BlobFileMeta(91, 4000, 0, names[20], names[-1]),
    ]
    parts = balance(ranges, indexes, 2, 1000, blobs)
    starts = [0, *(keys.index(part.start_key) for part in parts[1:]), 40]
    # A key counts for 100 in the first half, for 300 in the second.
    sizes = [100 * (stop - start) for start, stop in pairwise(max(i, 3 * i - 40) for i in starts)]
    assert len(sizes) == 8
    assert all(800 <= size <= 1200 for size in sizes)


def test_one_job_cuts_nothing() -> None:
    ranges = [range_between(1, b"", b"", False)]
    file = LiveFile(1, "write", 6, 1 << 40, b"z" + memcomparable.encode(b"k") + bytes(8), b"zz", 0)
    assert balance(ranges, [file], 1, 1) == ranges
    assert len(balance(ranges, [file] * 2, 2, 1)) == 2


def in_parts(store: Path, repository: Path, **options: Any) -> Report:
    return backup(
        store, repository, load_regions=whole, jobs=2, part_size=1, batch_size=1, **options
    )


@pytest.fixture(scope="module", params=STORES)
def at_rest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared store's newest state with its files side by side, as compaction leaves them."""
    base = tmp_path_factory.mktemp("at-rest")
    stores = require_shared() / "stores"
    backup(stores / request.param, base / "repo", name="b", end_ts=END_TS)
    restore(RestoreRequest(parse_storage(str(base / "repo")), base / request.param, name="b"))
    shutil.copy(stores / f"{request.param}.oracle", base)
    return base / str(request.param)


def assert_oracle(report: Report, line: OracleLine) -> None:
    sums = (report.total_kvs, report.total_bytes, report.crc64xor)
    assert sums == (line.kvs, line.bytes, line.crc64xor)


def test_one_region_in_parts_is_exact_and_tiled(at_rest: Path, tmp_path: Path) -> None:
    report = in_parts(at_rest, tmp_path, name="b", start_ts=0, end_ts=END_TS)
    assert_oracle(report, read_oracle(at_rest.parent / f"{at_rest.name}.oracle")[3])
    assert (report.ranges.total, report.ranges.done) == (1, 1)
    assert len({file.start_key for file in files_of(tmp_path, "b")}) > 2
    with Verifier(parse_storage(str(tmp_path)), Level.DEEP, 1) as verifier:
        assert verifier.verify("b", Quiet()).status == "ok"


@pytest.mark.parametrize("store", STORES)
def test_windows_in_parts_are_exact(store: str, tmp_path: Path) -> None:
    path = require_shared() / "stores" / store
    for number, line in enumerate(read_oracle(path.parent / f"{store}.oracle")):
        window = {"start_ts": line.start_ts, "end_ts": line.end_ts}
        assert_oracle(in_parts(path, tmp_path, name=f"b{number}", **window), line)


def test_a_run_cut_otherwise_takes_up_the_parts(at_rest: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": "b", "end_ts": END_TS, "load_regions": whole}
    cancelled = cut_short(at_rest, tmp_path, part_size=1, batch_size=1, **options)
    assert (cancelled.status, cancelled.ranges.done) == ("cancelled", 0)
    assert list((tmp_path / "b" / "checkpoint").iterdir())
    saved = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "b").glob("*.sst")}
    report = backup(at_rest, tmp_path, jobs=1, resume=True, **options)
    assert_oracle(report, read_oracle(at_rest.parent / f"{at_rest.name}.oracle")[3])
    assert (report.ranges.total, report.ranges.done, report.resumed) == (1, 1, 0)
    now = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "b").glob("*.sst")}
    assert saved.items() <= now.items()
    assert now.keys() == {file.name for file in files_of(tmp_path, "b")}


def test_a_raw_store_without_regions_in_parts_is_exact(tmp_path: Path) -> None:
    real = RestoreRequest(parse_storage(str(require_shared() / "br-raw-v5.2.1")), tmp_path / "db")
    restore(real)
    report = in_parts(tmp_path / "db", tmp_path, name="b", end_ts=END_TS, is_raw=True)
    assert (report.total_kvs, report.total_bytes, report.crc64xor) == (
        1000,
        85000,
        0x219E2D9E5943185B,
    )
    assert (report.ranges.total, report.ranges.done, report.files) == (1, 1, 2)
