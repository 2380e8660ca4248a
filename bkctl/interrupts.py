"""Signals that come when nothing can be undone any more: they change nothing, and say nothing.

A command whose outcome is there (a backup that is published, say) must not end with the code of
an interrupt because a signal met it while it was clearing up. So every handler of the program asks
`is_settled` first. It imports nothing but what is built in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AGAIN_SECONDS = 0.05

_settled = False
_is_settling = False
# Signals that came meanwhile.
_waiting: list[int] = []


def settle() -> None:
    """From now on signals change nothing: the outcome is there, and the program about to end."""
    global _settled
    _settled = True


@contextlib.contextmanager
def settling() -> Iterator[None]:
    """The block brings the outcome about, in a step: signals wait until it is through or failed.

    If it is through, the outcome is settled, and they change nothing; else they are handled then.
    Handlers run between any two steps of the main thread, whatever thread is told of a signal, so
    that blocking signals would not do. To be kept short: nothing else breaks the block off.
    """
    global _is_settling
    _is_settling = True
    try:
        yield
        settle()
    finally:
        _is_settling = False
        waiting, _waiting[:] = tuple(_waiting), ()
        if not _settled:
            for signum in waiting:
                signal.raise_signal(signum)


def unsettle() -> None:
    """Signals count again: a command begins."""
    global _settled
    _settled = False
    _waiting.clear()


def deafen() -> None:
    """Let signals change nothing any more, to the very end of the process.

    Python's own handlers end before the process does, and what is left of it could be killed then.
    """
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def is_settled() -> bool:
    """Whether it is too late for signals."""
    return _settled


def end_at_once() -> None:
    """Until the command line handles signals itself, let them end the program without a word."""
    _install(_end)


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, signals go to `handler`."""
    before = _install(handler)
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, handler_before)


@contextlib.contextmanager
def unwinding(errors: dict[int, type[BaseException]]) -> Iterator[None]:
    """Within the block, signals raise what `errors` has for them, until the outcome is settled.

    Raised where Python drops errors (a finalizer, a weak reference's callback), one is raised again
    a moment later.
    """

    def unwind(signum: int, frame: FrameType | None) -> None:
        if not _settled:
            raise errors[signum]

    def again(dropped: sys.UnraisableHookArgs) -> None:
        lost = [signum for signum, error in errors.items() if dropped.exc_type is error]
        if lost:
            threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), lost[0])).start()
        else:
            before(dropped)

    before = sys.unraisablehook
    sys.unraisablehook = again
    try:
        with handled_by(unwind):
            yield
    finally:
        sys.unraisablehook = before


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    # What the program was started to ignore (a shell's background jobs, SIGINT) stays ignored.
    heard = [signum for signum in _SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            _leave_terminal()
        if _is_settling:
            _waiting.append(signum)
        else:
            handler(signum, frame)

    return {signum: signal.signal(signum, handle) for signum in heard}


def _leave_terminal() -> None:
    """Let what is said go nowhere if the terminal is gone: writing there would be an error."""
    import termios

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as e:
            if e.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def _end(signum: int, frame: FrameType | None) -> None:
    if not _settled:
        sys.exit(128 + signum)
