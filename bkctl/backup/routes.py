"""Which store counts for which keys, for workers that have to look a key up: a file of lines.

    start key, end key (raw user keys, hexadecimal; an empty end is infinity), the view's number

Sorted by the start key, without overlaps. It is as large as the plan, and so not in the task.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

from bkctl.regions.plan import BackupRange

NAME = "routes"


def encode_routes(ranges: Iterable[BackupRange]) -> Iterator[bytes]:
    """The lines of the file for a plan's ranges."""
    for brange in sorted(ranges, key=lambda brange: brange.raw_start_key):
        start, end = brange.raw_start_key.hex(), brange.raw_end_key.hex()
        yield f"{start},{end},{brange.view}\n".encode("ascii")


class Routes:
    """Such a file, read."""

    def __init__(self, path: Path) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        self._views: list[int] = []
        with path.open(encoding="ascii") as file:
            for line in file:
                start, end, view = line.split(",")
                self._starts.append(bytes.fromhex(start))
                self._ends.append(bytes.fromhex(end))
                self._views.append(int(view))

    def view_of(self, raw_key: bytes) -> int | None:
        """The number of the view to look a key up in; None if no range has it."""
        number = bisect_right(self._starts, raw_key) - 1
        if number < 0 or (self._ends[number] and raw_key >= self._ends[number]):
            return None
        return self._views[number]
