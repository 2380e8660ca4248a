"""Runs a plan's ranges: workers take the next few ranges whenever they are free.

Each worker takes `batch_size` ranges from the shared progress, backs them up, says how each went,
and comes back for more until there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from bkctl.archive.meta import BackupFile
from bkctl.backup.executor import Executor, Runner
from bkctl.backup.task import (
    BackupTask,
    RangeAdvanced,
    RangeDone,
    RangeFailed,
    RangeJob,
    RangeStarted,
    StorageUsed,
)
from bkctl.mvcc.lock import DecidedLock
from bkctl.pool.events import DoneRange, Listener
from bkctl.pool.pool import Again, Emitted, JobDone, JobLost, PoolEvent
from bkctl.regions.plan import BackupRange

DEFAULT_BATCH_SIZE = 8
_POLL_SECONDS = 0.5
_MAX_DISPATCHES = 3


_SHARES = 2


class Forward(Protocol):
    """Hands out the next ranges, at most `limit`; none when there are no more."""

    def forward(self, limit: int) -> list[BackupRange]:
        """The next ranges."""


class FairShares:
    """Hands out ranges in order: fewer towards the end, so that no worker has many left alone.

    Those that go out together are of one view, for which the executor has room.
    """

    def __init__(self, ranges: Iterable[BackupRange], executor: Executor) -> None:
        self._executor = executor
        self._left: dict[int, deque[BackupRange]] = {}
        for brange in ranges:
            self._left.setdefault(brange.view, deque()).append(brange)

    def forward(self, limit: int) -> list[BackupRange]:
        """The next ranges, at most `limit`; none when there are no more, or no room for them."""
        for view, left in self._left.items():
            if left and self._executor.room_in(view):
                fair = -(-len(left) // (self._executor.jobs_in(view) * _SHARES))
                return [left.popleft() for _ in range(min(limit, fair))]
        return []


@dataclass(frozen=True, slots=True)
class RangeFailure:
    """A range that failed, and why."""

    backup_range: BackupRange
    kind: str
    message: str


@dataclass(slots=True)
class RunResult:
    """What a run came to: files of the ranges that are done, and the failures.

    With `has_losses`, workers died: files of theirs may be there that are no one's.
    """

    done: int = 0
    done_ranges: list[BackupRange] = field(default_factory=list)
    files: list[BackupFile] = field(default_factory=list)
    failures: list[RangeFailure] = field(default_factory=list)
    decided_locks: list[DecidedLock] = field(default_factory=list)
    cancelled: bool = False
    has_losses: bool = False


class _Open:
    """A range that is handed out and has not ended."""

    __slots__ = ("backup_range", "dispatches", "started")

    def __init__(self, backup_range: BackupRange) -> None:
        self.backup_range = backup_range
        self.dispatches = 0
        self.started = False


class BackupRun:
    """One pass over a progress; `run` drives the pool until every range has ended."""

    def __init__(
        self,
        pool: Runner,
        task: BackupTask,
        progress: Forward,
        listener: Listener,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool, self._task, self._progress = pool, task, progress
        self._listener = listener
        self._batch_size = batch_size
        self._is_cancelled = is_cancelled
        self._open: dict[int, _Open] = {}
        self._next_number = 0
        self._result = RunResult()

    def run(self) -> RunResult:
        """Back up all ranges; errors of single ranges are in the result.

        When `is_cancelled` turns true, running ranges stop before their next batch of entries.
        """
        while True:
            if self._is_cancelled() and not self._result.cancelled:
                self._result.cancelled = True
                self._pool.cancel()
            while not self._result.cancelled and self._pool.free and self._submit_next():
                pass
            if not self._pool.busy:
                return self._result
            for event in self._pool.wait(_POLL_SECONDS):
                self._handle(event)

    def _submit_next(self) -> bool:
        ranges = self._progress.forward(self._batch_size)
        numbers = range(self._next_number, self._next_number + len(ranges))
        self._next_number += len(ranges)
        for number, backup_range in zip(numbers, ranges, strict=True):
            self._open[number] = _Open(backup_range)
        self._submit(list(numbers))
        return bool(ranges)

    def _submit(self, numbers: list[int]) -> None:
        if not numbers:
            return
        for number in numbers:
            self._open[number].dispatches += 1
        job = RangeJob(
            self._task, tuple((number, self._open[number].backup_range) for number in numbers)
        )
        self._pool.submit(job)

    def _handle(self, event: PoolEvent) -> None:
        if isinstance(event, JobLost):
            self._lost(event)
        elif isinstance(event, JobDone):
            if not self._result.cancelled:
                for number in self._unfinished(event.job):
                    self._fail(event.worker, number, "other", "the worker left the range out")
        else:
            self._emitted(event)

    def _emitted(self, event: Emitted) -> None:
        worker, told = event.worker, event.event
        if isinstance(told, RangeStarted):
            self._open[told.number].started = True
            self._listener.range_started(worker, self._open[told.number].backup_range)
        elif isinstance(told, RangeAdvanced):
            self._listener.advanced(worker, told.kvs, told.plain_bytes)
        elif isinstance(told, RangeDone):
            self._done(worker, told)
        elif isinstance(told, RangeFailed):
            self._fail(worker, told.number, told.kind, told.message)
        elif isinstance(told, StorageUsed):
            self._listener.storage_used(told.counts)

    def _done(self, worker: int, told: RangeDone) -> None:
        backup_range = self._open.pop(told.number).backup_range
        self._result.done += 1
        self._result.done_ranges.append(backup_range)
        self._result.files += told.files
        self._result.decided_locks += told.decided_locks
        done = DoneRange(
            backup_range,
            sum(file.total_kvs for file in told.files),
            sum(file.total_bytes for file in told.files),
            sum(file.size for file in told.files),
            told.files,
            told.seconds,
        )
        self._listener.range_done(worker, done)

    def _fail(self, worker: int, number: int, kind: str, message: str) -> None:
        backup_range = self._open.pop(number).backup_range
        self._result.failures.append(RangeFailure(backup_range, kind, message))
        self._listener.range_failed(worker, backup_range, kind, message)

    def _lost(self, lost: JobLost) -> None:
        """A worker died: the range it had in work fails, those it had not begun go to another."""
        self._result.has_losses = True
        again = []
        for number in self._unfinished(lost.job):
            entry = self._open[number]
            is_tried = lost.again is Again.ALL or not entry.started
            if lost.again is Again.NOTHING:
                self._fail(lost.worker, number, "other", lost.reason)
            elif not is_tried or entry.dispatches >= _MAX_DISPATCHES:
                self._fail(lost.worker, number, "other", f"the worker process died: {lost.reason}")
            else:
                entry.started = False
                again.append(number)
        if not self._result.cancelled:
            self._submit(again)

    def _unfinished(self, job: RangeJob) -> list[int]:
        return [number for number, _ in job.ranges if number in self._open]
