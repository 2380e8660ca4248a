"""A worker process's side of verifying: opens storage and store once, then does its jobs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

from bkctl.errors import BkctlError, CancelledError
from bkctl.pool import signs
from bkctl.repository.catalog import open_backup
from bkctl.shortage import what_failed
from bkctl.storage.url import OpenedStorage
from bkctl.store.database import Database
from bkctl.store.open_view import open_database
from bkctl.verify.against import compare_segment
from bkctl.verify.file import PairCheck
from bkctl.verify.task import (
    CheckJob,
    CompareJob,
    JobAdvanced,
    JobResult,
    JobStarted,
    VerifyEvent,
    VerifyJob,
)

_REPORT_SECONDS = 0.2

Emit = Callable[[VerifyEvent], None]


class _OpenedDatabase:
    """The store of the job at hand."""

    def __init__(self) -> None:
        self._db_dir: Path | None = None
        self._database: Database | None = None

    def get(self, db_dir: Path, source: Path) -> Database:
        if self._database is None or self._db_dir != db_dir:
            if self._database is not None:
                self._database.close()
            self._database = open_database(db_dir, source)
            self._db_dir = db_dir
        return self._database


_storage = OpenedStorage()
_database = _OpenedDatabase()


class _Meter:
    """Adds up what a job has checked, tells of it now and then, and ends a cancelled job."""

    def __init__(self, emit: Emit, cancelled: Callable[[], bool]) -> None:
        self._emit, self._cancelled = emit, cancelled
        self._told = time.monotonic()
        self.kvs = self.plain_bytes = 0

    def advance(self, kvs: int, plain_bytes: int) -> None:
        self.kvs += kvs
        self.plain_bytes += plain_bytes
        if self._cancelled():
            raise CancelledError(0)
        now = time.monotonic()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            self._emit(JobAdvanced(self.kvs, self.plain_bytes))


def run_verify_job(job: VerifyJob, emit: Emit, cancelled: Callable[[], bool]) -> None:
    """Do one job; it ends in one JobResult, unless it is cancelled."""
    # Reference counting frees all that the hot loop makes; the collector would only look on.
    gc.disable()
    emit(JobStarted())
    meter = _Meter(emit, cancelled)
    try:
        result = _check(job, meter) if isinstance(job, CheckJob) else _compare(job, meter)
    except CancelledError:
        return
    except BkctlError as e:
        result = JobResult(error=str(e) if e.kind == "other" else f"{e.kind}: {e}")
    except (OSError, MemoryError) as e:
        result = JobResult(error=what_failed(e))
    emit(result)
    gc.collect(0)


def _check(job: CheckJob, meter: _Meter) -> JobResult:
    backup_dir = open_backup(_storage.get(job.storage), job.name)
    check = PairCheck(
        backup_dir,
        job.files,
        is_raw=job.is_raw,
        deep=job.deep,
        advance=meter.advance,
        cipher=job.cipher,
        api_version=job.api_version,
    )
    findings = tuple(check.run())
    return JobResult(findings, check.checked_bytes, meter.kvs, meter.plain_bytes)


def _compare(job: CompareJob, meter: _Meter) -> JobResult:
    backup_dir = open_backup(_storage.get(job.storage), job.name)
    signs.note(str(job.source))
    database = _database.get(job.db_dir, job.source)
    found = compare_segment(
        job.segment, backup_dir, database, job.snapshot, meter.advance, job.cipher
    )
    return JobResult(
        found.findings,
        0,
        meter.kvs,
        meter.plain_bytes,
        differing=found.total,
        differences=found.first,
    )
