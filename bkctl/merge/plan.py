"""The plan of a merge: which key ranges to make of a chain's files, and which to work on together.

    files   full    |----a----|----b----|         |--c--|
            incr      |--d--|     |--e--|   |-f-|
    ranges          |----ad---|----be---| |-f-|   |--c--|

Files that overlap go into one range, so that each is wanted only once; where nothing lies, there is
nothing to do. A long range is cut at bounds of its files: those across a cut are wanted twice.
Ranges that follow each other are put together into portions of a size, each of which is worked on
at one time by one worker, with a temporary store of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from bkctl.codec.memcomparable import encode
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region, RegionEpoch
from bkctl.repository.contents import parse_origin
from bkctl.restore.files import PlannedFile

RANGE_SIZE = 64 << 20
PORTION_SIZE = 512 << 20
PORTION_RANGES = 256
_LEAST_PORTION = 8 << 20
_PORTIONS_PER_JOB = 4


@dataclass(frozen=True, slots=True)
class LayeredFile:
    """A file of the chain's backup number `layer`, counted from the oldest."""

    layer: int
    planned: PlannedFile

    @property
    def start_key(self) -> bytes:
        """The first raw user key that it is wanted for."""
        return self.planned.keys.start_key

    @property
    def end_key(self) -> bytes:
        """The raw user key that it is wanted up to; empty for no bound."""
        return self.planned.keys.end_key

    def ends_after(self, raw_key: bytes) -> bool:
        """Whether its range reaches beyond `raw_key`."""
        return not self.end_key or self.end_key > raw_key


class MergeRange(BackupRange, frozen=True, gc=False):
    """A range to merge, with all files of the chain that may hold keys of it."""

    files: tuple[LayeredFile, ...] = ()


def plan_ranges(files: Sequence[LayeredFile], range_size: int = RANGE_SIZE) -> list[MergeRange]:
    """The ranges of a chain, in key order, of about `range_size` stored bytes at most.

    They depend on nothing else, so that an unfinished merge has the same ones again.
    """
    ranges = []
    for group in _overlapping(sorted(files, key=lambda file: file.start_key)):
        bounds = [group[0].start_key, *_cuts(group, range_size), _end_of(group)]
        for start_key, end_key, inside in _split(group, bounds):
            ranges.append(_make_range(start_key, end_key, inside))
    return ranges


def _overlapping(ordered: Sequence[LayeredFile]) -> Iterator[list[LayeredFile]]:
    """Put together what overlaps, also by way of others."""
    group: list[LayeredFile] = []
    furthest: LayeredFile | None = None
    for file in ordered:
        if furthest is not None and not furthest.ends_after(file.start_key):
            yield group
            group, furthest = [], None
        if furthest is None or (furthest.end_key and file.ends_after(furthest.end_key)):
            furthest = file
        group.append(file)
    if group:
        yield group


def _end_of(group: Sequence[LayeredFile]) -> bytes:
    ends = [file.end_key for file in group]
    return b"" if b"" in ends else max(ends)


def _cuts(group: Sequence[LayeredFile], range_size: int) -> list[bytes]:
    """Where to cut: at starts of files, each piece holding about `range_size` of their bytes."""
    starts = sorted({file.start_key for file in group})
    place = {start: number for number, start in enumerate(starts)}
    changes = [0.0] * (len(starts) + 1)
    for file in group:
        # Nothing is known of how its records lie, so they count as spread evenly.
        first = place[file.start_key]
        last = bisect_left(starts, file.end_key) if file.end_key else len(starts)
        share = file.planned.file.size / (last - first)
        changes[first] += share
        changes[last] -= share
    cuts, size = [], 0.0
    for start, weight in zip(starts[1:], accumulate(changes[:-2]), strict=True):
        size += weight
        if size >= range_size:
            cuts.append(start)
            size = 0.0
    return cuts


def _split(
    group: Sequence[LayeredFile], bounds: Sequence[bytes]
) -> Iterator[tuple[bytes, bytes, list[LayeredFile]]]:
    """The pieces between the bounds, each with the files that reach into it."""
    inside: list[LayeredFile] = []
    following = 0
    for start_key, end_key in pairwise(bounds):
        inside = [file for file in inside if file.ends_after(start_key)]
        while following < len(group) and (not end_key or group[following].start_key < end_key):
            inside.append(group[following])
            following += 1
        yield start_key, end_key, list(inside)


def _make_range(start_key: bytes, end_key: bytes, inside: Sequence[LayeredFile]) -> MergeRange:
    """A range, called after the region that the newest file at its start was made from."""
    files = tuple(sorted(inside, key=lambda file: file.planned.number))
    at_start = (file for file in files if file.start_key <= start_key)
    origin = parse_origin(max(at_start, key=lambda file: file.layer).planned.file.name)
    first, end = (key and encode(key) for key in (start_key, end_key))
    region = Region(
        origin.region_id if origin else 0,
        first,
        end,
        RegionEpoch(0, origin.epoch_version if origin else 0),
    )
    return MergeRange(region, first, end, False, files=files)


def portion_size(total: int, jobs: int) -> int:
    """How many stored bytes of files to work on together, so that all workers stay busy."""
    return max(_LEAST_PORTION, min(PORTION_SIZE, total // (jobs * _PORTIONS_PER_JOB)))


class Portions:
    """Hands out the ranges portion by portion; see `bkctl.backup.run.Forward`."""

    def __init__(self, ranges: Sequence[MergeRange], size: int) -> None:
        self._ranges, self._size = ranges, size
        self._next = 0

    def forward(self, limit: int) -> list[BackupRange]:
        """The ranges of the next portion, at most `limit` of them."""
        portion: list[BackupRange] = []
        counted: set[int] = set()
        size = 0
        for merge_range in self._ranges[self._next : self._next + limit]:
            new = [file for file in merge_range.files if file.planned.number not in counted]
            size += sum(file.planned.file.size for file in new)
            if portion and size > self._size:
                break
            counted.update(file.planned.number for file in new)
            portion.append(merge_range)
        self._next += len(portion)
        return portion
