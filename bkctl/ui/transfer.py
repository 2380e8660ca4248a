"""Progress of files on their way, on stderr: one line, rewritten on a terminal, else repeated."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TextIO

from bkctl.errors import UsageError
from bkctl.restore.restore import FetchProgress
from bkctl.ui import log
from bkctl.ui.human import format_count, format_duration, format_size
from bkctl.ui.lines import QuietStream
from bkctl.ui.periodic import PERIOD_SECONDS

_LIVE_SECONDS = 0.2
_REWRITE = "\r\x1b[K"


class TransferLine:
    """Shows how far a transfer is, in a mode of --progress; a stream that fails is left alone.

    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        mode: str,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = stream or sys.stderr
        if log.is_json() and mode == "rich":
            raise UsageError("--progress rich cannot go with --log-format json; leave one out")
        self._is_silent = mode == "none" or stream is None  # a closed stderr is None
        self._is_live = not self._is_silent and (
            mode == "rich"
            or (
                mode == "auto"
                and not log.is_json()
                and stream.isatty()
                and os.environ.get("TERM", "dumb") != "dumb"
            )
        )
        self._stream = QuietStream(stream) if stream is not None else None
        self._clock = clock
        self._begun = clock()
        self._due = self._begun + (0.0 if self._is_live else PERIOD_SECONDS)

    def show(self, progress: FetchProgress) -> None:
        """Show it, if it is time for another look."""
        now = self._clock()
        if self._is_silent or now < self._due:
            return
        self._due = now + (_LIVE_SECONDS if self._is_live else PERIOD_SECONDS)
        if log.is_json():
            log.detail("progress", self._words(progress), **asdict(progress))
            return
        self._write(self._words(progress))

    def close(self) -> None:
        """Clear a line that was rewritten."""
        if self._is_live:
            self._write("")

    def _words(self, progress: FetchProgress) -> str:
        elapsed = max(self._clock() - self._begun, 1e-3)
        parts = [
            f"{format_count(progress.files)}/{format_count(progress.total_files, 'file')}",
            f"{format_size(progress.size)} of {format_size(progress.total_size)}",
            f"{format_size(progress.size / elapsed)}/s",
        ]
        if progress.size:
            left = elapsed * (progress.total_size - progress.size) / progress.size
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        if self._is_live:
            self._stream.write(_REWRITE + text)
            self._stream.flush()
        else:
            self._stream.line(text)
