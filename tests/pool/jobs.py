"""Jobs for the pool's tests: they run in worker processes, so they are importable by name."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bkctl.pool import signs


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


def hang(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Do nothing for ever, as a call does that hangs in a library, if the job says so."""
    signs.note("/store/db")
    emit(os.getpid())
    if job == "hang":
        signal.pause()


def wait_for_long(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Wait for something that has a deadline of its own."""
    with signs.waiting():
        emit(os.getpid())
        signal.pause()


def beat_elsewhere(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Hang while another thread is busy, as one that saves files would be."""
    threading.Thread(target=_beat_for_ever, daemon=True).start()
    emit(os.getpid())
    signal.pause()


def _beat_for_ever() -> None:
    while True:
        signs.beat()
        with signs.waiting():
            os.sched_yield()
