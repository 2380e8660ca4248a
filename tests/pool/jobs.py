"""Jobs for the pool's tests: they run in worker processes, so they are importable by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def touch(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Leave a file named after the job."""
    Path(job).touch()
    emit(os.getpid())


def until_released(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Say that it runs, then read a pipe (a FIFO's path) until the test writes to it."""
    emit(os.getpid())
    with open(job, "rb") as fifo:
        fifo.read(1)


def until_cancelled(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Work until told to stop."""
    emit("running")
    while not cancelled():
        pass
    emit("stopped")


def die(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """End as the out-of-memory killer would have it, if the job says so."""
    emit(os.getpid())
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)


class _Fifo:
    """A rest that lasts until the test writes to a FIFO."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def tell(self) -> bool:
        try:
            return os.read(self._fd, 1) == b"x"
        except BlockingIOError:
            return False


def with_rest(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> _Fifo:
    """Leave a rest that lasts until the test writes to a FIFO, whose path the job is."""
    rest = _Fifo(job)
    emit(os.getpid())
    return rest
