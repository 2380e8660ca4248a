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

from bkctl.engine.events import DoneRange, Listener, SilentListener
from bkctl.errors import UsageError
from bkctl.regions.plan import BackupRange
from bkctl.ui import log
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.tally import Tally

PLAIN_SECONDS = 10.0
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


class PlainListener(SilentListener):
    """One line of figures every ten seconds at most, one at the end, one for each failure."""

    def __init__(self, stream: QuietStream, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._tally = Tally(clock)
        self._last = clock()
        self._is_running = False

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        self._tally.started(total_ranges, approximate_keys)
        self._last = self._clock()
        self._is_running = True

    def range_started(self, worker: int, backup_range: BackupRange) -> None:
        """See Listener."""
        self._tally.range_started(worker, backup_range)
        self._say_if_due()

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""
        self._tally.advanced(worker, kvs, plain_bytes)
        self._say_if_due()

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        self._tally.range_done(worker, done.kvs, done.plain_bytes)
        self._say_if_due()

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """See Listener."""
        self._tally.range_failed(worker, backup_range)
        self._say(failure_line(backup_range, kind, message))
        self._say_if_due()

    def finished(self) -> None:
        """See Listener."""
        if self._is_running:
            self._is_running = False
            self._say(self._tally.in_words(finished=True))

    def _say_if_due(self) -> None:
        if self._clock() - self._last >= PLAIN_SECONDS:
            self._last = self._clock()
            self._say(self._tally.in_words())

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
