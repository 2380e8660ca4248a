"""What `bkctl regions` shows of several stores: the cluster's regions, or all their replicas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.coverage import KeyRange, KeySet
from bkctl.ui.output import Page, Rows, print_json_lists
from bkctl.ui.tables import ClusterRow, print_cluster

if TYPE_CHECKING:
    from bkctl.cluster.stores import Stores
    from bkctl.raft.standing import Standing
    from bkctl.regions.region import Region
    from bkctl.regions.region_map import Skipped

_COLUMNS = (
    *("region_id", "conf_ver", "version", "start_key", "end_key"),
    *("store_id", "why", "majority", "lacking"),
)
_REFUSED = ("region_id", "kind", "message")
_SKIPPED = ("region_id", "reason", "start_key", "end_key")


@dataclass(frozen=True, slots=True)
class Shown:
    """The cluster's regions in key order, those left out, and the encoded keys that nobody has."""

    rows: tuple[ClusterRow, ...]
    skipped: tuple[Skipped, ...]
    gaps: tuple[KeyRange, ...]


def cluster_of(stores: Stores) -> Shown:
    """The regions that were chosen among stores, each once.

    A region without a replica that could be read is skipped: its keys are no gap.
    """
    chosen, choices = stores.regions, stores.choices
    assert chosen is not None
    assert choices is not None
    region_map = chosen.region_map
    rows = []
    for region in region_map.regions:
        choice, refusal = choices[region.id], chosen.refused.get(region.id)
        number = chosen.numbers.get(region.id)
        rows.append(
            ClusterRow(
                region,
                None if number is None else stores.sources[number].ident.store_id,
                choice.why if number is not None else "",
                choice.lacking,
                None if refusal is None else (refusal.kind, refusal.message),
            )
        )
    known = (KeyRange(*each.keys) for each in chosen.skipped if each.keys is not None)
    gaps = (KeyRange(gap.start_key, gap.end_key) for gap in region_map.gaps(b"", b""))
    left = KeySet.of(gaps) - KeySet.of(known)
    return Shown(tuple(rows), (*chosen.skipped, *region_map.skipped), left.ranges)


def show_cluster(shown: Shown, *, is_raw: bool, as_json: bool) -> None:
    """Print them; `is_raw` is for people, JSON has the keys as they are encoded."""
    if as_json:
        print_json_lists(_lists(shown))
    else:
        gaps = [(gap.start_key, gap.end_key) for gap in shown.gaps]
        print_cluster(Page.of_stdout(), shown.rows, shown.skipped, gaps, is_raw=is_raw)


def _lists(shown: Shown) -> Iterator[tuple[str, Rows]]:
    yield "regions", Rows(_COLUMNS, map(_entry, shown.rows))
    refused = ((row.region.id, *row.refusal) for row in shown.rows if row.refusal is not None)
    yield "refused", Rows(_REFUSED, refused)
    yield "skipped", Rows(_SKIPPED, map(_skipped_entry, shown.skipped))
    gaps = ((_hex(gap.start_key), _hex(gap.end_key)) for gap in shown.gaps)
    yield "gaps", Rows(("start_key", "end_key"), gaps)


def _entry(row: ClusterRow) -> tuple[int | str | None, ...]:
    region: Region = row.region
    return (
        *(region.id, region.epoch.conf_ver, region.epoch.version),
        *(_hex(region.start_key), _hex(region.end_key)),
        *(row.store_id, row.why or None, not row.lacking, row.lacking or None),
    )


def _skipped_entry(each: Skipped) -> tuple[int | str | None, ...]:
    start_key, end_key = (None, None) if each.keys is None else map(_hex, each.keys)
    return each.region_id, each.reason, start_key, end_key


def _hex(key: bytes) -> str:
    return key.hex().upper()


def replicas_of(stores: Stores) -> list[tuple[int, Standing, bool]]:
    """Each replica on each store: the store's id, where it stands, and whether it was chosen.

    In the order of keys, then regions, then stores. Nothing is chosen of a region that is skipped.
    """
    numbers = {} if stores.regions is None else stores.regions.numbers
    found = [
        (source.ident.store_id, standing, numbers.get(standing.region_id) == number)
        for number, source in enumerate(stores.sources)
        for standing in source.standings
    ]
    found.sort(key=lambda each: (each[1].start_key, each[1].region_id, each[0]))
    return found
