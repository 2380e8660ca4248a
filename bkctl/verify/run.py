"""Runs a verification's jobs on a pool and tells a listener how they go."""

from __future__ import annotations

from collections.abc import Sequence

from bkctl.archive.meta import BackupFile
from bkctl.codec.memcomparable import encode
from bkctl.pool.events import DoneRange, Listener
from bkctl.pool.pool import Emitted, JobDone, JobLost, PoolEvent, WorkerPool
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region, RegionEpoch
from bkctl.verify.task import CheckJob, JobAdvanced, JobResult, JobStarted, VerifyJob

_POLL_SECONDS = 0.5


class VerifyRun:
    """One pass over some jobs; every one of them ends in a result, in the order of the jobs."""

    def __init__(
        self, pool: WorkerPool, jobs: Sequence[VerifyJob], is_raw: bool, listener: Listener
    ) -> None:
        self._pool, self._jobs, self._is_raw = pool, jobs, is_raw
        self._listener = listener
        self._results: dict[int, JobResult] = {}

    def run(self) -> list[JobResult]:
        """Do all jobs; raises WorkerDiedError where workers cannot even start."""
        known = sum(_expected_kvs(job) for job in self._jobs)
        self._listener.started(len(self._jobs), known or None, self._pool.size)
        try:
            for job in self._jobs:
                self._pool.submit(job)
            while self._pool.busy:
                for event in self._pool.wait(_POLL_SECONDS):
                    self._handle(event)
        finally:
            self._listener.finished()
        return [self._results[job.number] for job in self._jobs]

    def _handle(self, event: PoolEvent) -> None:
        if isinstance(event, JobLost):
            self._end(event.worker, event.job, self._lost(event.job, event.reason))
        elif isinstance(event, JobDone):
            if event.job.number not in self._results:
                self._end(event.worker, event.job, self._lost(event.job, "it gave no result"))
        else:
            self._emitted(event)

    def _emitted(self, event: Emitted) -> None:
        worker, told = event.worker, event.event
        if isinstance(told, JobStarted):
            self._listener.range_started(worker, as_range(event.job, self._is_raw))
        elif isinstance(told, JobAdvanced):
            self._listener.advanced(worker, told.kvs, told.plain_bytes)
        elif isinstance(told, JobResult):
            self._end(worker, event.job, told)

    def _end(self, worker: int, job: VerifyJob, result: JobResult) -> None:
        self._results[job.number] = result
        if result.error:
            self._tell(worker, job, "other", result.error)
        elif result.findings:
            more = len(result.findings) - 1
            first = str(result.findings[0])
            self._tell(worker, job, "corruption", f"{first} (and {more} more)" if more else first)
        else:
            size = sum(file.size for file in _files(job))
            brange = as_range(job, self._is_raw)
            done = DoneRange(brange, result.kvs, result.plain_bytes, size)
            self._listener.range_done(worker, done)

    def _tell(self, worker: int, job: VerifyJob, kind: str, message: str) -> None:
        self._listener.range_failed(worker, as_range(job, self._is_raw), kind, message)

    @staticmethod
    def _lost(job: VerifyJob, reason: str) -> JobResult:
        names = ", ".join(file.name for file in _files(job)) or "a range without files"
        return JobResult(error=f"{names}: not checked: the worker process died: {reason}")


def as_range(job: VerifyJob, is_raw: bool) -> BackupRange:
    """What a listener is shown of a job: its keys, and the region that its files are named by."""
    files = _files(job)
    if isinstance(job, CheckJob):
        start_key, end_key = files[0].start_key, files[0].end_key
    else:
        start_key, end_key = job.segment.start_key, job.segment.end_key
    if not is_raw:
        start_key, end_key = (key and encode(key) for key in (start_key, end_key))
    region = Region(
        _region_id(files[0].name) if files else 0,
        start_key,
        end_key,
        RegionEpoch(0, 0),
        approximate_keys=_expected_kvs(job),
    )
    return BackupRange(region, start_key, end_key, is_raw)


def _region_id(file_name: str) -> int:
    """The region in a file's name, 0 if the name is of another kind."""
    _, _, rest = file_name.partition("_")
    digits = rest.partition("_")[0]
    return int(digits) if digits.isdecimal() and len(digits) <= 20 else 0


def _expected_kvs(job: VerifyJob) -> int:
    return sum(file.total_kvs for file in _files(job))


def _files(job: VerifyJob) -> tuple[BackupFile, ...]:
    return job.files if isinstance(job, CheckJob) else job.segment.files
