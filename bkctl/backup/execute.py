"""Runs a plan on the workers, what was finished before left out, and once more where locks were."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bkctl.backup.balance import balance
from bkctl.backup.job import Claimed, Crew, Job, ReadPlan
from bkctl.backup.parts import left_of, span_of, whole_of
from bkctl.backup.planning import plan_reads
from bkctl.backup.run import BackupRun, FairShares, RangeFailure, RunResult
from bkctl.backup.task import BackupTask
from bkctl.backup.wait import wait_for_locks
from bkctl.files.trees import remove_folder
from bkctl.folders import PrivateFolder
from bkctl.raft.source import open_source
from bkctl.regions.plan import BackupRange, Plan
from bkctl.storage.limit import RateLimit


def run_plan(job: Job, read: ReadPlan, claimed: Claimed, crew: Crew) -> RunResult:
    """Back up what is left of the plan; errors of single ranges are in the result.

    The workers end with it.
    """
    request = job.request
    job.source.rest()
    with _staging(job) as staging:
        task = _task(job, read, staging)
        left = left_of(read.ranges, claimed.spans(request.has_plain_keys))
        result = _run(job, task, balance(left, read.files, request.jobs, request.part_size), crew)
        if request.wait_locks is not None:
            again = _Again(job, task, crew)
            result = wait_for_locks(result, request.wait_locks, again, crew.is_cancelled)
        crew.pool.dismiss()
    result.failures += read.refused
    return result


@contextlib.contextmanager
def _staging(job: Job) -> Iterator[Path]:
    """Where files are made: beside their destination, or in a folder of our own."""
    given = job.storage.staging_dir(job.name)
    if given is None:
        with PrivateFolder("bkctl-staging-", job.request.source.work_dir) as folder:
            yield folder
        return
    try:
        yield given
    finally:
        remove_folder(given)


def _task(job: Job, read: ReadPlan, staging: Path) -> BackupTask:
    request, source = job.request, job.source
    storage = request.storage
    if request.rate_limit is not None:
        limit = RateLimit(request.rate_limit, source.db_dir.parent / "rate-limit")
        storage = dataclasses.replace(storage, rate_limit=limit)
    return BackupTask(
        db_dir=read.db_dir,
        source=source.path,
        store_id=job.store_id,
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        is_raw=request.is_raw,
        family=request.family,
        compression=request.compression,
        sst_max_size=request.sst_max_size,
        storage=storage,
        name=job.name,
        staging=staging,
        deciding_dir=source.db_dir if request.resolve_locks else None,
        cipher=request.cipher,
        api_version=source.ident.api_version,
    )


def _run(job: Job, task: BackupTask, ranges: Sequence[BackupRange], crew: Crew) -> RunResult:
    jobs = max(1, min(job.request.jobs, len(ranges)))
    crew.pool.adjust_with(jobs)
    known = [brange.region.approximate_keys for brange in ranges]
    keys = None if None in known or not known else sum(count or 0 for count in known)
    crew.listener.started(len(ranges), keys, jobs)
    try:
        return BackupRun(
            crew.pool,
            task,
            FairShares(ranges, jobs),
            crew.listener,
            batch_size=job.request.batch_size,
            is_cancelled=crew.is_cancelled,
        ).run()
    finally:
        crew.listener.finished()


@dataclass(frozen=True, slots=True)
class _Again:
    """Backs up ranges once more, from the store as it is then."""

    job: Job
    task: BackupTask
    crew: Crew

    def __call__(self, ranges: list[BackupRange]) -> RunResult:
        request = dataclasses.replace(self.job.request, read_all=True)
        with open_source(request.source) as source:
            plan = plan_reads(request, source, self.job.store_id, self.job.base).plan
            same = [brange for brange in ranges if _has_part(plan, brange)]
            task = dataclasses.replace(
                self.task,
                db_dir=source.db_dir,
                deciding_dir=source.db_dir if request.resolve_locks else None,
            )
            result = _run(self.job, task, same, self.crew)
        message = "the region changed while its locks were waited for; try again"
        result.failures += [
            RangeFailure(brange, "epoch_not_match", message)
            for brange in ranges
            if brange not in same
        ]
        return result


def _has_part(plan: Plan, part: BackupRange) -> bool:
    """Whether a range of the plan, of the same region, holds all of `part`."""
    whole = whole_of(span_of(part), plan.ranges)
    return whole is not None and whole.region == part.region
