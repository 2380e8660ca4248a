"""Progress of a run on stderr: a live display on a terminal, a line now and then elsewhere.

A display is a comfort: one that cannot write (a closed or full stderr) falls silent and leaves the
run alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from bkctl.errors import UsageError
from bkctl.pool.events import JobRange, Listener, SilentListener
from bkctl.ui import log
from bkctl.ui.lines import QuietStream, failure_line
from bkctl.ui.periodic import PeriodicListener


def make_listener(
    mode: str, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Listener:
    """The display for a mode of --progress: `auto`, `rich`, `plain` or `none`.

    `auto` is rich on a terminal that can move its cursor, otherwise plain. `stream` None is
    stderr. Where the log is JSON, so is progress; `none` then leaves its regular lines out.
    Raises UsageError for another mode; the listener's own methods raise nothing.
    """
    if mode not in ("auto", "rich", "plain", "none"):
        raise UsageError(f"{mode!r} is no way to show progress; use auto, rich, plain or none")
    if log.is_json():
        from bkctl.ui.json_progress import JsonListener

        if mode == "rich":
            raise UsageError("--progress rich cannot go with --log-format json; leave one out")
        return JsonListener(clock, says_progress=mode != "none")
    stream = stream or sys.stderr
    if mode == "none" or stream is None:  # a closed stderr is None
        return SilentListener()
    if mode == "rich" or (mode == "auto" and is_screen(stream)):
        from bkctl.ui.live import RichListener

        return RichListener(QuietStream(stream), clock)
    return PlainListener(QuietStream(stream), clock)


def is_screen(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class PlainListener(PeriodicListener):
    """One line of figures every ten seconds at most, one at the end, one for each failure."""

    def __init__(self, stream: QuietStream, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._stream = stream

    def tell(self, *, finished: bool = False) -> None:
        """See PeriodicListener."""
        self._stream.line(self.tally.in_words(finished=finished))

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        """See Listener."""
        self._stream.line(failure_line(backup_range, kind, message))
        super().range_failed(worker, backup_range, kind, message)
