"""Signals to commands that stop in good order: the first asks, the second breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType

from bkctl import interrupts
from bkctl.errors import CancelledError
from bkctl.ui import log


class Stop:
    """Whether a signal has asked the command to stop, and which."""

    def __init__(self) -> None:
        self.signum = 0

    def is_asked(self) -> bool:
        """Whether it has."""
        return self.signum != 0

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if interrupts.is_settled():
            return
        if self.signum:
            raise CancelledError(signum)
        self.signum = signum
        log.info("stopping", "stopping; once more to break off", signal=signum)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within the block, the first signal is only noted; the second raises CancelledError.

    A block that comes to its end has brought the outcome about: later signals change nothing.
    """
    interrupts.unsettle()
    stop = Stop()
    with interrupts.handled_by(stop._handle):
        yield stop
        interrupts.settle()
