"""What the log holds of one region: its values, and in which batches its entries lie.

Entries are kept as runs: those of one region in one batch that follow one another. A run is two
numbers, the index it begins with and its place (`place_of`: which file, where in it its batch
begins), and reaches up to the next one. So memory goes with the number of batches that hold entries
still wanted, and an entry's own place is read from its batch when it is asked for.

Source: raft-engine's src/memtable.rs, MemTable.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

RAFT_STATE_KEY = b"R"
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
# Runs that are gone are dropped from the arrays once they are as many, and half of all.
_GARBAGE = 32


class HoleError(Exception):
    """Entries that do not follow those before them: some between were lost."""


def place_of(slot: int, offset: int) -> int:
    """A batch's place: the number of its file in the list of files, and its offset there."""
    return slot << _OFFSET_BITS | offset


def split_place(place: int) -> tuple[int, int]:
    """(number of the file, offset) of a place."""
    return place >> _OFFSET_BITS, place & _OFFSET_MASK


class RegionTable:
    """A region's entries, from `first` up to before `end`, and its values."""

    __slots__ = (
        "_compacted",
        "_gone",
        "_keep",
        "_keeps_compacted",
        "_region_id",
        "_values",
        "end",
        "first",
        "places",
        "raft_state",
        "starts",
    )

    def __init__(
        self, region_id: int, keep: int | None = None, *, keeps_compacted: bool = True
    ) -> None:
        """An empty one, of `region_id`.

        Entries from `keep` on are kept, with `keeps_compacted` even those that are compacted, and
        no others but for the last run's. None keeps what is not compacted.
        """
        self._region_id = region_id
        self._keep, self._keeps_compacted = keep, keeps_compacted
        self._compacted = 0
        self._gone = 0
        self._values: dict[bytes, bytes] | None = None
        self.raft_state: bytes | None = None
        self.first = self.end = 0
        self.starts, self.places = array("Q"), array("Q")

    def trim(self) -> None:
        """Drop what is left of runs that are gone: `starts` and `places` are all wanted then."""
        del self.starts[: self._gone], self.places[: self._gone]
        self._gone = 0

    def is_empty(self) -> bool:
        """Whether it has neither entries nor values."""
        return self.first == self.end and self.raft_state is None and not self._values

    def append(self, first: int, count: int, place: int, *, hole_ok: bool) -> None:
        """Entries `[first, first + count)` are in the batch at `place`; those from `first` on go.

        Where entries between the last one and `first` are missing, all before go; HoleError unless
        `hole_ok`.
        """
        places, keep = self.places, self._keep
        if keep is not None and first + count <= keep and first == self.end and len(places) == 1:
            # As most are where little is wanted: in place of the last ones.
            self.starts[0], places[0] = first, place
            self.first, self.end = first, first + count
            return
        self._make_room(first, hole_ok)
        if not places or places[-1] != place:
            self.starts.append(first)
            places.append(place)
        self.end = first + count
        self._thin()

    def compact(self, index: int, *, all_of_them: bool = False) -> None:
        """Entries below `index` go, `all_of_them` or as far as they need not be kept."""
        if self.first == self.end:
            return
        self._compacted = max(self._compacted, index)
        keeps = self._keep is not None and self._keeps_compacted and not all_of_them
        if keeps and index <= self.end:
            assert self._keep is not None
            index = min(index, self._keep)
        self._drop(index)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value."""
        if key == RAFT_STATE_KEY:
            self.raft_state = value
        elif self._values is None:
            self._values = {key: value}
        else:
            self._values[key] = value

    def delete(self, key: bytes) -> None:
        """Drop a value, if it is there."""
        if key == RAFT_STATE_KEY:
            self.raft_state = None
        elif self._values is not None:
            self._values.pop(key, None)

    def get(self, key: bytes) -> bytes | None:
        """A value, or None."""
        if key == RAFT_STATE_KEY:
            return self.raft_state
        return None if self._values is None else self._values.get(key)

    def overlay(self, newer: RegionTable) -> None:
        """Put what the append queue holds, `newer`, over what the rewrite queue holds."""
        if newer.first != newer.end:
            self._make_room(newer.first, hole_ok=True)
            for start, _, place in newer.runs(newer.first, newer.end):
                self.starts.append(start)
                self.places.append(place)
            self.end = newer.end
            self._compacted = max(self._compacted, newer._compacted)
            self._thin()
        if newer.raft_state is not None:
            self.raft_state = newer.raft_state
        for key, value in (newer._values or {}).items():
            self.put(key, value)

    def runs(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """(first index, index behind the last, place) of the runs that make up `[low, high)`."""
        run = bisect_right(self.starts, low, self._gone) - 1
        while low < high:
            behind = self.starts[run + 1] if run + 1 < len(self.starts) else self.end
            yield low, min(high, behind), self.places[run]
            low, run = behind, run + 1

    def _make_room(self, first: int, hole_ok: bool) -> None:
        """Drop what entries from `first` on replace, or cannot follow."""
        if first == self.end != self.first:
            return
        if self.first == self.end or first < self.first:
            self._clear(first)
        elif first > self.end:
            # All may have been compacted, and be kept still.
            if not hole_ok and self._compacted < self.end:
                raise HoleError(
                    f"entries of region {self._region_id} go on at {first}, and the last before "
                    f"them is {self.end - 1}"
                )
            self._clear(first)
        else:
            cut = bisect_left(self.starts, first, self._gone)
            del self.starts[cut:], self.places[cut:]
            self._compacted = min(self._compacted, first)

    def _clear(self, first: int) -> None:
        self.first = self.end = first
        self._compacted = self._gone = 0
        del self.starts[:], self.places[:]

    def _thin(self) -> None:
        keep = self._keep
        if keep is not None and self.first < keep:
            self._drop(min(keep, self.starts[-1]))

    def _drop(self, index: int) -> None:
        """Entries below `index` go."""
        if index <= self.first:
            return
        if index >= self.end:
            self._clear(self.end)
            return
        self.first = index
        self._gone = bisect_right(self.starts, index, self._gone) - 1
        if self._gone >= _GARBAGE and self._gone * 2 >= len(self.starts):
            self.trim()
