"""Takes one backup from beginning to end.

1. open     the store, pinned; the repository, locked
2. follow   the backup to go on from, which settles the window and the name
3. plan     the ranges to read; again, where regions changed meanwhile
4. claim    the name, or take an unfinished backup up again
5. run      the ranges on the workers
6. publish  or say why not
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import remove_checkpoints
from bkctl.archive.names import default_backup_name
from bkctl.archive.report import KeyRange, Report
from bkctl.backup.execute import run_plan
from bkctl.backup.executor import Executor
from bkctl.backup.follow import Base, Subject, check_gc_safe_point, find_base, find_unfinished
from bkctl.backup.job import Claimed, Crew, Job, ReadPlan
from bkctl.backup.opening import Opened, open_request
from bkctl.backup.outcome import make_meta, make_report, refusal_report
from bkctl.backup.parts import count_whole, span_of
from bkctl.backup.planning import plan_reads
from bkctl.backup.replan import settle, wanted_by
from bkctl.backup.request import BackupRequest
from bkctl.backup.resume import check_same_settings, claim_info, keep_finished, settings_of
from bkctl.backup.run import RunResult
from bkctl.backup.workers import backup_workers
from bkctl.cluster.stores import Stores
from bkctl.errors import StorageError, UsageError
from bkctl.folders import refuse_work_dir_in
from bkctl.pool.events import Listener
from bkctl.repository.lock import RepositoryLock, repository_lock
from bkctl.storage.base import Storage
from bkctl.storage.counted import counted_storage
from bkctl.store.ident import API_NAMES, API_V2, raw_window


def take_backup(
    request: BackupRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool] = lambda: False,
    executor: Executor | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Report:
    """Take the backup with the workers of `executor`, and publish it if every range succeeded.

    Holds the repository's lock meanwhile. The workers end with it.

    The report's status tells the outcome: `ok` (published), `partial` or `failed` (nothing
    published; the errors are in the report) or `cancelled`. A request of which keys are not covered
    fails before anything is started, unless it allows for that. Raises UsageError, SourceError,
    RegionMapError before anything is started, RepositoryLockedError where another run is writing,
    StorageError where the destination fails. `notify` is told what concerns the lock.
    """
    if executor is None:
        with backup_workers(request.jobs) as own:
            return take_backup(request, listener, is_cancelled, own, notify)
    crew = Crew(executor, listener, is_cancelled)
    begun = time.time()
    if request.cipher is not None:
        refuse_work_dir_in(request.storage.path, request.source.work_dir)
    with (
        Opened(partial(open_request, request, executor, is_cancelled, notify)) as opened,
        _open_repository(request, listener, notify) as (storage, lock),
    ):
        request = settle_mode(request, opened.stores.ident.api_version, opened.stores.path)
        job = _follow(request, opened.stores, storage, begun)
        found = settle(opened, wanted_by(job.request, job.store_id, is_cancelled))
        job = dataclasses.replace(job, stores=opened.stores)
        find = executor.find_changes
        read = plan_reads(job.request, job.stores, job.store_id, job.base, found, find)
        if read.cover.uncovered and not request.allow_gaps:
            return refusal_report(job, read)
        claimed = _claim(job, read)
        result = run_plan(job, read, claimed, crew)
        return _publish(job, read, claimed, result, lock)


def settle_mode(request: BackupRequest, api_version: int, store: Path) -> BackupRequest:
    """The request with what depends on the store's API version: which keys, and from when."""
    if request.is_raw and api_version != API_V2 and (request.incremental or request.start_ts):
        what = "--incremental" if request.incremental else "--start-ts"
        raise UsageError(
            f"{store}: raw pairs of API {API_NAMES[api_version]} have no timestamps; {what} "
            "cannot go with them"
        )
    start_key, end_key = request.start_key, request.end_key
    if request.is_raw and api_version == API_V2:
        start_key, end_key = raw_window(start_key, end_key)
    return dataclasses.replace(
        request, api_version=api_version, start_key=start_key, end_key=end_key
    )


@contextlib.contextmanager
def _open_repository(
    request: BackupRequest, listener: Listener, notify: Callable[[str], None]
) -> Iterator[tuple[Storage, RepositoryLock]]:
    with (
        counted_storage(request.storage, listener.storage_used) as storage,
        repository_lock(storage, "backup", notify=notify) as lock,
    ):
        yield storage, lock


def _follow(request: BackupRequest, stores: Stores, storage: Storage, begun: float) -> Job:
    """Settle the window and the name, where those are to be found in the repository."""
    store_id = stores.ident.store_id if request.store_id is None else request.store_id
    subject = subject_of(request, stores.ident.cluster_id, store_id)
    request, base = settle_start(request, subject, storage)
    if request.resume_newest:
        unfinished = find_unfinished(storage, subject, request.start_ts)
        end_ts = request.end_ts if unfinished is None else unfinished.facts.end_ts or request.end_ts
        name = None if unfinished is None else unfinished.name
        request = dataclasses.replace(request, resume=bool(name), name=name, end_ts=end_ts)
    check_gc_safe_point(request.gc_safe_point, request.start_ts, request.end_ts)
    return Job(request, stores, store_id, storage, name_of(request), base, begun)


def subject_of(request: BackupRequest, cluster_id: int, store_id: int) -> Subject:
    """Of which data the backup is; `store_id` is 0 for more than one store's."""
    window = KeyRange(request.start_key, request.end_key)
    return Subject(store_id, cluster_id, window, "raw" if request.is_raw else "txn")


def settle_start(
    request: BackupRequest, subject: Subject, storage: Storage
) -> tuple[BackupRequest, Base]:
    """Where the backup begins, where that is to be found in the repository."""
    if not request.incremental:
        return request, Base(request.start_ts, "", "")
    base = find_base(storage, subject, request.end_ts, request.full_every)
    return dataclasses.replace(request, start_ts=base.start_ts, incremental=False), base


def name_of(request: BackupRequest) -> str:
    """The backup's name: the one given, or that of its end and kind."""
    return request.name or default_backup_name(request.end_ts, request.kind)


def _claim(job: Job, read: ReadPlan) -> Claimed:
    """Claim the backup's name, or take up an unfinished backup."""
    request = job.request
    backup_dir = BackupDir(job.storage, job.name)
    settings = settings_of(request, job.stores.ident.cluster_id, job.store_id, job.base.name)
    if not request.resume:
        backup_dir.claim(claim_info("backup", settings, store=str(job.stores.path)))
        return Claimed(backup_dir, [])
    check_same_settings(backup_dir, settings)
    finished = keep_finished(job.storage, backup_dir, read.plan.ranges, request.has_plain_keys)
    return Claimed(backup_dir, finished)


def sum_up(job: Job, read: ReadPlan, claimed: Claimed, result: RunResult) -> Report:
    """The report of a run and those before it; what those finished is added to `result`."""
    ranges, done = read.plan.ranges, claimed.spans(job.request.has_plain_keys)
    for record in claimed.finished:
        result.files += record.files
        result.decided_locks += record.decided_locks
    # Of the plan's ranges, which may have been done in parts.
    resumed = count_whole(ranges, done)
    result.done = count_whole(ranges, [*done, *map(span_of, result.done_ranges)])
    return make_report(job, read, result, resumed)


def _publish(
    job: Job, read: ReadPlan, claimed: Claimed, result: RunResult, lock: RepositoryLock
) -> Report:
    """Publish what every range succeeded of; otherwise leave only the report of why not."""
    report = sum_up(job, read, claimed, result)
    if report.status != "ok":
        claimed.backup_dir.write_report(report)
        return report
    report = claimed.backup_dir.publish(make_meta(job, result), report, lock.check)
    with contextlib.suppress(StorageError):  # the backup counts already
        remove_checkpoints(job.storage, job.name)
        if result.has_losses:
            claimed.backup_dir.remove_unnamed({file.name for file in result.files})
    return report
