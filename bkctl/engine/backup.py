"""Takes one backup from beginning to end: open the store, plan, run, publish or say why not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl import __version__
from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FinishedRange, remove_checkpoints
from bkctl.archive.meta import BackupMeta, RawRange
from bkctl.archive.names import check_backup_name, default_backup_name
from bkctl.archive.report import KeyRange, RangeCounts, RangeError, Report
from bkctl.archive.repository_lock import repository_lock
from bkctl.codec.tso import format_ts
from bkctl.engine.balance import MIN_PART_SIZE, balance
from bkctl.engine.changes import without_unchanged
from bkctl.engine.events import Listener, counted_storage
from bkctl.engine.follow import Base, Subject, check_gc_safe_point, find_base, find_unfinished
from bkctl.engine.orphans import refuse_forgotten_files
from bkctl.engine.parts import count_whole, finished_span, left_of, span_of, whole_of
from bkctl.engine.pool import WorkerPool
from bkctl.engine.resume import (
    check_same_settings,
    cipher_settings,
    keep_finished,
)
from bkctl.engine.run import DEFAULT_BATCH_SIZE, BackupRun, FairShares, RangeFailure, RunResult
from bkctl.engine.task import DEFAULT_SST_MAX_SIZE, BackupTask
from bkctl.engine.wait import Patience, wait_for_locks
from bkctl.engine.workers import backup_workers
from bkctl.errors import BkctlError, StorageError, UsageError
from bkctl.regions.plan import BackupRange, Plan, make_plan, to_raw_key
from bkctl.regions.region_map import RegionMap, Skipped
from bkctl.sst.writer import Compression
from bkctl.storage.base import Storage
from bkctl.storage.limit import RateLimit
from bkctl.storage.url import StorageSpec
from bkctl.store.ident import API_V2
from bkctl.store.manifest import LiveFile
from bkctl.store.source import Source, SourceOptions

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

RegionMapLoader = Callable[[Source], tuple[RegionMap, list[Skipped]]]


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up, and where to; timestamps are TSOs, keys raw user keys, sizes bytes.

    `rate_limit` is in bytes a second over all workers, for what goes to the storage.

    `load_regions` gives the region map once the store is open. `name` None names the backup after
    its end timestamp and kind; `store_id` None is the store's own. `read_all` reads for an
    incremental backup what cannot have changed, too.

    `resume` takes up the unfinished backup `name`; `resume_newest` the one of the same data that
    was begun last, with its end, if there is one.

    `incremental` sets `start_ts` to where the newest backup of the same data in the storage ends;
    it is a full backup if there is none, or the chain's is `full_every` seconds old. With
    `gc_safe_point` (a TSO) a window that garbage collection reaches into is refused.

    `wait_locks` tries locked ranges again for a time. `resolve_locks` decides locks by what the
    store knows of their transactions, as TiKV would. With `cipher` files are encrypted.
    """

    source: SourceOptions
    load_regions: RegionMapLoader
    storage: StorageSpec
    start_ts: int
    end_ts: int
    name: str | None = None
    store_id: int | None = None
    start_key: bytes = b""
    end_key: bytes = b""
    is_raw: bool = False
    family: str = "default"
    compression: Compression = dataclasses.field(default_factory=Compression)
    sst_max_size: int = DEFAULT_SST_MAX_SIZE
    jobs: int = 1
    batch_size: int = DEFAULT_BATCH_SIZE
    resume: bool = False
    resume_newest: bool = False
    rate_limit: int | None = None
    read_all: bool = False
    incremental: bool = False
    full_every: int | None = None
    gc_safe_point: int | None = None
    wait_locks: Patience | None = None
    resolve_locks: bool = False
    cipher: Cipher | None = None
    part_size: int = MIN_PART_SIZE

    def __post_init__(self) -> None:
        if self.name is not None:
            check_backup_name(self.name)
        if self.start_ts > self.end_ts:
            raise UsageError(
                f"--start-ts {self.start_ts} ({format_ts(self.start_ts)}) lies after --end-ts "
                f"{self.end_ts} ({format_ts(self.end_ts)})"
            )
        if self.incremental and (self.is_raw or self.start_ts):
            what = "--raw: raw data has no commit timestamps" if self.is_raw else "--start-ts"
            raise UsageError(f"--incremental cannot go with {what}; leave one of them out")

    @property
    def kind(self) -> str:
        """`raw`, `full` or `incr`, as in backup names."""
        if self.is_raw:
            return "raw"
        return "incr" if self.start_ts > 0 else "full"


def take_backup(
    request: BackupRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool] = lambda: False,
    pool: WorkerPool | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Report:
    """Take the backup with the workers of `pool`, and publish it if every range succeeded.

    Holds the repository's lock meanwhile.

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
            for record in finished:
                result.files += record.files
                result.decided_locks += record.decided_locks
            # Of the plan's ranges, which may have been done in parts.
            resumed = count_whole(plan.ranges, done)
            result.done = count_whole(plan.ranges, [*done, *map(span_of, result.done_ranges)])
            report = _report(request, source, store_id, name, plan, result, resumed, begun)
            report = dataclasses.replace(report, base=base.name, note=base.note)
            if report.status == "ok":
                report = backup_dir.publish(_meta(request, source, result), report, lock.check)
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
        backup_dir.claim(_claim_info(source, settings))
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


def _claim_info(source: Source, settings: dict[str, object]) -> bytes:
    info = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bkctl": __version__,
        "store": str(source.path),
        "settings": settings,
    }
    return json.dumps(info).encode()


@contextlib.contextmanager
def _staging(given: Path | None, work_dir: Path | None) -> Iterator[Path]:
    """Where files are made: beside their destination, or in a directory of our own."""
    try:
        path = given or Path(tempfile.mkdtemp(prefix="bkctl-staging-", dir=work_dir))
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"{e.filename}: cannot be created ({e.strerror})") from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


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


def _report(
    request: BackupRequest,
    source: Source,
    store_id: int,
    name: str,
    plan: Plan,
    result: RunResult,
    resumed: int,
    begun: float,
) -> Report:
    crc = 0
    for file in result.files:
        crc ^= file.crc64xor
    status = "ok"
    if result.cancelled:
        status = "cancelled"
    elif result.failures:
        status = "partial" if result.done else "failed"
    failed_in = [whole_of(span_of(f.backup_range), plan.ranges) for f in result.failures]
    failed = len({span_of(whole) for whole in failed_in if whole is not None})
    return Report(
        name=name,
        status=status,
        mode="raw" if request.is_raw else "txn",
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        store_id=store_id,
        cluster_id=source.ident.cluster_id,
        ranges=RangeCounts(len(plan.ranges), result.done, failed, len(plan.skipped)),
        files=len(result.files),
        total_kvs=sum(file.total_kvs for file in result.files),
        total_bytes=sum(file.total_bytes for file in result.files),
        crc64xor=crc,
        size=sum(file.size for file in result.files),
        seconds=round(time.time() - begun, 3),
        errors=tuple(
            RangeError(
                failure.backup_range.region.id,
                failure.backup_range.raw_start_key,
                failure.backup_range.raw_end_key,
                failure.kind,
                failure.message,
            )
            for failure in result.failures
        ),
        storage=str(request.storage),
        codec=request.compression.codec,
        started_at=begun,
        resumed=resumed,
        decided_locks=tuple(result.decided_locks),
        skipped=plan.skipped,
        gaps=tuple(
            KeyRange(
                to_raw_key(gap.start_key, request.is_raw), to_raw_key(gap.end_key, request.is_raw)
            )
            for gap in plan.gaps
        ),
    )


def failed_report(request: BackupRequest, error: BkctlError, begun: float) -> Report:
    """The report of a run that ended before it had any: nothing is done, this is why."""
    return Report(
        name=request.name or default_backup_name(request.end_ts, request.kind),
        status="failed",
        mode="raw" if request.is_raw else "txn",
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        store_id=request.store_id or 0,
        cluster_id=0,
        ranges=RangeCounts(0, 0, 0, 0),
        files=0,
        total_kvs=0,
        total_bytes=0,
        crc64xor=0,
        size=0,
        seconds=round(time.time() - begun, 3),
        errors=(RangeError(0, request.start_key, request.end_key, error.kind, str(error)),),
        storage=str(request.storage),
        codec=request.compression.codec,
        started_at=begun,
    )


def _meta(request: BackupRequest, source: Source, result: RunResult) -> BackupMeta:
    raw_ranges = (
        (RawRange(request.start_key, request.end_key, request.family),) if request.is_raw else ()
    )
    return BackupMeta(
        cluster_id=source.ident.cluster_id,
        cluster_version="",
        files=tuple(result.files),
        start_version=request.start_ts,
        end_version=request.end_ts,
        is_raw_kv=request.is_raw,
        raw_ranges=raw_ranges,
        api_version=source.ident.api_version,
        backup_size=sum(file.size for file in result.files),
        br_version=f"bkctl {__version__}",
    )
