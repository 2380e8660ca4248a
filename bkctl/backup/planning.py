"""Plans what a backup reads: the ranges, in which view, and the files of it."""

from __future__ import annotations

import dataclasses

from bkctl.backup.changes import without_unchanged
from bkctl.backup.job import ReadPlan
from bkctl.backup.request import BackupRequest
from bkctl.regions.plan import make_plan
from bkctl.store.source import Source


def plan_reads(request: BackupRequest, source: Source, store_id: int) -> ReadPlan:
    """What to read: for an incremental backup, only what can have changed."""
    region_map, passed_over = request.load_regions(source)
    plan = make_plan(
        store_id or None, request.start_key, request.end_key, region_map, request.is_raw
    )
    plan = dataclasses.replace(plan, skipped=(*passed_over, *plan.skipped))
    families = (request.family,) if request.is_raw else ("write", "default")
    files = [file for file in source.live_files() if file.family in families]
    if request.kind != "incr" or request.read_all:
        return ReadPlan(plan, source.db_dir, files)
    plan, unread = without_unchanged(plan, source, request.start_ts, request.end_ts)
    if not unread:
        return ReadPlan(plan, source.db_dir, files)
    left_out = set(unread)
    read = [file for file in files if file not in left_out]
    return ReadPlan(plan, source.without(unread), read)
