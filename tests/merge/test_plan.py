"""Plans of merges: every key of every file is in one range, with all files that may hold it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.meta import BackupFile
from bkctl.archive.names import backup_file_name
from bkctl.merge.plan import (
    LayeredFile,
    MergeRange,
    Portions,
    plan_ranges,
    portion_size,
)
from bkctl.restore.files import PlannedFile


def layered(
    number: int, layer: int, start_key: bytes, end_key: bytes, size: int = 10, region: int = 2
) -> LayeredFile:
    name = backup_file_name(1, region, layer + 5, start_key, number, "write")
    file = BackupFile(name, b"", start_key, end_key, 0, 9, 0, 0, 0, "write", size)
    return LayeredFile(layer, PlannedFile(number, name, name, file, "write"))


@st.composite
def chains(draw: st.DrawFn) -> list[LayeredFile]:
    """A few backups, each of files that do not overlap, with gaps, in any regions."""
    files: list[LayeredFile] = []
    for layer in range(draw(st.integers(1, 4))):
        bounds = sorted(draw(st.sets(st.binary(max_size=2), max_size=8)))
        ranges = list(pairwise(bounds))
        is_unbounded = draw(st.booleans())
        if bounds and is_unbounded:
            ranges.append((bounds[-1], b""))
        for start_key, end_key in ranges:
            if draw(st.integers(0, 3)):
                size = draw(st.integers(0, 50))
                files.append(layered(len(files), layer, start_key, end_key, size))
    return files


def holds(start_key: bytes, end_key: bytes, raw_key: bytes) -> bool:
    return start_key <= raw_key and (not end_key or raw_key < end_key)


def of(ranges: list[MergeRange], raw_key: bytes) -> list[MergeRange]:
    return [r for r in ranges if holds(r.raw_start_key, r.raw_end_key, raw_key)]


@given(chains(), st.integers(1, 200))
def test_every_key_of_a_file_is_in_one_range_that_has_the_file(
    files: list[LayeredFile], range_size: int
) -> None:
    ranges = plan_ranges(files, range_size)
    for one, next_one in pairwise(ranges):
        assert one.raw_end_key
        assert one.raw_end_key <= next_one.raw_start_key
    keys = {key for file in files for key in (file.start_key, file.end_key, file.end_key + b"\0")}
    for key in keys:
        with_key = {f.planned.number for f in files if holds(f.start_key, f.end_key, key)}
        found = of(ranges, key)
        assert len(found) == (1 if with_key else 0)
        if found:
            assert with_key <= {file.planned.number for file in found[0].files}
    for merge_range in ranges:
        for file in merge_range.files:
            begins = not merge_range.raw_end_key or file.start_key < merge_range.raw_end_key
            assert begins
            assert file.ends_after(merge_range.raw_start_key)
        numbers = [file.planned.number for file in merge_range.files]
        assert numbers == sorted(numbers)


@given(chains())
def test_a_range_that_is_not_too_long_wants_no_file_of_another(files: list[LayeredFile]) -> None:
    ranges = plan_ranges(files, 1 << 40)
    numbers = [file.planned.number for r in ranges for file in r.files]
    assert sorted(numbers) == list(range(len(files)))


@given(chains(), st.integers(1, 60), st.integers(1, 4))
def test_portions_are_all_ranges_in_order_and_keep_to_their_size(
    files: list[LayeredFile], size: int, limit: int
) -> None:
    ranges = plan_ranges(files, 20)
    portions, found = Portions(ranges, size), []
    while portion := portions.forward(limit):
        assert len(portion) <= limit
        assert all(isinstance(merge_range, MergeRange) for merge_range in portion)
        wanted = {
            file.planned.number: file.planned.file.size
            for merge_range in portion
            if isinstance(merge_range, MergeRange)
            for file in merge_range.files
        }
        assert len(portion) == 1 or sum(wanted.values()) <= size
        found += portion
    assert found == ranges


def test_regions_that_stay_are_the_ranges() -> None:
    keys = [b"", b"b", b"d", b"f"]
    files = [
        layered(layer * 3 + n, layer, keys[n], [*keys[1:3], b""][n], region=n + 7)
        for layer in range(3)
        for n in range(3)
    ]
    ranges = plan_ranges(files)
    assert [(r.raw_start_key, r.raw_end_key) for r in ranges] == [
        (b"", b"b"),
        (b"b", b"d"),
        (b"d", b""),
    ]
    assert [r.region.id for r in ranges] == [7, 8, 9]
    # The epoch is that of the newest backup.
    assert {r.region.epoch.version for r in ranges} == {7}


def test_a_long_range_is_cut_between_its_files() -> None:
    files = [layered(n, 0, b"%02d" % n, b"%02d" % (n + 1), 100) for n in range(10)]
    files.append(layered(10, 1, b"00", b"10", 10))
    ranges = plan_ranges(files, 300)
    assert [r.raw_start_key for r in ranges] == [b"00", b"03", b"06", b"09"]
    assert all(10 in {file.planned.number for file in r.files} for r in ranges)
    assert [len(r.files) for r in ranges] == [4, 4, 4, 2]


def test_what_nothing_covers_is_no_range() -> None:
    ranges = plan_ranges([layered(0, 0, b"a", b"b"), layered(1, 1, b"c", b"")])
    assert [(r.raw_start_key, r.raw_end_key) for r in ranges] == [(b"a", b"b"), (b"c", b"")]
    assert plan_ranges([]) == []


def test_portions_keep_all_workers_busy_and_space_bounded() -> None:
    assert portion_size(0, 1) == 8 << 20
    assert portion_size(800 << 20, 2) == 100 << 20
    assert portion_size(1 << 40, 8) == 512 << 20
