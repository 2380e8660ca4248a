"""A pool of worker processes that can be resized while it runs and closes when idle.

TiKV's ControlThreadPool, with processes: `adjust_with` grows at once, and shrinks only if more
than ten workers would idle; running jobs always finish; `check_active` closes a pool that has had
nothing to do for a time. A worker that dies costs the job it had, and is replaced.

Jobs wait in one queue; a worker takes the next when it is free. Nothing here knows what a job is:
`target(job, emit, cancelled)` runs it in the worker, `emit` sends anything picklable to the parent.
What is left of a job when its target returns (a `Rest`, files on their way to a storage) does not
keep the worker from the next one; the job is done when that is.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from ctypes import c_bool
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from typing import Any, Protocol

from bkctl.errors import WorkerDiedError
from bkctl.pool import processes

MAX_IDLE_WORKERS = 10
_STARTS_BEFORE_GIVING_UP = 3


class Rest(Protocol):
    """What is left of a job while the worker may be at the next one."""

    def fileno(self) -> int:
        """What becomes readable when there may be something new to tell."""

    def tell(self) -> bool:
        """Tell what is new; whether that was all."""


class Target(Protocol):
    """What runs in a worker: a module-level function (it is sent by name)."""

    def __call__(
        self, job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]
    ) -> Rest | None:
        """Run `job`; what it raises is a crash of the worker, so it reports its own errors."""


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


@dataclass(frozen=True, slots=True)
class JobLost:
    """Worker number `worker` died while it had `job`; `reason` says how."""

    worker: int
    job: Any
    reason: str


PoolEvent = Emitted | JobDone | JobLost

_READY, _EVENT, _FREE, _DONE = "ready", "event", "free", "done"


class _Worker:
    def __init__(self, number: int, target: Target, cancel_flag: Any, preload: str) -> None:
        self.number = number
        self.connection, theirs = multiprocessing.Pipe()
        self.process = processes.start_shielded(
            _worker_main, (theirs, target, cancel_flag, preload), f"bkctl-worker-{number}"
        )
        theirs.close()
        self.ready = False
        self.retiring = False
        self.used = False
        self.job: Any = None
        # Jobs of which only a rest is left, oldest first.
        self.ending: deque[Any] = deque()

    @property
    def is_idle(self) -> bool:
        return self.job is None and not self.ending

    @property
    def jobs(self) -> list[Any]:
        """All that it has in work, oldest first."""
        return [*self.ending, *([] if self.job is None else [self.job])]

    def stop(self) -> None:
        """Make an idle worker end: by asking, unless it has nothing to put in order yet."""
        if not self.used:
            self.process.kill()
            return
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def reap(self) -> None:
        self.process.join()
        self.connection.close()


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
        self._workers: list[_Worker] = []
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

    def cancel(self) -> None:
        """Tell running jobs to stop soon, and forget the queued ones."""
        self._queue.clear()
        self._cancel_flag.value = True

    def wait(self, timeout: float | None = None) -> list[PoolEvent]:
        """What has happened, once something has or `timeout` seconds have passed.

        Raises WorkerDiedError when workers end again and again before they are ready.
        """
        events: list[PoolEvent] = []
        sources = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(sources), timeout):
            if isinstance(connection, Connection):
                self._read(sources[connection], events)
        self._fit()
        self._dispatch()
        return events

    def dismiss(self) -> None:
        """Tell idle workers to end, and do not wait for that: `close` is all that may follow."""
        for worker in self._workers:
            if worker.is_idle:
                worker.stop()

    def close(self) -> None:
        """End all workers: idle ones at once, running jobs are waited for."""
        for worker in self._workers:
            if worker.is_idle:
                worker.stop()
        for worker in self._workers:
            if not worker.is_idle:
                left = len(worker.jobs)
                with contextlib.suppress(EOFError, OSError):
                    while left:
                        left -= worker.connection.recv()[0] == _DONE
                worker.stop()
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
        self._workers.append(_Worker(number, self._target, self._cancel_flag, self._preload))

    def _dispatch(self) -> None:
        for worker in self._workers:
            if not self._queue:
                return
            if worker.job is None and not worker.retiring:
                worker.job = self._queue.popleft()
                worker.used = True
                # A dead worker's pipe is noticed, with its job, when it is read.
                with contextlib.suppress(OSError):
                    worker.connection.send((worker.job,))

    def _read(self, worker: _Worker, events: list[PoolEvent]) -> None:
        """Take one message of a worker, or notice its end."""
        try:
            kind, payload = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker, events)
            return
        if kind == _READY:
            worker.ready = True
            self._failed_starts = 0
        elif kind == _EVENT:
            events.append(Emitted(worker.number, worker.job, payload))
        elif kind == _FREE:
            worker.ending.append(worker.job)
            worker.job = None
        else:
            self.heartbeat()
            events.append(JobDone(worker.number, worker.ending.popleft()))

    def _bury(self, worker: _Worker, events: list[PoolEvent]) -> None:
        worker.reap()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_BEFORE_GIVING_UP:
                raise WorkerDiedError(
                    f"worker processes end before they start ({_ending(worker)}); "
                    "is there memory left?"
                )
            if worker.job is not None:
                self._queue.appendleft(worker.job)
        else:
            events += [JobLost(worker.number, job, _ending(worker)) for job in worker.jobs]


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


def _ending(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = ", out of memory or killed by hand" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    return f"exit code {code}"


def _worker_main(connection: Connection, target: Target, cancel_flag: Any, preload: str) -> None:
    processes.begin()
    processes.keep_memory()

    def emit(event: Any) -> None:
        connection.send((_EVENT, event))

    def cancelled() -> bool:
        return bool(cancel_flag.value)

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send((_READY, None))
        if preload:
            importlib.import_module(preload)
        rests: deque[Rest | None] = deque()
        while True:
            sources: list[Connection | int] = [connection]
            while rests:
                if (rest := rests[0]) is not None and not rest.tell():
                    sources.append(rest.fileno())
                    break
                rests.popleft()
                connection.send((_DONE, None))
            if connection in wait(sources):
                message = connection.recv()
                if message is None:
                    return
                rests.append(target(message[0], emit, cancelled))
                connection.send((_FREE, None))
