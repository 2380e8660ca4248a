"""Tables laid out for people, in columns; those of keys in two lines.

Laid out here rather than by a general table: a plan of a large store has tens of thousands of
rows, which those take minutes for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat, zip_longest

from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.output import Page

MIN_KEY_WIDTH = 12
_SPACE = "  "
_NO_WIDTHS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys [start, end); an empty start is the first key, an empty end infinity."""

    start_key: bytes
    end_key: bytes

    def as_json(self) -> dict[str, object]:
        """Both keys as upper-case hexadecimal."""
        return {
            "start_key": self.start_key.hex().upper(),
            "end_key": self.end_key.hex().upper(),
        }


class Column:
    """A column of a table: a line a row, and for keys a second, dim one; `least` wide or wider."""

    def __init__(
        self,
        name: str,
        lines: list[str],
        *,
        below: list[str] | None = None,
        is_left: bool = False,
        least: int = 0,
    ) -> None:
        self.name, self._lines, self._below = name, lines, below
        self.width = max(least, len(name), *map(len, lines), *map(len, below or [""]))
        self._justify = str.ljust if is_left else str.rjust

    def head(self) -> str:
        """The name, padded."""
        return self._justify(self.name, self.width)

    def lines(self) -> Iterable[str]:
        """The rows' lines, padded."""
        justify, width = self._justify, self.width
        return [justify(line, width) for line in self._lines]

    def lines_below(self) -> Iterable[str]:
        """The rows' second lines, padded; spaces where there are none."""
        if self._below is None:
            return repeat(" " * self.width, len(self._lines))
        justify, width = self._justify, self.width
        return [justify(line, width) for line in self._below]


def print_columns(
    page: Page, columns: list[Column], notes: Sequence[str] = (), *, has_head: bool = True
) -> None:
    """Print rows, below each its note, if it has one; a head before them unless it is there."""
    if has_head:
        page.line(page.bold(_SPACE.join(column.head() for column in columns).rstrip()))
    lines = zip(*(column.lines() for column in columns), strict=True)
    lines_below = zip(*(column.lines_below() for column in columns), strict=True)
    for line, below, note in zip_longest(lines, lines_below, notes, fillvalue=""):
        page.line(_SPACE.join(line))
        if shown := _SPACE.join(below).rstrip():
            page.line(page.dim(shown))
        if note:
            page.line(f"{_SPACE}{note}")


def key_width(page: Page, others: Sequence[Column]) -> int:
    """How wide each of two key columns may be beside the others."""
    taken = sum(column.width + len(_SPACE) for column in others)
    return max(MIN_KEY_WIDTH, (page.width - taken - len(_SPACE)) // 2)


def key_columns(
    keys: Sequence[KeyRange], width: int, least: Mapping[str, int] = _NO_WIDTHS
) -> list[Column]:
    """Two columns for the start and end of each range, each at most `width` wide."""
    # Most keys stand twice: where one range ends and the next begins.
    known: dict[bytes, tuple[str, str]] = {}
    starts, ends = [entry.start_key for entry in keys], [entry.end_key for entry in keys]
    return [
        _key_column("start key", starts, "(start)", width, known, least),
        _key_column("end key", ends, "(end)", width, known, least),
    ]


def _key_column(
    name: str,
    raw_keys: list[bytes],
    when_empty: str,
    width: int,
    known: dict[bytes, tuple[str, str]],
    least: Mapping[str, int],
) -> Column:
    """Keys in two lines: readable, and in hexadecimal; each at most `width` columns wide."""
    lines, below = [], []
    for raw_key in raw_keys:
        both = known.get(raw_key)
        if both is None:
            both = known[raw_key] = (
                shorten_middle(describe_key(raw_key), width),
                shorten_middle(raw_key.hex().upper(), width),
            )
        lines.append(both[0] if raw_key else when_empty)
        below.append(both[1])
    return Column(name, lines, below=below, is_left=True, least=least.get(name, 0))
