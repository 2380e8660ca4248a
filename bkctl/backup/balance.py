"""Splits ranges that are large, so that all workers stay busy to the end.

The cuts are keys at which the store's own files begin: their sizes tell how much lies between, and
nothing has to be read for it. The parts of a range tile it exactly; each has files of its own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from msgspec.structs import replace

from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import DATA_PREFIX, TS_SIZE
from bkctl.regions.plan import BackupRange, to_raw_key
from bkctl.store.manifest import LiveFile
from bkctl.titan.manifest import BlobFileMeta

MIN_PART_SIZE = 64 << 20
_PARTS_PER_JOB = 4


def balance(
    ranges: Iterable[BackupRange],
    files: Iterable[LiveFile],
    jobs: int,
    min_part_size: int = MIN_PART_SIZE,
    blobs: Sequence[BlobFileMeta] = (),
) -> list[BackupRange]:
    """Cut those of `ranges` that hold more than their share of the files' bytes.

    `files` are those that are scanned, `blobs` those with values beside them. Ranges that are not
    large, and all of them if there is one job, stay as they are.
    """
    ranges = list(ranges)
    if jobs < 2:
        return ranges
    sizes = _Sizes(files, blobs)
    inside = [sizes.between(brange.data_start_key, brange.data_end_key) for brange in ranges]
    share = max(min_part_size, sum(inside) // (jobs * _PARTS_PER_JOB))
    parts: list[BackupRange] = []
    for brange, size in zip(ranges, inside, strict=True):
        count = size // share
        parts += _split(brange, sizes, size / count) if count > 1 else [brange]
    return parts


class _Sizes:
    """The files' bytes along the keys, each file's counted where it begins.

    Blob files, which overlap as they like, are spread evenly over the beginnings of files between
    their first and their last key.
    """

    def __init__(self, files: Iterable[LiveFile], blobs: Sequence[BlobFileMeta]) -> None:
        ordered = sorted(
            [(file.smallest_key, file.size) for file in files]
            + [(blob.smallest_key, 0) for blob in blobs]
        )
        self.keys = [key for key, _ in ordered]
        spread = self._spread(blobs)
        sizes = (size + more for (_, size), more in zip(ordered, spread, strict=True))
        self._before = [0, *accumulate(sizes)]

    def _spread(self, blobs: Iterable[BlobFileMeta]) -> list[int]:
        """How many bytes of blob files there are for each key."""
        rises = [0.0] * (len(self.keys) + 1)
        for blob in blobs:
            first = bisect_left(self.keys, blob.smallest_key)
            # A file of an old Titan may not tell its keys: it can hold any.
            last = bisect_right(self.keys, blob.largest_key) if blob.largest_key else len(self.keys)
            last = max(last, first + 1)
            rises[first] += blob.size / (last - first)
            rises[last] -= blob.size / (last - first)
        return [max(0, int(size)) for size in accumulate(rises[:-1])]

    def between(self, start: bytes, end: bytes) -> int:
        """The bytes of files that begin in [start, end)."""
        return self._before[bisect_left(self.keys, end)] - self._before[self._first(start)]

    def keys_behind(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, int]]:
        """The keys in (start, end) at which files begin, each with the bytes from `start` to it."""
        first = self._first(start)
        for number in range(bisect_right(self.keys, start), bisect_left(self.keys, end)):
            yield self.keys[number], self._before[number] - self._before[first]

    def _first(self, start: bytes) -> int:
        return bisect_left(self.keys, start)


def _split(brange: BackupRange, sizes: _Sizes, part_size: float) -> Iterator[BackupRange]:
    start, cut_at = brange.start_key, part_size
    for data_key, before in sizes.keys_behind(brange.data_start_key, brange.data_end_key):
        cut = _encoded_key(data_key, brange.is_raw)
        if before < cut_at or cut is None or cut <= start:
            continue
        yield replace(brange, start_key=start, end_key=cut)
        # Sizes are counted from the range's start, so that errors do not add up.
        start, cut_at = cut, (before // part_size + 1) * part_size
    yield replace(brange, start_key=start)


def _encoded_key(data_key: bytes, is_raw: bool) -> bytes | None:
    """The key to cut at, as region maps have it; None where a file begins with no such key."""
    if not data_key.startswith(DATA_PREFIX):
        return None
    key = data_key[1:] if is_raw else data_key[1:-TS_SIZE]
    try:
        return key if to_raw_key(key, is_raw) else None
    except CorruptionError:
        return None
