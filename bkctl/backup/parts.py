"""Ranges done in parts: what is left of them, and how many are whole.

Parts come from cutting large ranges, or from an earlier run that cut them elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace

from bkctl.archive.checkpoint import FinishedRange
from bkctl.regions.plan import BackupRange, to_data_bounds

_Range = TypeVar("_Range", bound=BackupRange)

Span = tuple[bytes, bytes]
"""Data keys [start, end)."""


def span_of(backup_range: BackupRange) -> Span:
    """The data keys of a range."""
    return backup_range.data_start_key, backup_range.data_end_key


def finished_span(record: FinishedRange, is_raw: bool) -> Span:
    """The data keys of a range that an earlier run finished."""
    return to_data_bounds(record.start_key, record.end_key, is_raw)


def by_view(ranges: Iterable[BackupRange], stores: int) -> list[list[BackupRange]]:
    """The ranges that are read from each store, by its number; in their order."""
    own: list[list[BackupRange]] = [[] for _ in range(stores)]
    for brange in ranges:
        own[brange.view].append(brange)
    return own


def whole_of(span: Span, ranges: Sequence[BackupRange]) -> BackupRange | None:
    """The one of `ranges` (in key order) that `span` lies in, if there is one."""
    number = bisect_right(ranges, span[0], key=lambda brange: brange.data_start_key) - 1
    if number < 0:
        return None
    start, end = span_of(ranges[number])
    return ranges[number] if start <= span[0] < span[1] <= end else None


def left_of(ranges: Iterable[_Range], spans: Iterable[Span]) -> Iterator[_Range]:
    """What is left of `ranges` without `spans`, each of which lies in one of them, in key order."""
    in_order = sorted(spans)
    number = 0
    for brange in ranges:
        start, end = span_of(brange)
        while number < len(in_order) and in_order[number][1] <= end:
            done_start, done_end = in_order[number]
            if start < done_start:
                yield _part(brange, start, done_start)
            start = max(start, done_end)
            number += 1
        if start < end:
            yield _part(brange, start, end)


def count_whole(ranges: Sequence[BackupRange], spans: Iterable[Span]) -> int:
    """How many of `ranges` are covered by `spans`, each of which lies in one of them."""
    return len(ranges) - len({span_of(whole) for whole in _not_whole(ranges, spans)})


def _not_whole(ranges: Sequence[BackupRange], spans: Iterable[Span]) -> Iterator[BackupRange]:
    for part in left_of(ranges, spans):
        if (whole := whole_of(span_of(part), ranges)) is not None:
            yield whole


def _part(brange: _Range, start: bytes, end: bytes) -> _Range:
    if start != brange.data_start_key:
        brange = replace(brange, start_key=start[1:])
    if end != brange.data_end_key:
        brange = replace(brange, end_key=end[1:])
    return brange
