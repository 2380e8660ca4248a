"""Signals that come when nothing can be undone any more: they change nothing, and say nothing.

A command whose outcome is there (a backup that is published, say) must not end with the code of
an interrupt because a signal met it while it was clearing up. So every handler of the program asks
`is_settled` first. It imports nothing but what is built in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AGAIN_SECONDS = 0.05

_settled = False


def settle() -> None:
    """From now on signals change nothing: the outcome is there, and the program about to end."""
    global _settled
    _settled = True


def unsettle() -> None:
    """Signals count again: a command begins."""
    global _settled
    _settled = False


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
    return {signum: signal.signal(signum, handler) for signum in heard}


def _end(signum: int, frame: FrameType | None) -> None:
    if not _settled:
        sys.exit(128 + signum)
