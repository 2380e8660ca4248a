"""Takes one backup from beginning to end: open the store, plan, run, publish or say why not."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FinishedRange, remove_checkpoints
from bkctl.archive.names import default_backup_name
from bkctl.archive.report import KeyRange, Report
from bkctl.archive.repository_lock import repository_lock
from bkctl.engine.balance import balance
from bkctl.engine.changes import without_unchanged
from bkctl.engine.events import Listener, counted_storage
from bkctl.engine.follow import Base, Subject, check_gc_safe_point, find_base, find_unfinished
from bkctl.engine.orphans import refuse_forgotten_files
from bkctl.engine.outcome import make_meta, make_report
from bkctl.engine.parts import count_whole, finished_span, left_of, span_of, whole_of
from bkctl.engine.pool import WorkerPool
from bkctl.engine.request import BackupRequest
from bkctl.engine.resume import (
    check_same_settings,
    cipher_settings,
    claim_info,
    keep_finished,
)
from bkctl.engine.run import BackupRun, FairShares, RangeFailure, RunResult
from bkctl.engine.task import BackupTask
from bkctl.engine.wait import wait_for_locks
from bkctl.engine.workers import backup_workers
from bkctl.errors import StorageError, UsageError
from bkctl.folders import PrivateFolder
from bkctl.regions.plan import BackupRange, Plan, make_plan
from bkctl.storage.base import Storage
from bkctl.storage.limit import RateLimit
from bkctl.store.ident import API_V2
from bkctl.store.manifest import LiveFile
from bkctl.store.source import Source


def take_backup(
    request: BackupRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool] = lambda: False,
    pool: WorkerPool | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Report:
    """Take the backup with the workers of `pool`, and publish it if every range succeeded.

    Holds the repository's lock meanwhile. The workers end with it.

    The report's status tells the outcome: `ok` (published), `partial` or `failed` (nothing
    published; the errors are in the report) or `cancelled`. Raises UsageError, SourceError,
    RegionMapError before anything is started, RepositoryLockedError where another run is writing,
    StorageError where the destination fails. `notify` is told what concerns the lock.
    """
    if pool is None:
        with backup_workers(request.jobs) as own_pool:
            return take_backup(request, listener, is_cancelled, own_pool, notify)
    begun = time.time()
    with Source(request.source) as source:
        _check_source(source, request)
        if not request.source.point_in_time:
            refuse_forgotten_files(source)
        store_id = source.ident.store_id if request.store_id is None else request.store_id
        with (
            counted_storage(request.storage, listener) as storage,
            repository_lock(storage, "backup", notify=notify) as lock,
        ):
            request, base = _follow(request, source, store_id, storage)
            plan, db_dir, files = _plan(request, source, store_id)
            name = request.name or default_backup_name(request.end_ts, request.kind)
            backup_dir = BackupDir(storage, name)
            finished = _begin(request, source, store_id, plan, storage, backup_dir)
            with _staging(storage.staging_dir(name), request.source.work_dir) as staging:
                task = _task(request, source, db_dir, store_id, name, staging)
                done = [finished_span(record, request.is_raw) for record in finished]
                left = balance(left_of(plan.ranges, done), files, request.jobs, request.part_size)
                result = _run(request, task, left, pool, listener, is_cancelled)
                if request.wait_locks is not None:
                    run = _Again(request, task, store_id, pool, listener, is_cancelled)
                    result = wait_for_locks(result, request.wait_locks, run, is_cancelled)
                pool.dismiss()
            for record in finished:
                result.files += record.files
                result.decided_locks += record.decided_locks
            # Of the plan's ranges, which may have been done in parts.
            resumed = count_whole(plan.ranges, done)
            result.done = count_whole(plan.ranges, [*done, *map(span_of, result.done_ranges)])
            report = make_report(request, source, store_id, name, plan, result, resumed, begun)
            report = dataclasses.replace(report, base=base.name, note=base.note)
            if report.status == "ok":
                report = backup_dir.publish(make_meta(request, source, result), report, lock.check)
                with contextlib.suppress(StorageError):  # the backup counts already
                    remove_checkpoints(storage, name)
            else:
                backup_dir.write_report(report)
            return report


def _follow(
    request: BackupRequest, source: Source, store_id: int, storage: Storage
) -> tuple[BackupRequest, Base]:
    """The request with its window and name, where those are to be found in the repository."""
    window = KeyRange(request.start_key, request.end_key)
    subject = Subject(store_id, source.ident.cluster_id, window)
    base = Base(request.start_ts, "", "")
    if request.incremental:
        base = find_base(storage, subject, request.end_ts, request.full_every)
        request = dataclasses.replace(request, start_ts=base.start_ts, incremental=False)
    if request.resume_newest:
        mode = "raw" if request.is_raw else "txn"
        begun = find_unfinished(storage, subject, mode, request.start_ts)
        end_ts = request.end_ts if begun is None else begun.facts.end_ts or request.end_ts
        name = None if begun is None else begun.name
        request = dataclasses.replace(request, resume=bool(name), name=name, end_ts=end_ts)
    check_gc_safe_point(request.gc_safe_point, request.start_ts, request.end_ts)
    return request, base


def _plan(
    request: BackupRequest, source: Source, store_id: int
) -> tuple[Plan, Path, list[LiveFile]]:
    """What to read, in which view, and the SST files of that view that are read."""
    region_map, passed_over = request.load_regions(source)
    plan = make_plan(
        store_id or None, request.start_key, request.end_key, region_map, request.is_raw
    )
    plan = dataclasses.replace(plan, skipped=(*passed_over, *plan.skipped))
    families = (request.family,) if request.is_raw else ("write", "default")
    files = [file for file in source.live_files() if file.family in families]
    if request.kind != "incr" or request.read_all:
        return plan, source.db_dir, files
    plan, unread = without_unchanged(plan, source, request.start_ts, request.end_ts)
    if not unread:
        return plan, source.db_dir, files
    left_out = set(unread)
    return plan, source.without(unread), [file for file in files if file not in left_out]


@dataclass(frozen=True, slots=True)
class _Again:
    """Backs up ranges once more, from the store as it is then."""

    request: BackupRequest
    task: BackupTask
    store_id: int
    pool: WorkerPool
    listener: Listener
    is_cancelled: Callable[[], bool]

    def __call__(self, ranges: list[BackupRange]) -> RunResult:
        request = self.request
        with Source(request.source) as source:
            plan, _, _ = _plan(dataclasses.replace(request, read_all=True), source, self.store_id)
            same = [brange for brange in ranges if _has_part(plan, brange)]
            task = dataclasses.replace(
                self.task,
                db_dir=source.db_dir,
                deciding_dir=source.db_dir if request.resolve_locks else None,
            )
            result = _run(request, task, same, self.pool, self.listener, self.is_cancelled)
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


def _run(
    request: BackupRequest,
    task: BackupTask,
    ranges: Sequence[BackupRange],
    pool: WorkerPool,
    listener: Listener,
    is_cancelled: Callable[[], bool],
) -> RunResult:
    jobs = max(1, min(request.jobs, len(ranges)))
    pool.adjust_with(jobs)
    known = [brange.region.approximate_keys for brange in ranges]
    listener.started(
        len(ranges),
        None if None in known or not known else sum(keys or 0 for keys in known),
        jobs,
    )
    try:
        return BackupRun(
            pool,
            task,
            FairShares(ranges, jobs),
            listener,
            batch_size=request.batch_size,
            is_cancelled=is_cancelled,
        ).run()
    finally:
        listener.finished()


def _check_source(source: Source, request: BackupRequest) -> None:
    if not request.is_raw:
        source.require("write", "lock", "default")
        return
    source.require(request.family)
    if source.ident.api_version == API_V2:
        raise UsageError(
            f"{source.path}: raw keys of API V2 are versioned; bkctl backs up raw V1 and V1TTL"
        )


def _begin(
    request: BackupRequest,
    source: Source,
    store_id: int,
    plan: Plan,
    storage: Storage,
    backup_dir: BackupDir,
) -> list[FinishedRange]:
    """Claim the backup's name, or take up an unfinished backup; the ranges that are finished."""
    settings = _settings(request, source, store_id)
    if not request.resume:
        backup_dir.claim(claim_info("backup", settings, store=str(source.path)))
        return []
    check_same_settings(backup_dir, settings)
    return keep_finished(storage, backup_dir, plan.ranges, request.is_raw)


def _settings(request: BackupRequest, source: Source, store_id: int) -> dict[str, object]:
    """What a resumed run must have in common with the one that began."""
    return {
        "cluster_id": source.ident.cluster_id,
        "store_id": store_id,
        "start_ts": request.start_ts,
        "end_ts": request.end_ts,
        "start_key": request.start_key.hex().upper(),
        "end_key": request.end_key.hex().upper(),
        "mode": "raw" if request.is_raw else "txn",
        "cf": request.family if request.is_raw else "",
        "compression": request.compression.codec,
        "compression_level": request.compression.level,
        "sst_max_size": request.sst_max_size,
        **cipher_settings(request.cipher),
    }


@contextlib.contextmanager
def _staging(given: Path | None, work_dir: Path | None) -> Iterator[Path]:
    """Where files are made: beside their destination, or in a folder of our own."""
    if given is None:
        with PrivateFolder("bkctl-staging-", work_dir) as folder:
            yield folder
        return
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"{e.filename}: cannot be created ({e.strerror})") from None
    try:
        yield given
    finally:
        shutil.rmtree(given, ignore_errors=True)


def _task(
    request: BackupRequest, source: Source, db_dir: Path, store_id: int, name: str, staging: Path
) -> BackupTask:
    storage = request.storage
    if request.rate_limit is not None:
        limit = RateLimit(request.rate_limit, source.db_dir.parent / "rate-limit")
        storage = dataclasses.replace(storage, rate_limit=limit)
    return BackupTask(
        db_dir=db_dir,
        source=source.path,
        store_id=store_id,
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        is_raw=request.is_raw,
        family=request.family,
        compression=request.compression,
        sst_max_size=request.sst_max_size,
        storage=storage,
        name=name,
        staging=staging,
        deciding_dir=source.db_dir if request.resolve_locks else None,
        cipher=request.cipher,
    )
