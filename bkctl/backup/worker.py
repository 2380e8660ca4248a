"""A worker process's side: opens the view and the storage once, then backs up ranges as told."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bkctl.archive.checkpoint import FinishedRange, write_checkpoint
from bkctl.archive.meta import BackupFile
from bkctl.backup.ranges import Advance, backup_range
from bkctl.backup.routes import Routes
from bkctl.backup.saver import PendingRange, Saver
from bkctl.backup.task import (
    BackupTask,
    RangeAdvanced,
    RangeDone,
    RangeFailed,
    RangeJob,
    RangeStarted,
    StorageUsed,
)
from bkctl.errors import BkctlError, CancelledError
from bkctl.mvcc.decide import DecidedLocks, Decider, LockDecider
from bkctl.mvcc.lock import DecidedLock
from bkctl.pool import signs
from bkctl.pool.events import PhaseSeconds
from bkctl.regions.plan import BackupRange
from bkctl.shortage import what_failed
from bkctl.storage.base import Storage
from bkctl.storage.metrics import Metrics
from bkctl.storage.url import open_storage, writer_bucket
from bkctl.store.database import Database
from bkctl.store.open_view import open_database

_REPORT_SECONDS = 0.2
_MAX_VIEWS = 2

Emit = Callable[[Any], None]


class _Opened:
    """The view and the storage of the task at hand; one process works on one task at a time."""

    def __init__(self) -> None:
        self._task: BackupTask | None = None
        self._databases: dict[int, Database] = {}
        self._storage: Storage | None = None
        self._saver: Saver | None = None
        self._deciding: dict[int, Database] = {}
        self.storage_metrics = Metrics()

    def get(self, task: BackupTask, view: int) -> tuple[Database, Storage, Saver]:
        if self._task != task or not (self._storage and self._saver):
            self.close()
            self._storage = open_storage(task.storage, self.storage_metrics)
            self._saver = Saver(self._storage, task.name, writer_bucket(task.storage), task.seal)
            self._task = task
        if view not in self._databases:
            # Ranges come sorted by the view: others are hardly asked for again.
            while len(self._databases) >= _MAX_VIEWS:
                self._databases.pop(next(iter(self._databases))).close()
            self._databases[view] = task.open_view(view)
        return self._databases[view], self._storage, self._saver

    def decider(self, task: BackupTask) -> LockDecider | None:
        """Who decides locks for the task that was got last."""
        if not task.decides_locks:
            return None

        def open_stores() -> Iterator[Database]:
            for number, view in enumerate(task.views):
                if number not in self._deciding:
                    self._deciding[number] = open_database(view.deciding_dir, view.source)
                yield self._deciding[number]

        if task.routes is None:
            return LockDecider(open_stores)
        routes = Routes(task.routes)

        def home(raw_key: bytes) -> Database | None:
            number = routes.view_of(raw_key)
            return None if number is None else list(open_stores())[number]

        return LockDecider(open_stores, home)

    def close(self) -> None:
        if self._saver is not None:
            self._saver.close()
        for database in (*self._deciding.values(), *self._databases.values()):
            database.close()
        self._deciding.clear()
        self._databases.clear()
        if self._storage is not None:
            self._storage.close()
        self._task = self._storage = self._saver = None


_opened = _Opened()
_ending: list[JobRun] = []
"""Jobs that are scanned, and whose files are not all saved."""


def close_opened() -> None:
    """Let the view and the storage at hand go, for a view that is about to be removed."""
    _opened.close()


def _recorder(
    storage: Storage, task: BackupTask, brange: BackupRange, decided: list[DecidedLock]
) -> Callable[[tuple[BackupFile, ...]], None]:
    """Write down, beside the backup's files, that a range is finished."""

    def record(files: tuple[BackupFile, ...]) -> None:
        if storage.discards:
            return
        region = brange.region
        finished = FinishedRange(
            region.id,
            region.epoch.version,
            brange.raw_start_key,
            brange.raw_end_key,
            files,
            tuple(decided),
            brange.as_of,
        )
        write_checkpoint(storage, task.name, finished, task.records)

    return record


@dataclass(frozen=True, slots=True)
class _Saving:
    """A range that is scanned and whose files are being saved."""

    number: int
    pending: PendingRange
    decided: list[DecidedLock]
    snapshot_seconds: float
    scan_seconds: float


class _Saves:
    """Tells the worker, which may wait for its parent too, that files were saved."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None

    def open(self) -> None:
        """Called in the worker: forked ones must not share a pipe."""
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)

    def fileno(self) -> int:
        assert self._pipe is not None
        return self._pipe[0]

    def notify(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):  # full: there is enough to be seen
            os.write(self._pipe[1], b"s")

    def forget(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            while os.read(self._pipe[0], 4096):
                pass


_saves = _Saves()


class JobRun:
    """One job in work: its ranges are scanned in turn, their files saved meanwhile.

    It is also the job's rest, once all is scanned: files may still be on their way.
    """

    def __init__(self, job: RangeJob, emit: Emit, cancelled: Callable[[], bool]) -> None:
        self.task = job.task
        self._decided = None if job.decided is None else DecidedLocks(job.decided)
        self._emit = emit
        self._cancelled = cancelled
        self._saving: deque[_Saving] = deque()

    def run(self, ranges: Iterable[tuple[int, BackupRange]]) -> None:
        """Scan ranges, each by its number, until all are or the job is cancelled."""
        try:
            for number, brange in ranges:
                if self._cancelled():
                    break
                self.scan(number, brange)
                gc.collect(0)
        except CancelledError:
            pass
        if self._saving:
            _ending.append(self)

    def fileno(self) -> int:
        """See Rest."""
        return _saves.fileno()

    def tell(self) -> bool:
        """See Rest: the ends of ranges whose files are all saved."""
        _saves.forget()
        self.tell_saved(wait=False)
        if self._saving:
            return False
        if self in _ending:
            _ending.remove(self)
        self._emit(StorageUsed(_opened.storage_metrics.take()))
        return True

    def wait(self) -> None:
        """Tell the rest, once it is there."""
        self.tell_saved(wait=True)
        self.tell()

    def scan(self, number: int, brange: BackupRange) -> None:
        """Scan one range; its end is told once its files are saved."""
        self._emit(RangeStarted(number))
        begun = time.monotonic()
        try:
            self.task.note_at_hand(brange.view)
            database, storage, saver = _opened.get(self.task, brange.view)
            opened = time.monotonic()
            decided: list[DecidedLock] = []
            decider: Decider | None = self._decided or _opened.decider(self.task)
            files = backup_range(
                self.task, brange, database, saver, self._advance(number), decider, decided
            )
            record = _recorder(storage, self.task, brange, decided)
            pending = saver.finish_range(files, record)
        except BkctlError as e:
            if isinstance(e, CancelledError):
                raise
            self._emit(RangeFailed(number, e.kind, str(e)))
        except (OSError, MemoryError) as e:
            self._emit(RangeFailed(number, "other", what_failed(e)))
        else:
            scanned = time.monotonic()
            self._saving.append(_Saving(number, pending, decided, opened - begun, scanned - opened))
            pending.add_done_callback(lambda _: _saves.notify())
        self.tell_saved(wait=False)

    def tell_saved(self, *, wait: bool) -> None:
        """Tell the end of ranges whose files are all saved; `wait` for all of them."""
        while self._saving:
            saving = self._saving[0]
            if not wait and not saving.pending.done():
                return
            self._saving.popleft()
            try:
                saved = signs.result_of(saving.pending)
            except BkctlError as e:
                self._emit(RangeFailed(saving.number, e.kind, str(e)))
            except (OSError, MemoryError) as e:
                self._emit(RangeFailed(saving.number, "storage", what_failed(e)))
            else:
                seconds = PhaseSeconds(saving.snapshot_seconds, saving.scan_seconds, saved.seconds)
                self._emit(RangeDone(saving.number, saved.files, tuple(saving.decided), seconds))

    def _advance(self, number: int) -> Advance:
        told = time.monotonic()

        def advance(kvs: int, plain_bytes: int) -> None:
            nonlocal told
            if self._cancelled():
                raise CancelledError(0)
            now = time.monotonic()
            if now - told >= _REPORT_SECONDS:
                told = now
                self._emit(RangeAdvanced(number, kvs, plain_bytes))
                for run in (*_ending, self):
                    run.tell_saved(wait=False)

        return advance


def begin_job(job: RangeJob, emit: Emit, cancelled: Callable[[], bool]) -> JobRun:
    """Scan the job's ranges one after the other; each ends in one RangeDone or RangeFailed.

    One range's error does not stop the others; a cancelled job stops. Returns the rest: files that
    are on their way, and the ranges that end with them.
    """
    # Reference counting frees all that the hot loop makes; the collector would only look on.
    gc.disable()
    for earlier in _ending:
        if earlier.task != job.task:  # another storage, perhaps
            earlier.tell_saved(wait=True)
    _saves.open()
    run = JobRun(job, emit, cancelled)
    run.run(job.ranges)
    return run


def run_job(job: RangeJob, emit: Emit, cancelled: Callable[[], bool]) -> None:
    """Do the whole of a job, its rest included."""
    begin_job(job, emit, cancelled).wait()
