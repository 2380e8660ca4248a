"""Progress of a run on stderr: a live display on a terminal, a line now and then elsewhere.

A display is a comfort: one that cannot write (a closed or full stderr) falls silent and leaves the
run alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from bkctl.engine.events import Listener, SilentListener
from bkctl.errors import UsageError
from bkctl.regions.plan import BackupRange
from bkctl.ui import log
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.periodic import PeriodicListener

_MAX_SHOWN_KEY = 60
# What writing to a closed, full or torn-down stream raises.
_STREAM_ERRORS = (OSError, ValueError)


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


def failure_line(backup_range: BackupRange, kind: str, message: str) -> str:
    """A failed range on one line: which, and why."""
    start = shorten_middle(describe_key(backup_range.raw_start_key, "(start)"), _MAX_SHOWN_KEY)
    end = shorten_middle(describe_key(backup_range.raw_end_key, "(end)"), _MAX_SHOWN_KEY)
    reason = log.one_line(message)
    return f"region {backup_range.region.id} [{start}, {end}) failed: {kind}: {reason}"


class QuietStream:
    """Passes on to a stream what it takes; what cannot be written is lost without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Displays choose their characters by it.
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write the text, or not."""
        with contextlib.suppress(*_STREAM_ERRORS):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or not."""
        with contextlib.suppress(*_STREAM_ERRORS):
            self._stream.flush()


class PlainListener(PeriodicListener):
    """One line of figures every ten seconds at most, one at the end, one for each failure."""

    def __init__(self, stream: QuietStream, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._stream = stream

    def tell(self, *, finished: bool = False) -> None:
        """See PeriodicListener."""
        self._say(self.tally.in_words(finished=finished))

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """See Listener."""
        self._say(failure_line(backup_range, kind, message))
        super().range_failed(worker, backup_range, kind, message)

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
