"""One worker process of a pool: its parent's handle of it, and what it does itself.

Messages to it are jobs, each in a tuple of its own, and None to end. Its own messages are

    ready, None     it is loaded, and can be given a job
    event, what     what the job's target emits
    free, None      the target has returned; a rest of the job may be left
    done, None      the oldest job of which a rest was left is all done
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from bkctl.pool import processes, signs
from bkctl.pool.signs import Signs, Vigil

READY, EVENT, FREE, DONE = "ready", "event", "free", "done"

# So long a worker that is to end is waited for.
_ENDING_SECONDS = 10.0


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


class Worker:
    """A worker as its parent sees it; `job` is the one it runs, None while it is free."""

    def __init__(
        self,
        number: int,
        target: Target,
        cancel_flag: Any,
        preload: str,
        clock: Callable[[], float],
    ) -> None:
        self.number = number
        self.connection, theirs = multiprocessing.Pipe()
        self.signs = Signs()
        self.process = processes.start_shielded(
            _worker_main,
            (theirs, target, cancel_flag, preload, self.signs),
            f"bkctl-worker-{number}",
        )
        self.vigil = Vigil(self.signs, clock)
        # Why it was killed, if it was killed here.
        self.killed_for = ""
        theirs.close()
        self.ready = False
        self.retiring = False
        self.used = False
        self.job: Any = None
        # Jobs of which only a rest is left, oldest first.
        self.ending: deque[Any] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
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

    def give(self, job: Any) -> None:
        """Let it begin a job; that it died meanwhile is noticed, with its job, when it is read."""
        self.job, self.used = job, True
        self.vigil.begin()
        with contextlib.suppress(OSError):
            self.connection.send((job,))

    def kill_if_stuck(self, *, is_stopping: bool) -> None:
        """Kill it if it has something to do and shows no sign of life."""
        if self.is_idle and self.ready:
            self.vigil.begin()
        elif not self.killed_for and self.vigil.is_stuck(is_stopping=is_stopping):
            self.killed_for = (
                f"it gave no sign of life for {self.vigil.silence:.0f} s and was killed; "
                "it hung in a library or on a disk: is there memory left?"
            )
            self.process.kill()

    @property
    def death(self) -> str:
        """How its process ended, and what it had in hand then."""
        told = self.killed_for or processes.describe_end(self.process.exitcode)
        at_hand = self.signs.at_hand
        return f"{told} (it had {at_hand} in hand)" if at_hand else told

    def reap(self) -> None:
        """Wait for its end, though not for ever."""
        self.process.join(_ENDING_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            # It may still not end: a disk that does not answer holds a process back even then.
            self.process.join(_ENDING_SECONDS)
        self.connection.close()


def _worker_main(
    connection: Connection, target: Target, cancel_flag: Any, preload: str, given: Signs
) -> None:
    processes.begin()
    processes.keep_memory()
    given.adopt()

    def emit(event: Any) -> None:
        signs.beat()
        connection.send((EVENT, event))

    def cancelled() -> bool:
        signs.beat()
        return bool(cancel_flag.value)

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send((READY, None))
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
                connection.send((DONE, None))
            signs.beat()
            if connection in wait(sources, signs.BEAT_SECONDS if rests else None):
                message = connection.recv()
                if message is None:
                    return
                rests.append(target(message[0], emit, cancelled))
                connection.send((FREE, None))
