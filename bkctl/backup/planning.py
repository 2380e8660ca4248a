"""Plans what a backup reads: the ranges, in which view, and the files of it."""

from __future__ import annotations

import dataclasses

from bkctl.archive.coverage import KeyRange
from bkctl.backup.changes import without_unchanged
from bkctl.backup.cover import cover_of, split_by
from bkctl.backup.follow import Base
from bkctl.backup.job import ReadPlan
from bkctl.backup.request import BackupRequest
from bkctl.backup.run import RangeFailure
from bkctl.backup.standings import find_troubles, replica_notes
from bkctl.raft.source import RaftSource
from bkctl.regions.check import Mismatch, find_mismatches
from bkctl.regions.plan import Plan, make_plan
from bkctl.regions.region_map import Origin


def plan_reads(request: BackupRequest, source: RaftSource, store_id: int, base: Base) -> ReadPlan:
    """What to read: for an incremental backup, only what can have changed since `base`.

    Ranges that the store is not to be read for are refused: they are failures from the start.
    """
    region_map, passed_over = request.load_regions(source)
    plan = make_plan(
        store_id or None, request.start_key, request.end_key, region_map, request.has_plain_keys
    )
    plan = dataclasses.replace(plan, skipped=(*passed_over, *plan.skipped))
    mismatches = find_refused(plan, region_map.origin, source, store_id or None)
    refused = tuple(RangeFailure(m.backup_range, m.kind, m.message) for m in mismatches)
    notes = _notes(region_map.origin, source)
    replicas = replica_notes(plan, source.standings, store_id or None)
    families = (request.family,) if request.is_raw else ("write", "default")
    files = [file for file in source.live_files() if file.family in families]
    db_dir = source.db_dir
    if request.kind == "incr":
        plan = split_by(plan, base.whole, request.has_plain_keys)
        if anew := sum(brange.takes_all for brange in plan.ranges):
            notes.append(f"{anew} ranges are taken in full, as {base.name} did not cover them")
        if not request.read_all and not request.is_raw:
            plan, unread = without_unchanged(plan, source, request.start_ts, request.end_ts)
            left_out = set(unread)
            files = [file for file in files if file not in left_out]
            db_dir = source.without(unread) if unread else db_dir
    window = KeyRange(request.start_key, request.end_key)
    cover = cover_of(plan, window, request.start_ts, request.has_plain_keys)
    return ReadPlan(plan, db_dir, files, cover, refused, replicas, tuple(notes))


def find_refused(
    plan: Plan, origin: Origin, source: RaftSource, store_id: int | None
) -> list[Mismatch]:
    """The ranges that the store is not to be read for, each once.

    Its own records say something else than the map, or its raft log cannot be applied.
    """
    found = find_troubles(plan, source.standings)
    if origin == "pd" and source.has_region_records():
        found += find_mismatches(plan.ranges, source.region_records(), store_id)
    first = {mismatch.backup_range.start_key: mismatch for mismatch in reversed(found)}
    return [first[key] for key in sorted(first)]


def _notes(origin: Origin, source: RaftSource) -> list[str]:
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
