"""Runs a plan on the workers, what was finished before left out, and once more where locks were."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from bkctl.backup.balance import balance
from bkctl.backup.job import Claimed, Crew, Job, ReadPlan
from bkctl.backup.opening import Opened, open_request
from bkctl.backup.parts import by_view, left_of, span_of
from bkctl.backup.planning import plan_reads
from bkctl.backup.replan import settle, wanted_by
from bkctl.backup.request import BackupRequest
from bkctl.backup.run import BackupRun, FairShares, RangeFailure, RunResult
from bkctl.backup.task import BackupTask
from bkctl.backup.wait import wait_for_locks
from bkctl.cluster.regions import ClusterRegions
from bkctl.cluster.stores import Stores
from bkctl.files.trees import remove_folder
from bkctl.folders import PrivateFolder
from bkctl.regions.check import EPOCH_NOT_MATCH
from bkctl.regions.plan import BackupRange
from bkctl.storage.limit import RateLimit

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher


def run_plan(job: Job, read: ReadPlan, claimed: Claimed, crew: Crew) -> RunResult:
    """Back up what is left of the plan; errors of single ranges are in the result.

    The workers end with it.
    """
    request = job.request
    job.stores.rest()
    with _staging(job) as staging:
        task = _task(job, read, staging)
        left = left_of(read.ranges, claimed.spans(request.has_plain_keys))
        ranges = _balanced(left, read, request, crew)
        task = _decide(job, task, ranges, job.stores, crew)
        result = _run(job, task, ranges, crew)
        if request.wait_locks is not None:
            again = _Again(job, task, crew)
            result = wait_for_locks(result, request.wait_locks, again, crew.is_cancelled)
        crew.executor.dismiss()
    result.failures += read.refused
    return result


@contextlib.contextmanager
def _staging(job: Job) -> Iterator[Path]:
    """Where files are made: beside their destination, or in a folder of our own."""
    given = job.storage.staging_dir(job.staging_name)
    if given is None:
        with PrivateFolder("bkctl-staging-", job.request.source.work_dir) as folder:
            yield folder
        return
    try:
        yield given
    finally:
        remove_folder(given)


def _task(job: Job, read: ReadPlan, staging: Path) -> BackupTask:
    request, stores = job.request, job.stores
    storage = request.storage
    if request.rate_limit is not None:
        limit = RateLimit(request.rate_limit, stores.first.db_dir.parent / "rate-limit")
        storage = replace(storage, rate_limit=limit)
    return BackupTask(
        views=tuple(each.view for each in read.reads),
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        is_raw=request.is_raw,
        family=request.family,
        compression=request.compression,
        sst_max_size=request.sst_max_size,
        storage=storage,
        name=job.name,
        staging=staging,
        decides_locks=request.resolve_locks,
        cipher=request.cipher,
        api_version=stores.ident.api_version,
        seal=_seal(job),
        records=job.records,
    )


def _decide(
    job: Job, task: BackupTask, ranges: Sequence[BackupRange], stores: Stores, crew: Crew
) -> BackupTask:
    """The task with all that is needed to decide locks, if they are to be."""
    if not job.request.resolve_locks or job.request.is_raw:
        return task
    home = job.home
    if home is None and stores.is_final:
        home = stores.regions
    return crew.executor.settle_locks(task, ranges, stores, _routes(home) if home else None)


def _routes(chosen: ClusterRegions) -> list[BackupRange]:
    """Where the keys of all regions count, be they asked for or not."""
    lacking = {*chosen.minority, *chosen.refused}
    numbers = chosen.numbers
    return [
        BackupRange(
            *(region, region.start_key, region.end_key), is_raw=False, view=numbers[region.id]
        )
        for region in chosen.region_map.regions
        if region.id in numbers and region.id not in lacking
    ]


def _seal(job: Job) -> Cipher | None:
    """What waiting files are encrypted with, for nothing of an encrypted store is plain on a disk.

    None where they are to be stored as they are made, and where they wait is where they are stored.
    """
    request = job.request
    is_encrypted = any(source.is_encrypted for source in job.stores.sources)
    if not is_encrypted or request.cipher or job.storage.staging_dir(job.staging_name):
        return None
    from bkctl.codec.cipher import random_cipher

    return random_cipher()


def _run(job: Job, task: BackupTask, ranges: Sequence[BackupRange], crew: Crew) -> RunResult:
    jobs = crew.executor.staff(len(ranges))
    known = [brange.region.approximate_keys for brange in ranges]
    keys = None if None in known or not known else sum(count or 0 for count in known)
    crew.listener.started(len(ranges), keys, jobs)
    try:
        return BackupRun(
            crew.executor,
            task,
            FairShares(ranges, crew.executor),
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
        job, cancelled, executor = self.job, self.crew.is_cancelled, self.crew.executor
        request = replace(job.request, read_all=True)
        with Opened(partial(open_request, request, executor, cancelled)) as opened:
            found = settle(opened, wanted_by(request, job.store_id, cancelled))
            find = executor.find_changes
            read = plan_reads(request, opened.stores, job.store_id, job.base, found, find)
            split = [(brange, parts_of(brange, read.ranges)) for brange in ranges]
            views = tuple(each.view for each in read.reads)
            parts = [part for _, own in split for part in own]
            task = replace(self.task, views=views)
            task = _decide(job, task, parts, opened.stores, self.crew)
            result = _run(job, task, parts, self.crew)
        result.failures += [_failure(brange, read.refused) for brange, own in split if not own]
        return result


def _failure(brange: BackupRange, refused: Iterable[RangeFailure]) -> RangeFailure:
    """Why a range is no longer read."""
    start, end = span_of(brange)
    for why in refused:
        first, behind = span_of(why.backup_range)
        if first < end and start < behind:
            return RangeFailure(brange, why.kind, why.message)
    message = "the region changed while its locks were waited for; try again"
    return RangeFailure(brange, EPOCH_NOT_MATCH, message)


def parts_of(brange: BackupRange, ranges: Sequence[BackupRange]) -> list[BackupRange]:
    """The same keys as a plan reads them now, by its `ranges`; none where it does not read all."""
    end = brange.data_end_key
    first = bisect_right(ranges, brange.data_start_key, key=attrgetter("data_start_key")) - 1
    parts, at = [], brange.start_key
    for own in islice(ranges, max(0, first), None):
        if own.data_start_key >= end or max(own.start_key, brange.start_key) != at:
            break
        behind = brange.end_key if end <= own.data_end_key else own.end_key
        parts.append(structs.replace(own, start_key=at, end_key=behind, takes_all=brange.takes_all))
        at = behind
    return parts if parts and span_of(parts[-1])[1] == end else []


def _balanced(
    ranges: Iterable[BackupRange], read: ReadPlan, request: BackupRequest, crew: Crew
) -> list[BackupRange]:
    """The ranges store by store, large ones in parts."""
    found: list[BackupRange] = []
    for view, own in enumerate(by_view(ranges, len(read.reads))):
        reads, jobs = read.reads[view], crew.executor.jobs_in(view)
        found += balance(own, reads.files, jobs, request.part_size, reads.blobs)
    return found
