"""Plans what a backup reads: the ranges, in which view, and the files of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import structs

from bkctl.archive.coverage import KeyRange
from bkctl.backup.changes import FindChanges, find_changes_here, without_unchanged
from bkctl.backup.cover import cover_of, split_by
from bkctl.backup.follow import Base
from bkctl.backup.job import ReadPlan, StoreReads
from bkctl.backup.parts import by_view
from bkctl.backup.request import BackupRequest
from bkctl.backup.run import RangeFailure
from bkctl.backup.standings import chosen_notes, find_troubles, replica_notes
from bkctl.backup.task import View
from bkctl.cluster.regions import ClusterRegions
from bkctl.cluster.stores import Stores
from bkctl.raft.at_hand import StoreAtHand
from bkctl.regions.check import Mismatch, find_mismatches
from bkctl.regions.plan import BackupRange, Plan, make_plan
from bkctl.regions.region_map import Origin, RegionMap, Skipped
from bkctl.store.families import BLOB_FAMILY


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the regions of a plan come from: a map, or what was chosen among the stores."""

    region_map: RegionMap
    skipped: tuple[Skipped, ...]
    chosen: ClusterRegions | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A plan, and what of it the stores are not to be read for.

    `notes` say how often it was made again, and by whose word.
    """

    regions: Regions
    plan: Plan
    refused: tuple[Mismatch, ...]
    notes: tuple[str, ...] = ()


def plan_regions(
    regions: Regions, window: tuple[bytes, bytes], store_id: int | None, *, is_raw: bool
) -> Plan:
    """The plan for a window of raw user keys; each range has the number of its store."""
    chosen = regions.chosen
    plan = make_plan(None if chosen else store_id, *window, regions.region_map, is_raw)
    ranges: Iterable[BackupRange] = plan.ranges
    if chosen is not None:
        ranges = (
            structs.replace(brange, view=chosen.numbers.get(brange.region.id, 0))
            for brange in ranges
        )
    return dataclasses.replace(
        plan, ranges=tuple(ranges), skipped=(*regions.skipped, *plan.skipped)
    )


def plan_reads(
    request: BackupRequest,
    stores: Stores,
    store_id: int,
    base: Base,
    found: Settled,
    find: FindChanges = find_changes_here,
) -> ReadPlan:
    """What to read of a plan: incrementally, only what `find` says can have changed since `base`.

    Ranges that the stores are not to be read for are refused: they are failures from the start.
    """
    regions, plan, window = found.regions, found.plan, (request.start_key, request.end_key)
    refused = tuple(RangeFailure(m.backup_range, m.kind, m.message) for m in found.refused)
    notes = [*_notes(regions.region_map.origin, stores.first), *found.notes]
    chosen = regions.chosen
    if stores.choices is not None and chosen is not None:
        replicas = chosen_notes(plan, stores.choices, stores.sources)
    else:
        replicas = replica_notes(plan, stores.standings, store_id or None)
    planned = {brange.region.id for brange in plan.ranges}
    minority = [] if chosen is None else [each for each in chosen.minority if each in planned]
    if request.kind == "incr":
        plan = split_by(plan, base.whole, request.has_plain_keys)
        if anew := sum(brange.takes_all for brange in plan.ranges):
            notes.append(f"{anew} ranges are taken in full, as {base.name} did not cover them")
    plan, reads = reads_of(plan, request, stores, store_id, find)
    keys = KeyRange(*window)
    cover = cover_of(plan, keys, request.start_ts, request.has_plain_keys)
    return ReadPlan(plan, reads, cover, refused, replicas, tuple(notes), tuple(minority))


def reads_of(
    plan: Plan,
    request: BackupRequest,
    stores: Stores,
    store_id: int,
    find: FindChanges = find_changes_here,
) -> tuple[Plan, tuple[StoreReads, ...]]:
    """The plan without what cannot have changed, and what is read of each store."""
    families = (request.family,) if request.is_raw else ("write", "default")
    is_short = request.kind == "incr" and not request.read_all and not request.is_raw
    parts: list[Plan] = []
    reads: list[StoreReads] = []
    for source, own in zip(stores.sources, by_view(plan.ranges, len(stores.sources)), strict=True):
        part = dataclasses.replace(plan, ranges=tuple(own), skipped=())
        files = [file for file in source.live_files() if file.family in families]
        db_dir = source.db_dir
        if is_short:
            part, unread = without_unchanged(part, source, request.start_ts, request.end_ts, find)
            left_out = set(unread)
            files = [file for file in files if file not in left_out]
            db_dir = source.without(unread) if unread else db_dir
        own_id = source.ident.store_id if len(stores.sources) > 1 else store_id
        parts.append(part)
        blobs = source.blob_files if BLOB_FAMILY in families else ()
        view = View(db_dir, source.path, own_id, source.db_dir, source.place)
        reads.append(StoreReads(view, files, blobs))
    return _joined(plan, parts), tuple(reads)


def plan_changes(plan: Plan, stores: Stores, start_ts: int, end_ts: int) -> Plan:
    """The plan without what cannot have changed in a window of timestamps."""
    parts = []
    for source, own in zip(stores.sources, by_view(plan.ranges, len(stores.sources)), strict=True):
        part = dataclasses.replace(plan, ranges=tuple(own), skipped=())
        parts.append(without_unchanged(part, source, start_ts, end_ts)[0])
    return _joined(plan, parts)


def _joined(plan: Plan, parts: list[Plan]) -> Plan:
    ranges = [brange for part in parts for brange in part.ranges]
    unchanged = [brange for part in parts for brange in part.unchanged]
    ranges.sort(key=lambda brange: brange.start_key)
    unchanged.sort(key=lambda brange: brange.start_key)
    skipped = [each for part in parts for each in part.skipped]
    return dataclasses.replace(
        plan,
        ranges=tuple(ranges),
        skipped=(*plan.skipped, *skipped),
        unchanged=tuple(unchanged),
    )


def find_refused(
    plan: Plan, regions: Regions, stores: Stores, store_id: int | None
) -> list[Mismatch]:
    """The ranges that the stores are not to be read for, each once.

    Their own records say something else than the map, their raft log cannot be applied, or too few
    of a region's voters are at hand.
    """
    if regions.chosen is not None:
        refused = regions.chosen.refused
        return [
            Mismatch(brange, why.kind, why.message)
            for brange in plan.ranges
            if (why := refused.get(brange.region.id)) is not None
        ]
    source = stores.first
    found = find_troubles(plan, source.standings)
    if regions.region_map.origin == "pd" and source.has_region_records():
        found += find_mismatches(plan.ranges, source.region_records(), store_id)
    first = {mismatch.backup_range.start_key: mismatch for mismatch in reversed(found)}
    return [first[key] for key in sorted(first)]


def _notes(origin: Origin, source: StoreAtHand) -> list[str]:
    if source.is_log_ignored:
        return [
            "the raft log was not read (--raft-log ignore): acknowledged writes that were not "
            "applied yet are missing"
        ]
    if origin != "none" or not source.has_region_records():
        return []
    return [
        "without a region map, nothing tells of which regions this store has all there is: "
        "what other stores lead, or it has not applied yet, may be missing"
    ]
