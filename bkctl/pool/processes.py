"""Starting worker processes: quickly, and so that they end with their parent and not before.

A process is forked while its parent has but one thread: it then finds all modules loaded, and
starts in milliseconds. Behind threads (RocksDB's, a progress display's) a fork could inherit a
lock that is never released; there it is spawned, which takes it a fresh interpreter.

Ctrl-C and a terminal's hanging up, which reach all processes of a terminal, are the parent's.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from bkctl.shortage import NoThreadError, is_memory_limited, what_failed

_SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDERR = 2
# EX_OSERR of sysexits.h: nothing else here ends with it.
_NO_MEMORY = 71

# glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (malloc.h), and bytes.
_KEPT = ((-1, 64 << 20), (-2, 16 << 20), (-3, 16 << 20))

_life: tuple[int, int] | None = None
"""The pipe that forked processes watch: all its writing ends are gone when this process is."""


def can_fork() -> bool:
    """Whether this process has a single thread, those of libraries counted."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # no /proc
        return False


def start_shielded(target: Callable[..., None], args: tuple[Any, ...], name: str) -> BaseProcess:
    """Start a process with signals blocked, so that it cannot die of one before it is ready.

    Nor can a signal's error leave a process behind that is half started, and known to nobody.
    `target` is a module-level function that calls `begin` first thing. The process is a daemon.
    """
    global _life
    # Anew for each: between two starts, threads may have come.
    if can_fork():
        context: Any = multiprocessing.get_context("fork")
        # What is loaded is not looked through for garbage in each process again.
        gc.freeze()
        _life = _life or os.pipe()
    else:
        context = multiprocessing.get_context("spawn")
        # Its own start, which the first process brings about, would unblock the signals again.
        resource_tracker.ensure_running()
    whole = (target, *args)
    process: BaseProcess = context.Process(target=_run, args=whole, name=name, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run(target: Callable[..., None], *args: Any) -> None:
    try:
        target(*args)
    except (MemoryError, NoThreadError):
        # The rest of a process that has no memory left would fail, too, and in many lines.
        os._exit(_NO_MEMORY)


def begin() -> None:
    """In a started process: leave what a terminal sends to the parent, and end when that does.

    SIGTERM ends it from here on, without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SHIELDED)
    _silence_libraries()
    watch = threading.Thread(target=_end_with, args=(_parent(),), name="parent-watch", daemon=True)
    try:
        watch.start()
    except RuntimeError:  # "can't start new thread"
        raise NoThreadError from None


def _silence_libraries() -> None:
    """Let what libraries write on stderr as they crash go nowhere; Python's own errors still come.

    How a process ended is told by its parent, in one line.
    """
    try:
        if sys.stderr.fileno() != _STDERR:
            return
        stderr = os.dup(_STDERR)
        null = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError, AttributeError):
        return  # closed, or none at all
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")
    os.dup2(null, _STDERR)
    os.close(null)


def describe_end(exitcode: int | None) -> str:
    """How a process ended, by its exit code: in words for a message."""
    if exitcode == _NO_MEMORY:
        return what_failed(MemoryError())
    if exitcode == -signal.SIGABRT and is_memory_limited():
        return f"killed by SIGABRT, maybe as {what_failed(MemoryError())}"
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    known = {member.value: member.name for member in signal.Signals}
    hint = ", out of memory or killed by hand" if -exitcode == signal.SIGKILL else ""
    return f"killed by {known.get(-exitcode, -exitcode)}{hint}"


def keep_memory() -> None:
    """Let the C library keep what is freed: the next batch will ask for as much again.

    Otherwise it gives large pieces back, and the system clears them anew each time they are asked
    for. Does nothing where the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, size in _KEPT:
            mallopt(setting, size)


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


def _parent() -> int:
    """What becomes readable when the parent is gone."""
    global _life
    if _life is None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # that of `begin`'s caller
        return parent.sentinel
    # A forked process has inherited its siblings' sentinels, which therefore tell nothing.
    sentinel, writing_end = _life
    os.close(writing_end)
    _life = None
    return sentinel


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)
