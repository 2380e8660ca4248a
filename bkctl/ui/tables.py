"""Plans and region maps as tables for people.

Laid out here rather than by a general table: a plan of a large store has tens of thousands of
ranges, which those take minutes for, and that of a cluster a million: it is printed in portions,
each of them as wide as it has to be, and no narrower than the ones above.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat, zip_longest

from bkctl.errors import CorruptionError
from bkctl.raft.standing import Completeness, Standing
from bkctl.regions.plan import BackupRange, Plan, to_raw_key, with_raw_keys
from bkctl.regions.region_map import Gap, Skipped
from bkctl.ui.human import format_count, format_size
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.output import Page

_MAX_LISTED = 10
_MIN_KEY_WIDTH = 12
_SPACE = "  "
# Rows that are laid out together.
_PORTION = 8192
_NO_WIDTHS: Mapping[str, int] = {}
_MIB = 1 << 20


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


@dataclass(frozen=True, slots=True)
class MapProblem:
    """Something wrong in a region map, with the keys it concerns as the map has them.

    `kind` is `overlap`, `duplicate`, `bad key` or `gap`; a gap has no region.
    """

    kind: str
    region_id: int | None
    keys: KeyRange
    reason: str

    def as_json(self) -> dict[str, object]:
        """The keys, and the region and the reason, which a gap has none of."""
        if self.region_id is None:
            return self.keys.as_json()
        return {"region_id": self.region_id, **self.keys.as_json(), "reason": self.reason}


class _Column:
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


def raw_gaps(gaps: Iterable[Gap], is_raw: bool) -> list[KeyRange]:
    """Gaps by raw user keys; CorruptionError for bounds that are not those of the mode."""
    return [
        KeyRange(to_raw_key(gap.start_key, is_raw), to_raw_key(gap.end_key, is_raw)) for gap in gaps
    ]


def print_plan(
    page: Page, plan: Plan, is_raw: bool, chosen: dict[int, tuple[int, str]] | None = None
) -> None:
    """Print a plan: its ranges, totals, the regions it leaves out, and its gaps.

    `chosen` are the ids of the stores that regions are read from, and why, by region.
    """
    columns: list[_Column] = []
    for first in range(0, len(plan.ranges), _PORTION):
        columns = _plan_columns(page, plan.ranges[first : first + _PORTION], chosen, columns)
        _print_columns(page, columns, has_head=first == 0)
    page.line(_totals(plan))
    _print_skipped(page, plan.skipped)
    _print_gaps(page, raw_gaps(plan.gaps, is_raw))


def _plan_columns(
    page: Page,
    ranges: Sequence[BackupRange],
    chosen: dict[int, tuple[int, str]] | None,
    above: Sequence[_Column],
) -> list[_Column]:
    """The columns of some ranges of a plan, as wide as those `above` at least."""
    least = {column.name: column.width for column in above}

    def column(name: str, lines: list[str], *, is_left: bool = False) -> _Column:
        return _Column(name, lines, is_left=is_left, least=least.get(name, 0))

    regions = [entry.region for entry in ranges]
    before = [
        column("region", [str(region.id) for region in regions]),
        column("epoch", [str(region.epoch.version) for region in regions]),
    ]
    behind = [
        column("size", [_size(region.approximate_size) for region in regions]),
        column("keys", [_count(region.approximate_keys) for region in regions]),
    ]
    if chosen is not None:
        told = [chosen.get(region.id, ("", "")) for region in regions]
        behind.append(column("store", [str(store_id) for store_id, _ in told]))
        behind.append(column("why", [why for _, why in told], is_left=True))
    keys = [KeyRange(start_key, end_key) for _, start_key, end_key in with_raw_keys(ranges)]
    width = _key_width(page, [*before, *behind])
    return [*before, *_key_columns(keys, width, least), *behind]


def print_standings(page: Page, standings: Sequence[Standing]) -> None:
    """Print where each region's replica stands, what is wrong with one below it."""
    if not standings:
        return
    words: list[tuple[str, Callable[[Standing], str]]] = [
        ("state", lambda each: each.state),
        ("role", lambda each: each.role),
        ("replica", lambda each: each.completeness.value),
    ]
    numbers: list[tuple[str, Callable[[Standing], object]]] = [
        ("epoch", lambda each: f"{each.conf_ver}:{each.version}"),
        ("applied", lambda each: each.applied),
        ("commit", lambda each: each.commit),
        ("last index", lambda each: each.last_index),
        ("last term", lambda each: each.last_term),
        ("term", lambda each: each.term),
        ("to apply", lambda each: format_size(each.size)),
        ("above", lambda each: each.above),
    ]
    columns = [_Column("region", [str(each.region_id) for each in standings])]
    columns += (_Column(name, list(map(of, standings)), is_left=True) for name, of in words)
    columns += (_Column(name, [str(of(each)) for each in standings]) for name, of in numbers)
    _print_columns(page, columns, [each.trouble for each in standings])
    page.line(standings_in_short(standings))


def standings_in_short(standings: Sequence[Standing]) -> str:
    """One line on what of the raft log was applied."""
    entries = sum(each.entries for each in standings)
    above = sum(each.above for each in standings)
    size = format_size(sum(each.size for each in standings))
    found = Counter(each.completeness.value for each in standings if not each.is_gone)
    return (
        f"raft log: {format_count(entries, 'entry', 'entries')} applied ({size}), {above:,} lie "
        f"above; replicas: "
        + ", ".join(f"{found[each.value]:,} {each.value}" for each in Completeness)
    )


def print_problems(page: Page, problems: Sequence[MapProblem], is_raw: bool) -> None:
    """Print what is wrong in a region map, the reason below each; nothing if nothing is."""
    if not problems:
        return
    before = [
        _Column("problem", [problem.kind for problem in problems], is_left=True),
        _Column("region", [str(problem.region_id or "") for problem in problems]),
    ]
    keys = [
        KeyRange(
            _shown_key(problem.keys.start_key, is_raw), _shown_key(problem.keys.end_key, is_raw)
        )
        for problem in problems
    ]
    columns = [*before, *_key_columns(keys, _key_width(page, before))]
    _print_columns(page, columns, [problem.reason for problem in problems])


def _print_columns(
    page: Page, columns: list[_Column], notes: Sequence[str] = (), *, has_head: bool = True
) -> None:
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


def _key_width(page: Page, others: Sequence[_Column]) -> int:
    """How wide each of two key columns may be beside the others."""
    taken = sum(column.width + len(_SPACE) for column in others)
    return max(_MIN_KEY_WIDTH, (page.width - taken - len(_SPACE)) // 2)


def _key_columns(
    keys: Sequence[KeyRange], width: int, least: Mapping[str, int] = _NO_WIDTHS
) -> list[_Column]:
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
) -> _Column:
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
    return _Column(name, lines, below=below, is_left=True, least=least.get(name, 0))


def _shown_key(encoded_key: bytes, is_raw: bool) -> bytes:
    """The raw key, or the bytes as they are where they decode to none."""
    try:
        return to_raw_key(encoded_key, is_raw)
    except CorruptionError:
        return encoded_key


def _print_skipped(page: Page, skipped: Sequence[Skipped]) -> None:
    """Print the regions that are left out, grouped by reason; nothing if there are none."""
    if not skipped:
        return
    by_reason: dict[str, list[int]] = {}
    for entry in skipped:
        by_reason.setdefault(entry.reason, []).append(entry.region_id)
    page.line(f"skipped: {format_count(len(skipped), 'region')}")
    groups = sorted(by_reason.items(), key=lambda group: -len(group[1]))
    for reason, region_ids in groups[:_MAX_LISTED]:
        page.line(f"  {reason}: {_listed(region_ids)}")
    _print_rest(page, len(groups) - _MAX_LISTED, "reason")


def _print_gaps(page: Page, gaps: Sequence[KeyRange]) -> None:
    """Print the raw keys that no region covers; nothing if there are none."""
    if not gaps:
        return
    page.line(f"gaps: {format_count(len(gaps), 'range')} of keys that no region covers")
    width = max(_MIN_KEY_WIDTH, (page.width - len("   to ")) // 2)
    for gap in gaps[:_MAX_LISTED]:
        start = shorten_middle(describe_key(gap.start_key, "(start)"), width)
        end = shorten_middle(describe_key(gap.end_key, "(end)"), width)
        page.line(f"  {start} to {end}")
    _print_rest(page, len(gaps) - _MAX_LISTED, "gap")


def _totals(plan: Plan) -> str:
    sizes = [entry.region.approximate_size for entry in plan.ranges]
    keys = [entry.region.approximate_keys for entry in plan.ranges]
    known_size = sum(size or 0 for size in sizes)
    known_keys = sum(count or 0 for count in keys)
    parts = [format_count(len(plan.ranges), "range")]
    if known_size:
        parts.append(f"{'over' if None in sizes else 'about'} {format_size(known_size * _MIB)}")
    if known_keys:
        parts.append(f"{'over' if None in keys else 'about'} {format_count(known_keys, 'key')}")
    return "total: " + ", ".join(parts)


@functools.lru_cache(maxsize=1 << 12)
def _size(mebibytes: int | None) -> str:
    return "" if mebibytes is None else format_size(mebibytes * _MIB)


def _count(count: int | None) -> str:
    return "" if count is None else format_count(count)


def _listed(region_ids: Sequence[int]) -> str:
    text = ", ".join(str(region_id) for region_id in region_ids[:_MAX_LISTED])
    more = len(region_ids) - _MAX_LISTED
    return f"{text} and {format_count(more)} more" if more > 0 else text


def _print_rest(page: Page, count: int, noun: str) -> None:
    if count > 0:
        page.line(
            f"  and {format_count(count)} more {noun}{'' if count == 1 else 's'} (see --json)"
        )
