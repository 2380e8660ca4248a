"""The process that has a store on the machine that the store is on: `python -m` this module.

It does what a backup of one machine does: pins the store, applies its raft log as it is told, and
runs ranges in worker processes. It is spoken to over a socket (`messages`), by the Dask worker that
started it (`bridge`), and ends with that: its private folders are gone then. What is in a store may
crash a library; that ends a process of this one, not the Dask worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import BkctlError, CancelledError
from bkctl.executor.messages import (
    Answer,
    Apply,
    Ask,
    BlockingLocks,
    Cancel,
    Done,
    Ended,
    Event,
    FindChanges,
    Finish,
    Lost,
    OpenStore,
    Read,
    Records,
    Refused,
    RegionRecords,
    Run,
    StoreFacts,
    Told,
    Without,
)
from bkctl.pool.pool import Again, Emitted, JobLost, started_pool
from bkctl.pool.processes import end_all
from bkctl.shortage import what_failed

if TYPE_CHECKING:
    from bkctl.backup.task import BackupTask, RangeJob
    from bkctl.pool.pool import PoolEvent, WorkerPool
    from bkctl.pool.worker import Rest
    from bkctl.raft.replayer import RaftReplayer
    from bkctl.raft.source import RaftSource

_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Numbered:
    """A job by its number, for the workers' processes."""

    number: int
    job: RangeJob


def run_numbered(job: Numbered, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> Rest:
    """Run a job; what it tells has its number, as what is told of a rest comes later."""
    from bkctl.backup.workers import run_range_job

    return run_range_job(job.job, lambda event: emit((job.number, event)), cancelled)


class Store:
    """The store that the agent has, once it is opened."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled
        self._source: RaftSource | None = None
        self._replaying: AbstractContextManager[RaftReplayer | None] | None = None
        self._replayer: RaftReplayer | None = None
        self._folders = ExitStack()
        self._staging: Path | None = None
        self._place = ""
        self._tasks: tuple[BackupTask, BackupTask] | None = None

    def answer(self, request: Any) -> Any:
        """Do what a request of `messages` asks for; raises BkctlError."""
        if isinstance(request, OpenStore):
            return self._open(request)
        source, replayer = self._source, self._replayer
        assert source is not None
        if isinstance(request, Read):
            return None if replayer is None else replayer.read()
        if isinstance(request, Apply):
            return () if replayer is None else replayer.apply(request.decided)
        if isinstance(request, Finish):
            return self._finish(source)
        if isinstance(request, RegionRecords):
            return list(source.region_records())
        if isinstance(request, Records):
            return list(source.records(request.family, request.lower, request.upper))
        if isinstance(request, BlockingLocks):
            return list(_blocking(source, request))
        if isinstance(request, FindChanges):
            from bkctl.backup.changes import find_changes

            return find_changes(source, request.ranges, request.start_ts, request.end_ts)
        assert isinstance(request, Without)
        return source.without(request.files)

    def _open(self, request: OpenStore) -> bool:
        from bkctl.raft.source import RaftSource

        self._place = request.place
        self._source = RaftSource(request.options, self._is_cancelled, is_led=True)
        self._replaying = self._source.replaying()
        self._replayer = self._replaying.__enter__()
        return self._replayer is not None

    def _finish(self, source: RaftSource) -> StoreFacts:
        from bkctl.backup.orphans import refuse_forgotten_files

        if self._replayer is not None:
            self._replayer.finish()
        replaying, self._replaying = self._replaying, None
        assert replaying is not None
        replaying.__exit__(None, None, None)
        source.settle()
        if not source.options.point_in_time:
            refuse_forgotten_files(source)
        return StoreFacts(
            ident=source.ident,
            path=source.path,
            db_dir=source.db_dir,
            families=tuple(source.families),
            is_live=source.is_live,
            is_encrypted=source.is_encrypted,
            is_ttl_known=source.is_ttl_known,
            is_log_ignored=source.is_log_ignored,
            has_regions=source.has_region_records(),
            standings=source.standings,
            live_files=source.live_files(),
            blob_files=source.blob_files,
        )

    def localise(self, job: RangeJob) -> RangeJob:
        """The job with all that is this machine's own: the view, places for files, limits."""
        if self._tasks is None or self._tasks[0] != job.task:
            self._tasks = job.task, self._local_task(job.task, job.ranges[0][1].view)
        return dataclasses.replace(job, task=self._tasks[1])

    def _local_task(self, task: BackupTask, number: int) -> BackupTask:
        from bkctl.folders import refuse_work_dir_in

        source = self._source
        assert source is not None
        source.rest()
        view = task.views[number]
        if view.place != self._place:
            # Made for another agent: the ranges are as well read where no file is left out.
            view = dataclasses.replace(
                view, db_dir=source.db_dir, source=source.path, deciding_dir=source.db_dir
            )
        views = (*task.views[:number], view, *task.views[number + 1 :])
        storage, staging, seal = task.storage, task.staging, task.seal
        if storage.rate_limit is not None:
            state = source.db_dir.parent / "rate-limit"
            limit = dataclasses.replace(storage.rate_limit, state=state)
            storage = dataclasses.replace(storage, rate_limit=limit)
        if storage.scheme != "local":
            if task.cipher is not None:
                refuse_work_dir_in(storage.path, source.options.work_dir)
            staging = self._own_staging(source)
            if source.is_encrypted and task.cipher is None:
                from bkctl.codec.cipher import random_cipher

                seal = random_cipher()
        return dataclasses.replace(task, views=views, storage=storage, staging=staging, seal=seal)

    def _own_staging(self, source: RaftSource) -> Path:
        from bkctl.folders import PrivateFolder

        if self._staging is None:
            folder = PrivateFolder("bkctl-staging-", source.options.work_dir)
            self._staging = self._folders.enter_context(folder)
        return self._staging

    def close(self) -> None:
        """Let the store go, with all folders."""
        self._folders.close()
        if self._source is not None:
            self._source.close()


def _blocking(source: RaftSource, request: BlockingLocks) -> Iterator[tuple[bytes, bytes]]:
    from bkctl.mvcc.keys import decode_data_key
    from bkctl.mvcc.lock import parse_lock

    for span in request.spans:
        for data_key, value in source.records("lock", *span):
            if parse_lock(value).blocks(decode_data_key(data_key), request.end_ts):
                yield data_key, value


class Agent:
    """Serves what comes through the connection, until that ends."""

    def __init__(self, connection: Connection, pool: WorkerPool) -> None:
        self._connection, self._pool = connection, pool
        self._parent = os.getppid()
        self._inbox: deque[Any] = deque()
        self._is_cancelled = self._is_alone = False
        # How much each job has told.
        self._counts: dict[int, int] = {}
        self.store = Store(self._must_stop)

    def serve(self) -> None:
        """Do all that is asked for."""
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while not self._look(None):
                while self._inbox:
                    self._take(self._inbox.popleft())

    def _look(self, timeout: float | None) -> bool:
        """Read what has come, and tell what has happened; whether nobody is there any more."""
        if timeout is None and not self._inbox:
            for told in self._tidied(self._pool.wait(_LOOK_SECONDS, [self._connection])):
                self._connection.send(told)
        try:
            while self._connection.poll(0):
                message = self._connection.recv()
                if isinstance(message, Cancel):
                    self._cancel()
                else:
                    self._inbox.append(message)
        except (EOFError, OSError):
            self._is_alone = True
        self._is_alone |= os.getppid() != self._parent
        return self._is_alone

    def _cancel(self) -> None:
        self._is_cancelled = True
        waiting = [each for each in self._inbox if isinstance(each, Run)]
        for forgotten in (*waiting, *self._pool.queued):
            self._connection.send(Ended(forgotten.number, Lost(0, "stopped", Again.NOTHING)))
        self._inbox = deque(each for each in self._inbox if not isinstance(each, Run))
        self._pool.cancel()

    def _must_stop(self) -> bool:
        """For what takes long: whether it is to be given up."""
        return self._look(0) or self._is_cancelled

    def _take(self, message: Any) -> None:
        if isinstance(message, Run):
            self._counts[message.number] = 0
            try:
                job = self.store.localise(message.job)
            except (BkctlError, OSError) as e:
                told = str(e) if isinstance(e, BkctlError) else what_failed(e)
                self._connection.send(Ended(message.number, Lost(0, told, Again.NOTHING)))
                return
            self._pool.submit(Numbered(message.number, job))
            return
        assert isinstance(message, Ask)
        try:
            answer = self.store.answer(message.request)
        except CancelledError:
            answer = Refused("BkctlError", "the agent was told to stop")
        except BkctlError as e:
            answer = Refused.of(e)
        except (OSError, MemoryError) as e:
            answer = Refused("BkctlError", what_failed(e))
        self._connection.send(Answer(message.number, answer))

    def _tidied(self, events: list[PoolEvent]) -> Iterator[Told | Ended]:
        """What happened in the pool, what one job told together."""
        told: dict[int, list[Event]] = {}
        for happened in events:
            if isinstance(happened, Emitted):
                number, event = happened.event
                count = self._counts.get(number, 0)
                self._counts[number] = count + 1
                told.setdefault(number, []).append(Event(count, happened.worker, event))
                continue
            number = happened.job.number
            self._counts.pop(number, None)
            yield Told(number, tuple(told.pop(number, ())))
            if isinstance(happened, JobLost):
                yield Ended(number, Lost(happened.worker, happened.reason, happened.again))
            else:
                yield Ended(number, Done(happened.worker))
        for number, own in told.items():
            yield Told(number, tuple(own))


def main() -> None:
    """Serve the socket whose descriptor is given, with as many workers as are asked for."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    os.umask(0o077)
    connection = Connection(int(sys.argv[1]))
    try:
        # They are forked before there is anything else.
        with started_pool(int(sys.argv[2]), run_numbered, "bkctl.backup.worker") as pool:
            pool.adjust_with(int(sys.argv[2]))
            agent = Agent(connection, pool)
            try:
                agent.serve()
            finally:
                pool.cancel()
                pool.terminate()
                agent.store.close()
    finally:
        end_all()


if __name__ == "__main__":
    main()
