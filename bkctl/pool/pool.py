"""A pool of worker processes that can be resized while it runs and closes when idle.

TiKV's ControlThreadPool, with processes: `adjust_with` grows at once, and shrinks only if more
than ten workers would idle; running jobs always finish; `check_active` closes a pool that has had
nothing to do for a time. A worker that dies costs the job it had, and is replaced; so does one that
is killed as it gives no sign of life (`signs`): it hangs in a library, say, for want of memory.

Jobs wait in one queue; a worker takes the next when it is free. Nothing here knows what a job is:
`target(job, emit, cancelled)` runs it in the worker, `emit` sends anything picklable to the parent.
What is left of a job when its target returns (a `Rest`, files on their way to a storage) does not
keep the worker from the next one; the job is done when that is.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_bool
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from typing import Any

from bkctl.errors import WorkerDiedError
from bkctl.pool import processes
from bkctl.pool.worker import EVENT, FREE, READY, Target, Worker

MAX_IDLE_WORKERS = 10
_STARTS_BEFORE_GIVING_UP = 3
# So often the pool looks after its workers while it waits for them.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Emitted:
    """Worker number `worker` sent `event`, of the job it runs (`job`) or of a rest."""

    worker: int
    job: Any
    event: Any


@dataclass(frozen=True, slots=True)
class JobDone:
    """Worker number `worker` has finished `job`."""

    worker: int
    job: Any


class Again(Enum):
    """What of a job that was lost may be tried again.

    What was begun may be what a worker died of; that of a machine which is gone is not. Nothing,
    where nobody is left to do it.
    """

    UNBEGUN = "unbegun"
    ALL = "all"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class JobLost:
    """Worker number `worker` died while it had `job`; `reason` says how."""

    worker: int
    job: Any
    reason: str
    again: Again = Again.UNBEGUN


PoolEvent = Emitted | JobDone | JobLost


class WorkerPool:
    """Runs jobs in worker processes; all methods are called from one thread."""

    def __init__(
        self, target: Target, clock: Callable[[], float] = time.monotonic, *, preload: str = ""
    ) -> None:
        """An empty pool; `adjust_with` gives it workers.

        `preload` is a module that workers need: loaded here once where they can be forked, else
        by each while it waits for its first job.
        """
        self._cancel_flag: Any = RawValue(c_bool, False)
        self._target = target
        self._preload = preload
        self._clock = clock
        self._workers: list[Worker] = []
        self._queue: deque[Any] = deque()
        self._failed_starts = 0
        self.size = 0
        self._last_active = clock()

    @property
    def busy(self) -> bool:
        """Whether any job is queued or running."""
        return bool(self._queue) or not all(worker.is_idle for worker in self._workers)

    @property
    def free(self) -> int:
        """How many more jobs could start at once."""
        working = sum(worker.job is not None for worker in self._workers if not worker.retiring)
        return max(0, self.size - working - len(self._queue))

    @property
    def process_ids(self) -> list[int]:
        """The ids of the living worker processes."""
        return [worker.process.pid or 0 for worker in self._workers]

    def adjust_with(self, new_size: int) -> None:
        """Resize lazily: grow at once, shrink only if more than ten workers would idle."""
        if self.size >= new_size and self.size - new_size <= MAX_IDLE_WORKERS:
            return
        self.size = new_size
        self._fit()
        self.heartbeat()

    def warm_up(self, count: int) -> None:
        """Start `count` workers before there are jobs; those too many for `adjust_with` retire."""
        self.size = max(self.size, count)
        for _ in range(count - len(self._workers)):
            self._start()

    def submit(self, job: Any) -> None:
        """Queue a job; it starts when a worker is free."""
        if not self.busy:
            self._cancel_flag.value = False
        self._queue.append(job)
        self.heartbeat()
        self._fit()
        self._dispatch()

    def heartbeat(self) -> None:
        """Count this moment as active."""
        self._last_active = self._clock()

    def check_active(self, idle_threshold: float) -> None:
        """Close all workers if nothing ran for `idle_threshold` seconds; size is 0 then."""
        if self.busy:
            self.heartbeat()
        elif self._clock() - self._last_active >= idle_threshold:
            self.size = 0
            self.close()

    @property
    def queued(self) -> tuple[Any, ...]:
        """The jobs that have not begun."""
        return tuple(self._queue)

    def cancel(self) -> None:
        """Tell running jobs to stop soon, and forget the queued ones."""
        self._queue.clear()
        self._cancel_flag.value = True

    def wait(
        self, timeout: float | None = None, also: Sequence[Connection] = ()
    ) -> list[PoolEvent]:
        """What has happened, once something has or `timeout` seconds have passed.

        That something can be read from one of `also` ends it, too.
        Raises WorkerDiedError when workers end again and again before they are ready.
        """
        events: list[PoolEvent] = []
        left = math.inf if timeout is None else timeout
        while True:
            step = min(left, _LOOK_SECONDS)
            left -= step
            if self._wait(step, events, also) or left <= 0:
                return events

    def _wait(
        self, timeout: float, events: list[PoolEvent], also: Sequence[Connection] = ()
    ) -> bool:
        """Wait and read, look after the workers; whether anything came of one, or of `also`."""
        sources = {worker.connection: worker for worker in self._workers}
        readable = wait([*sources, *also], timeout)
        for connection in readable:
            if isinstance(connection, Connection) and connection in sources:
                self._read(sources[connection], events)
        for worker in self._workers:
            worker.kill_if_stuck(is_stopping=bool(self._cancel_flag.value))
        self._fit()
        self._dispatch()
        return bool(readable)

    def dismiss(self) -> None:
        """Tell idle workers to end, and do not wait for that: `close` is all that may follow."""
        for worker in self._workers:
            if worker.is_idle:
                worker.stop()

    def close(self) -> None:
        """End all workers: idle ones at once, running jobs are waited for."""
        self.dismiss()
        # None is started in the place of one that ends.
        self.size = 0
        while any(not worker.is_idle for worker in self._workers):
            self._queue.clear()
            with contextlib.suppress(WorkerDiedError):
                self._wait(_LOOK_SECONDS, [])
        self.dismiss()
        for worker in self._workers:
            worker.reap()
        self._workers.clear()

    def terminate(self) -> None:
        """Kill all workers now."""
        self._queue.clear()
        for worker in self._workers:
            worker.process.kill()
            worker.reap()
        self._workers.clear()

    def _fit(self) -> None:
        """Bring the number of workers to `size`: start some, or let some retire."""
        active = [worker for worker in self._workers if not worker.retiring]
        idle_first = sorted(active, key=lambda worker: worker.job is not None)
        for worker in idle_first[: max(0, len(active) - self.size)]:
            worker.retiring = True
        working = sum(worker.job is not None for worker in active)
        wanted = min(self.size, working + len(self._queue))
        for _ in range(wanted - len(active)):
            self._start()
        for worker in [w for w in self._workers if w.retiring and w.is_idle]:
            worker.stop()
            worker.reap()
            self._workers.remove(worker)

    def _start(self) -> None:
        taken = {worker.number for worker in self._workers}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        if self._preload and processes.can_fork():
            importlib.import_module(self._preload)
        self._workers.append(
            Worker(number, self._target, self._cancel_flag, self._preload, self._clock)
        )

    def _dispatch(self) -> None:
        for worker in self._workers:
            if not self._queue:
                return
            if worker.job is None and not worker.retiring:
                worker.give(self._queue.popleft())

    def _read(self, worker: Worker, events: list[PoolEvent]) -> None:
        """Take one message of a worker, or notice its end."""
        try:
            kind, payload = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker, events)
            return
        if kind == READY:
            worker.ready = True
            self._failed_starts = 0
        elif kind == EVENT:
            events.append(Emitted(worker.number, worker.job, payload))
        elif kind == FREE:
            worker.ending.append(worker.job)
            worker.job = None
        else:
            self.heartbeat()
            events.append(JobDone(worker.number, worker.ending.popleft()))

    def _bury(self, worker: Worker, events: list[PoolEvent]) -> None:
        worker.reap()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_BEFORE_GIVING_UP:
                raise WorkerDiedError(
                    f"worker processes end before they start ({worker.death}); "
                    "is there memory left?"
                )
            if worker.job is not None:
                self._queue.appendleft(worker.job)
        else:
            events += [JobLost(worker.number, job, worker.death) for job in worker.jobs]


@contextlib.contextmanager
def started_pool(count: int, target: Target, preload: str) -> Iterator[WorkerPool]:
    """A pool of `count` workers that start now; none is left at the end of the block."""
    pool = WorkerPool(target, preload=preload)
    try:
        pool.warm_up(count)
        yield pool
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.close()
