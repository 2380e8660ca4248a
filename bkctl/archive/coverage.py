"""Sets of raw user keys, and which of them a backup covered: what chains are held together by.

A set is a row of intervals [start, end) in key order that neither overlap nor touch; an empty end
is infinity. A key that a backup covered in full needs nothing older; one that it covered from a
timestamp on needs a backup that covered it up to there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_Interval = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Raw user keys `[start_key, end_key)`; an empty end is infinity."""

    start_key: bytes
    end_key: bytes


@dataclass(frozen=True, slots=True)
class CoveredKeys:
    """Keys that a backup covered, from the TSO `start_ts` on; 0 is in full."""

    keys: KeyRange
    start_ts: int


@dataclass(frozen=True, slots=True)
class UncoveredKeys:
    """Keys that a backup was asked for and did not cover; the region (0: none) and why."""

    keys: KeyRange
    region_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """A set of raw user keys."""

    ranges: tuple[KeyRange, ...]

    @classmethod
    def of(cls, ranges: Iterable[KeyRange]) -> KeySet:
        """The keys of any ranges, which may overlap; those that hold nothing are passed over."""
        return cls(tuple(_ranges(_joined(sorted(_intervals(ranges), key=_start)))))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __or__(self, other: KeySet) -> KeySet:
        return KeySet.of((*self.ranges, *other.ranges))

    def __sub__(self, other: KeySet) -> KeySet:
        return KeySet(tuple(_ranges(_without(_intervals(self.ranges), other))))

    def __and__(self, other: KeySet) -> KeySet:
        return self - (self - other)

    def __contains__(self, raw_key: bytes) -> bool:
        return any(
            each.start_key <= raw_key and (not each.end_key or raw_key < each.end_key)
            for each in self.ranges
        )

    def __str__(self) -> str:
        """The first of its ranges, for a line of text."""
        shown = [f"[{_shown(r.start_key)}, {_shown(r.end_key)})" for r in self.ranges[:_SHOWN]]
        more = len(self.ranges) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


_SHOWN = 3
ALL_KEYS = KeySet((KeyRange(b"", b""),))
NO_KEYS = KeySet(())


def _start(interval: _Interval) -> bytes:
    return interval[0]


def _shown(raw_key: bytes) -> str:
    text = raw_key.hex().upper()
    return text if len(text) <= 40 else f"{text[:38]}…"


def _intervals(ranges: Iterable[KeyRange]) -> Iterator[_Interval]:
    for each in ranges:
        if not each.end_key or each.start_key < each.end_key:
            yield each.start_key, each.end_key or None


def _ranges(intervals: Iterable[_Interval]) -> Iterator[KeyRange]:
    for start, end in intervals:
        yield KeyRange(start, end or b"")


def _joined(intervals: Iterable[_Interval]) -> Iterator[_Interval]:
    """What intervals in order of their starts add up to."""
    current: _Interval | None = None
    for start, end in intervals:
        if current is None:
            current = start, end
        elif current[1] is None:
            break
        elif start <= current[1]:
            current = current[0], None if end is None else max(current[1], end)
        else:
            yield current
            current = start, end
    if current is not None:
        yield current


def _without(intervals: Iterable[_Interval], holes: KeySet) -> Iterator[_Interval]:
    """Disjoint intervals in order, without what lies in `holes`."""
    cuts = list(_intervals(holes.ranges))
    first = 0
    for begin, end in intervals:
        start: bytes | None = begin
        while first < len(cuts) and _is_by(cuts[first][1], begin):
            first += 1
        number = first
        while start is not None and number < len(cuts):
            cut_start, cut_end = cuts[number]
            if end is not None and cut_start >= end:
                break
            if start < cut_start:
                yield start, cut_start
            start = cut_end if cut_end is None else max(start, cut_end)
            number += 1
        if start is not None and (end is None or start < end):
            yield start, end


def _is_by(end: bytes | None, key: bytes) -> bool:
    return end is not None and end <= key
