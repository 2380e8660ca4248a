"""Shares keys out among ranges that may overlap: each key goes to the first range that has it.

One walk along the keys, as a plan may leave out a million regions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise

from bkctl.archive.coverage import KeyRange, KeySet

# A place among the keys; infinity is behind all of them.
_Place = tuple[bool, bytes]


def share_out(keys: KeySet, ranges: Sequence[KeyRange]) -> Iterator[tuple[KeyRange, int]]:
    """The parts of `keys` that lie in `ranges`, each with the number of the first that has it.

    In key order. An empty end is infinity; ranges that hold nothing get nothing.
    """
    parts = iter(keys.ranges)
    part = next(parts, None)
    for start, end, number in _pieces(ranges):
        while part is not None and _end(part) <= start:
            part = next(parts, None)
        while part is not None and (False, part.start_key) < end:
            cut = min(end, _end(part))
            yield KeyRange(max(start[1], part.start_key), b"" if cut[0] else cut[1]), number
            if _end(part) > end:
                break
            part = next(parts, None)


def _pieces(ranges: Sequence[KeyRange]) -> Iterator[tuple[_Place, _Place, int]]:
    """Disjoint pieces in key order that the ranges are cut into, each of the first one there."""
    bounds = [((False, each.start_key), _end(each)) for each in ranges]
    order = sorted(
        (number for number, (start, end) in enumerate(bounds) if start < end),
        key=lambda number: bounds[number][0],
    )
    places = sorted({place for number in order for place in bounds[number]})
    open_ranges: list[int] = []
    position = 0
    piece: tuple[_Place, _Place, int] | None = None
    for place, behind in pairwise(places):
        while position < len(order) and bounds[order[position]][0] == place:
            heapq.heappush(open_ranges, order[position])
            position += 1
        while open_ranges and bounds[open_ranges[0]][1] <= place:
            heapq.heappop(open_ranges)
        number = open_ranges[0] if open_ranges else -1
        if piece is not None and piece[1:] == (place, number):
            piece = piece[0], behind, number
            continue
        if piece is not None:
            yield piece
        piece = (place, behind, number) if number >= 0 else None
    if piece is not None:
        yield piece


def _end(keys: KeyRange) -> _Place:
    return not keys.end_key, keys.end_key
