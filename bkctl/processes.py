"""Starting worker processes so that Ctrl-C, which reaches all of a terminal's, is the parent's."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import signal
from multiprocessing import resource_tracker

_SHIELDED = (signal.SIGINT, signal.SIGTERM)


def start_shielded(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process with signals blocked, so that it cannot die of SIGINT before it is ready.

    Nor can a signal's error leave a process behind that is half started, and known to nobody. The
    process calls `ignore_interrupts` first thing.
    """
    # Its own start, which the first process brings about, would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_all() -> None:
    """End all processes that were started and are left, and multiprocessing's own helper.

    Left are those that a signal met between their start and the note of it. Whoever looks at the
    processes of a finished command then finds none. The helper starts again at need.
    """
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    stop = getattr(getattr(resource_tracker, "_resource_tracker", None), "_stop", None)
    if stop is not None:
        stop()


def ignore_interrupts() -> None:
    """In a started process: leave SIGINT to the parent for good, and hear SIGTERM from here on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SHIELDED)
