"""What displays of a run share: the line that tells a failure, a stream that raises nothing."""

from __future__ import annotations

import contextlib
from typing import TextIO

from bkctl.pool.events import JobRange
from bkctl.ui import log
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.printable import printable

_MAX_SHOWN_KEY = 60
# What writing to a closed, full or torn-down stream raises.
_STREAM_ERRORS = (OSError, ValueError)


def failure_line(backup_range: JobRange, kind: str, message: str) -> str:
    """A failed range on one line: which, and why."""
    start = shorten_middle(describe_key(backup_range.raw_start_key, "(start)"), _MAX_SHOWN_KEY)
    end = shorten_middle(describe_key(backup_range.raw_end_key, "(end)"), _MAX_SHOWN_KEY)
    reason = log.one_line(message)
    return printable(f"region {backup_range.region.id} [{start}, {end}) failed: {kind}: {reason}")


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

    def line(self, text: str) -> None:
        """Write the text, printable, as a line, or not."""
        self.write(printable(text) + "\n")
        self.flush()

    def flush(self) -> None:
        """Flush the stream, or not."""
        with contextlib.suppress(*_STREAM_ERRORS):
            self._stream.flush()
