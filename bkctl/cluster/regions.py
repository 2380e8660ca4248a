"""The regions of the stores at hand, each with the store whose replica counts.

Regions of different epochs may overlap: of those the newest has the truth (`RegionMap.build`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import structs

from bkctl.cluster.choice import Choice
from bkctl.errors import CorruptionError
from bkctl.regions.check import NOT_LEADER
from bkctl.regions.local_state import parse_region_record, parse_region_state_key
from bkctl.regions.region import Region, RegionEpoch
from bkctl.regions.region_map import RegionMap, Skipped
from bkctl.store.ident import StoreIdent


class RecordSource(Protocol):
    """A store whose regions' records are at hand, wherever it is itself."""

    @property
    def ident(self) -> StoreIdent:
        """Who it is."""

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of its regions' states, as they are once its log is applied."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a region is not read though it is known; `kind` is one of `bkctl.errors.KINDS`."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ClusterRegions:
    """The regions, by id the number of the store to read each from, and what is wrong.

    Regions in `minority` have fewer than a majority of their voters at hand; they are refused
    unless that is allowed.
    """

    region_map: RegionMap
    skipped: tuple[Skipped, ...]
    numbers: dict[int, int]
    refused: dict[int, Refusal]
    minority: tuple[int, ...]


def cluster_regions(
    choices: dict[int, Choice], sources: Sequence[RecordSource], *, allow_minority: bool
) -> ClusterRegions:
    """Put together what was chosen; CorruptionError for a damaged record."""
    numbers = {
        choice.region_id: choice.best.number
        for choice in choices.values()
        if choice.best is not None and not choice.unfit
    }
    regions = list(_records(sources, numbers))
    found = {region.id for region in regions}
    skipped: list[Skipped] = []
    refused: dict[int, Refusal] = {}
    minority: list[int] = []
    for choice in choices.values():
        region_id, config = choice.region_id, choice.config
        if region_id not in found:
            keys = config.start_key, config.end_key
            if choice.is_troubled:
                regions.append(_region(choice))
                refused[region_id] = Refusal(CorruptionError.kind, choice.unfit)
            elif not config.is_gone:
                skipped.append(Skipped(region_id, choice.unfit, keys))
        elif not choice.has_majority:
            minority.append(region_id)
            if not allow_minority:
                refused[region_id] = Refusal(
                    NOT_LEADER,
                    f"{choice.lacking}: what is acknowledged cannot be known; give the other "
                    "stores' --db too, or take what is at hand with --allow-minority",
                )
    region_map = RegionMap.build(regions, "store")
    kept = {region.id for region in region_map.regions}
    return ClusterRegions(
        region_map,
        tuple(skipped),
        numbers,
        {region_id: why for region_id, why in refused.items() if region_id in kept},
        tuple(region_id for region_id in sorted(minority) if region_id in kept),
    )


def _records(sources: Sequence[RecordSource], numbers: dict[int, int]) -> Iterator[Region]:
    """The regions' records, each on the store that is chosen for it."""
    for number, source in enumerate(sources):
        for key, value in source.region_records():
            region_id = parse_region_state_key(key)
            if region_id is None or numbers.get(region_id) != number:
                continue
            region = parse_region_record(region_id, value)[1]
            own = region.peer_on(source.ident.store_id)
            yield structs.replace(region, leader=own) if len(sources) > 1 else region


def _region(choice: Choice) -> Region:
    config = choice.config
    epoch = RegionEpoch(config.conf_ver, config.version)
    return Region(choice.region_id, config.start_key, config.end_key, epoch)
