"""A process that answers requests, so that what may crash is not in the process that tells of it.

    to it      a request, in a tuple of its own; it is killed in the end
    from it    ("answer", what) any number of times, then ("end", None), or ("error", why)

It works on one request at a time, and waits with its answers until they are taken.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV
from typing import Any

from bkctl.errors import BkctlError, CancelledError, WorkerDiedError
from bkctl.pool import processes
from bkctl.pool.signs import SILENT_SECONDS, STOPPING_SECONDS
from bkctl.shortage import is_memory_limited, what_failed

Handler = Callable[[Any], Iterable[Any]]
"""Gives the answers to a request, one by one; what it raises beside BkctlError is a crash."""

_CRASHES = frozenset({SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV})
_LOOK_SECONDS = 0.5
_ENDING_SECONDS = 10.0
_ANSWER, _END, _ERROR = "answer", "end", "error"


class HelperDiedError(WorkerDiedError):
    """A helper ended with a request in work; `is_crash` tells that a library made it crash."""

    def __init__(self, how: str, *, is_crash: bool) -> None:
        super().__init__(how)
        self.is_crash = is_crash


class Helper:
    """Such a process; it starts with the first request, or with `start`, and ends with `close`."""

    def __init__(
        self,
        make: Callable[[], Handler],
        name: str,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`make` makes the handler in the process: it is importable by its name.

        While answers are waited for, `is_cancelled` is asked whether to give up soon.
        """
        self._make, self._name = make, name
        self._is_cancelled = is_cancelled
        self._process: Any = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the process, if it does not run."""
        if self._process is not None:
            return
        self._connection, theirs = multiprocessing.Pipe()
        try:
            self._process = processes.start_shielded(
                _serve, (theirs, self._make), f"bkctl-{self._name}"
            )
        finally:
            theirs.close()

    def ask(self, request: Any) -> Iterator[Any]:
        """Yield the answers; what is not taken of them ends the process.

        Raises the BkctlError that the handler raises, HelperDiedError, and CancelledError once
        `is_cancelled` says so.
        """
        self.start()
        assert self._connection is not None
        ended = False
        try:
            self._connection.send((request,))
            while True:
                kind, what = self._receive(self._connection)
                if kind == _ANSWER:
                    yield what
                    continue
                ended = True
                if kind == _ERROR:
                    raise what
                return
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(_ENDING_SECONDS)
            code = self._process.exitcode
            how = processes.describe_end(code)
            # Where memory is limited, libraries abort for want of it: that proves no damage.
            is_short = code == -SIGABRT and is_memory_limited()
            is_crash = -(code or 0) in _CRASHES and not is_short
            raise HelperDiedError(how, is_crash=is_crash) from None
        finally:
            if not ended:
                self.close()

    def _receive(self, connection: Connection) -> Any:
        """The next message; a process that does nothing at all for a minute is killed."""
        activity = Activity(self._process.pid)
        quiet = unwanted = 0.0
        while not connection.poll(_LOOK_SECONDS):
            unwanted += _LOOK_SECONDS if self._is_cancelled() else 0
            if unwanted >= STOPPING_SECONDS:
                raise CancelledError(0)
            quiet = 0.0 if activity.goes_on() else quiet + _LOOK_SECONDS
            if quiet >= SILENT_SECONDS:
                how = f"did nothing for {quiet:.0f} s and was killed; is there memory left?"
                raise HelperDiedError(how, is_crash=False)
        return connection.recv()

    def close(self, *, wait: bool = True) -> None:
        """End the process; may be called twice, and a later request starts another.

        Without `wait` it may still be there for some milliseconds.
        """
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            if wait:
                process.join(_ENDING_SECONDS)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Activity:
    """Whether a process does anything, by what the system knows of its threads.

    A library's one call may take long: it works, or waits for a disk. What hangs does neither.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._ticks = -1

    def goes_on(self) -> bool:
        """Whether it has done something since it was asked last, or does now."""
        ticks, before = 0, self._ticks
        try:
            for task in self._tasks.iterdir():
                fields = (task / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                if fields[0] in "RD":
                    return True
                ticks += int(fields[11]) + int(fields[12])
        except (OSError, IndexError, ValueError):
            return True  # no such system, or it ends just now: its pipe will tell
        self._ticks = ticks
        return ticks != before


def _serve(connection: Connection, make: Callable[[], Handler]) -> None:
    processes.begin()
    handler = make()
    while True:
        try:
            (request,) = connection.recv()
        except EOFError:
            return
        try:
            for answer in handler(request):
                connection.send((_ANSWER, answer))
            connection.send((_END, None))
        except BkctlError as e:
            connection.send((_ERROR, e))
        except MemoryError:
            connection.send((_ERROR, BkctlError(what_failed(MemoryError()))))
