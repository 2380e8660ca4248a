"""Plans and region maps as tables for people.

A plan of a cluster may have a million ranges: it is printed in portions, each of them as wide as it
has to be, and no narrower than the ones above.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bkctl.errors import CorruptionError
from bkctl.raft.standing import Completeness, Standing
from bkctl.regions.plan import BackupRange, Plan, to_raw_key, with_raw_keys
from bkctl.regions.region import Region
from bkctl.regions.region_map import Gap, Skipped
from bkctl.ui.columns import (
    MIN_KEY_WIDTH,
    Column,
    key_columns,
    key_width,
    print_columns,
)
from bkctl.ui.columns import KeyRange as KeyRange
from bkctl.ui.human import format_count, format_size
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.output import Page

_MAX_LISTED = 10
# Rows that are laid out together.
_PORTION = 8192
_MIB = 1 << 20


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


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A region of several stores: the id of the one it is read from, and why.

    `lacking` says which voters are missing for a majority, `refusal` of which kind of error it is
    that the region is not read, and why.
    """

    region: Region
    store_id: int | None
    why: str
    lacking: str
    refusal: tuple[str, str] | None


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
    columns: list[Column] = []
    for first in range(0, len(plan.ranges), _PORTION):
        columns = _plan_columns(page, plan.ranges[first : first + _PORTION], chosen, columns)
        print_columns(page, columns, has_head=first == 0)
    page.line(_totals(plan))
    _print_skipped(page, plan.skipped)
    _print_gaps(page, raw_gaps(plan.gaps, is_raw))


def _plan_columns(
    page: Page,
    ranges: Sequence[BackupRange],
    chosen: dict[int, tuple[int, str]] | None,
    above: Sequence[Column],
) -> list[Column]:
    """The columns of some ranges of a plan, as wide as those `above` at least."""
    least = {column.name: column.width for column in above}

    def column(name: str, lines: list[str], *, is_left: bool = False) -> Column:
        return Column(name, lines, is_left=is_left, least=least.get(name, 0))

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
    width = key_width(page, [*before, *behind])
    return [*before, *key_columns(keys, width, least), *behind]


def print_cluster(
    page: Page,
    rows: Sequence[ClusterRow],
    skipped: Sequence[Skipped],
    gaps: Sequence[tuple[bytes, bytes]],
    *,
    is_raw: bool,
) -> None:
    """Print the regions of several stores, why one is not read below it, and what has none.

    Keys are given as they are encoded, and shown as they are where they decode to none.
    """
    columns: list[Column] = []
    for first in range(0, len(rows), _PORTION):
        portion = rows[first : first + _PORTION]
        columns = _cluster_columns(page, portion, columns, is_raw)
        notes = [_cluster_note(row) for row in portion]
        print_columns(page, columns, notes, has_head=first == 0)
    refused = sum(row.refusal is not None for row in rows)
    minority = sum(bool(row.lacking) for row in rows)
    page.line(
        f"total: {format_count(len(rows), 'region')}, {refused:,} refused, {minority:,} without a "
        "majority of voters at hand"
    )
    _print_skipped(page, skipped)
    _print_gaps(page, [KeyRange(*(_shown_key(key, is_raw) for key in gap)) for gap in gaps])


def _cluster_note(row: ClusterRow) -> str:
    if row.refusal is None:
        return row.lacking
    return f"{row.refusal[0]}: {row.refusal[1]}"


def _cluster_columns(
    page: Page, rows: Sequence[ClusterRow], above: Sequence[Column], is_raw: bool
) -> list[Column]:
    least = {column.name: column.width for column in above}

    def column(name: str, lines: list[str], *, is_left: bool = False) -> Column:
        return Column(name, lines, is_left=is_left, least=least.get(name, 0))

    epochs = [row.region.epoch for row in rows]
    before = [
        column("region", [str(row.region.id) for row in rows]),
        column("epoch", [f"{epoch.conf_ver}:{epoch.version}" for epoch in epochs]),
    ]
    behind = [
        column("store", [_text(row.store_id) for row in rows]),
        column("majority", ["no" if row.lacking else "yes" for row in rows], is_left=True),
        column("why", [row.why for row in rows], is_left=True),
    ]
    keys = [
        KeyRange(_shown_key(row.region.start_key, is_raw), _shown_key(row.region.end_key, is_raw))
        for row in rows
    ]
    width = key_width(page, [*before, *behind])
    return [*before, *key_columns(keys, width, least), *behind]


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def print_standings(
    page: Page,
    standings: Sequence[Standing],
    stores: Sequence[tuple[int, bool]] | None = None,
) -> None:
    """Print where each region's replica stands, what is wrong with one below it.

    Of several stores, `stores` has the id of each replica's, and whether the region is read there.
    """
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
    columns = [Column("region", [str(each.region_id) for each in standings])]
    if stores is not None:
        columns.append(Column("store", [str(store_id) for store_id, _ in stores]))
        chosen = ["chosen" if is_chosen else "" for _, is_chosen in stores]
        columns.append(Column("read", chosen, is_left=True))
    columns += (Column(name, list(map(of, standings)), is_left=True) for name, of in words)
    columns += (Column(name, [str(of(each)) for each in standings]) for name, of in numbers)
    print_columns(page, columns, [each.trouble for each in standings])
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
        Column("problem", [problem.kind for problem in problems], is_left=True),
        Column("region", [str(problem.region_id or "") for problem in problems]),
    ]
    keys = [
        KeyRange(
            _shown_key(problem.keys.start_key, is_raw), _shown_key(problem.keys.end_key, is_raw)
        )
        for problem in problems
    ]
    columns = [*before, *key_columns(keys, key_width(page, before))]
    print_columns(page, columns, [problem.reason for problem in problems])


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
    width = max(MIN_KEY_WIDTH, (page.width - len("   to ")) // 2)
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
