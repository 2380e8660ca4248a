"""Finds what an incremental backup need not read: files and ranges with nothing of its window.

TiKV notes in each SST file of its `write` family the oldest and newest commit timestamps in it
(`tikv.min_ts`, `tikv.max_ts`, 8 bytes big-endian, from its MvccPropertiesCollector). Whether a
version is emitted depends on it and on newer ones of its key alone. So a file whose versions all
lie outside (start_ts, end_ts] can be left out of the view, unless it hides what others hold: a
file with deletions of RocksDB's own stays. A file counts as changed wherever its properties are
missing, damaged, or not borne out by its first and last key.

A range that no changed file reaches into is not read, if no lock can be in it either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bkctl.codec.tso import format_ts
from bkctl.errors import CorruptionError, StorageError
from bkctl.mvcc.keys import TS_SIZE, decode_ts
from bkctl.raft.at_hand import StoreAtHand
from bkctl.regions.plan import BackupRange, Plan
from bkctl.regions.region_map import Skipped
from bkctl.sst.reader import RANGE_DELETIONS, SstReader
from bkctl.store.manifest import LiveFile
from bkctl.store.source import Source

UNCHANGED = "unchanged since"
"""How the reason begins for which a range without changes is skipped."""

_WRITE, _LOCK = "write", "lock"
_MIN_TS, _MAX_TS, _NUM_ERRORS = "tikv.min_ts", "tikv.max_ts", "tikv.num_errors"
_DELETED_KEYS = "rocksdb.deleted.keys"


@dataclass(frozen=True, slots=True)
class Changes:
    """What to read for a window: `ranges`, in a view without the files `unread`.

    `unchanged` are the other ranges, `skipped` their regions, and why.
    """

    ranges: tuple[BackupRange, ...]
    skipped: tuple[Skipped, ...]
    unchanged: tuple[BackupRange, ...]
    unread: tuple[LiveFile, ...]


def find_changes(
    source: Source, ranges: Sequence[BackupRange], start_ts: int, end_ts: int
) -> Changes:
    """Find out which files and which of `ranges` can hold commits in (start_ts, end_ts].

    Ranges that are taken in full are read whatever they hold.
    """
    files = source.live_files()
    whole = _Spans((r.data_start_key, r.data_end_key) for r in ranges if r.takes_all)
    planned = _Spans((brange.data_start_key, brange.data_end_key) for brange in ranges)
    changed: list[LiveFile] = []
    unread: list[LiveFile] = []
    for file in files:
        if file.family == _WRITE and planned.meet(file.smallest_key, _after(file.largest_key)):
            properties = None
            if not whole.meet(file.smallest_key, _after(file.largest_key)):
                properties = _read_properties(source, file)
            if properties is None or not properties.lies_outside(file, start_ts, end_ts):
                changed.append(file)
            elif properties.hides_nothing:
                unread.append(file)
    written = _spans_of(changed)
    locked = _spans_of(file for file in files if file.family == _LOCK)
    read: list[BackupRange] = []
    skipped: list[Skipped] = []
    unchanged: list[BackupRange] = []
    for brange in ranges:
        bounds = brange.data_start_key, brange.data_end_key
        if brange.takes_all or written.meet(*bounds) or locked.meet(*bounds):
            read.append(brange)
        else:
            unchanged.append(brange)
            skipped.append(Skipped(brange.region.id, f"{UNCHANGED} {format_ts(start_ts)}"))
    return Changes(tuple(read), tuple(skipped), tuple(unchanged), tuple(unread))


FindChanges = Callable[[StoreAtHand, Sequence[BackupRange], int, int], Changes]
"""Does what `find_changes` does, wherever the store is."""


def find_changes_here(
    source: StoreAtHand, ranges: Sequence[BackupRange], start_ts: int, end_ts: int
) -> Changes:
    """See FindChanges: for stores of this machine."""
    assert isinstance(source, Source)
    return find_changes(source, ranges, start_ts, end_ts)


def without_unchanged(
    plan: Plan,
    source: StoreAtHand,
    start_ts: int,
    end_ts: int,
    find: FindChanges = find_changes_here,
) -> tuple[Plan, tuple[LiveFile, ...]]:
    """The plan without what `find_changes` skips, and the files to leave unread."""
    changes = find(source, plan.ranges, start_ts, end_ts)
    skipped = (*plan.skipped, *changes.skipped)
    plan = replace(plan, ranges=changes.ranges, skipped=skipped, unchanged=changes.unchanged)
    return plan, changes.unread


@dataclass(frozen=True, slots=True)
class _Properties:
    """What a file's properties say of its timestamps, and of deletions of RocksDB's own."""

    min_ts: int
    max_ts: int
    hides_nothing: bool

    def lies_outside(self, file: LiveFile, start_ts: int, end_ts: int) -> bool:
        """Whether all of the file's versions lie outside (start_ts, end_ts]."""
        if self.max_ts > start_ts and self.min_ts <= end_ts:
            return False
        ends = (file.smallest_key, file.largest_key)
        # Deletions need not count in the timestamps, nor be versions.
        return not self.hides_nothing or all(
            len(key) > TS_SIZE and self.min_ts <= decode_ts(key[-TS_SIZE:]) <= self.max_ts
            for key in ends
        )


def _read_properties(source: Source, file: LiveFile) -> _Properties | None:
    """The properties of a file, None where it has not all of them, whole."""
    try:
        with source.open_live(file) as reader:
            sst = SstReader(reader, file.name, ingested=True)
            properties = sst.properties
            has_range_deletions = RANGE_DELETIONS in sst.meta_blocks
    except (CorruptionError, StorageError):
        return None  # should it matter, reading the file will tell
    min_ts, max_ts = properties.user_u64(_MIN_TS), properties.user_u64(_MAX_TS)
    if min_ts is None or max_ts is None or min_ts > max_ts or properties.user_u64(_NUM_ERRORS):
        return None
    hides_nothing = (
        _DELETED_KEYS in properties.user
        and not properties.num_deletions
        and not properties.num_range_deletions
        and not properties.num_merge_operands
        and not has_range_deletions
    )
    return _Properties(min_ts, max_ts, hides_nothing)


class _Spans:
    """A set of key intervals [start, end), put together from any number of them."""

    def __init__(self, intervals: Iterable[tuple[bytes, bytes]]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        for start, end in sorted(intervals):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def meet(self, start: bytes, end: bytes) -> bool:
        """Whether any of them reaches into [start, end)."""
        last = bisect_left(self._starts, end) - 1
        return last >= 0 and self._ends[last] > start


def _spans_of(files: Iterable[LiveFile]) -> _Spans:
    return _Spans((file.smallest_key, _after(file.largest_key)) for file in files)


def _after(key: bytes) -> bytes:
    """The key that follows `key` immediately."""
    return key + b"\0"
