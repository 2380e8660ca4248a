"""What the program says on stderr beside progress: lines for people, or JSON for machines.

    text    bkctl: warning: the region map leaves 2 gaps that no region covers
    json    {"time": "2026-11-23T01:15:00.123Z", "level": "warning", "event": "gaps",
             "message": "the region map leaves 2 gaps that no region covers", "gaps": 2}

One JSON object a line: `time` (RFC 3339, UTC), `level` (info, warning or error), `event` (a word to
look for), `message`, and the event's own fields. A stderr that is closed or full is no error.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from enum import Enum

from bkctl.ui.printable import printable

_BEGINNINGS = {"info": "bkctl: ", "warning": "bkctl: warning: ", "error": "bkctl: "}


class LogFormat(str, Enum):
    """How lines on stderr are written."""

    TEXT = "text"
    JSON = "json"


class _Current:
    """The format that is in force in this process."""

    format = LogFormat.TEXT


def use(log_format: LogFormat) -> None:
    """Write lines in this format from here on."""
    _Current.format = log_format


def is_json() -> bool:
    """Whether lines are JSON."""
    return _Current.format is LogFormat.JSON


def info(event: str, message: str, **fields: object) -> None:
    """Say what the user may want to know."""
    _say("info", event, message, fields)


def warning(event: str, message: str, **fields: object) -> None:
    """Say what somebody should look at."""
    _say("warning", event, message, fields)


def error(event: str, message: str, **fields: object) -> None:
    """Say what went wrong."""
    _say("error", event, message, fields)


def detail(event: str, message: str, level: str = "info", /, **fields: object) -> None:
    """Say in JSON what people see elsewhere: on the progress display, or on stdout."""
    if is_json():
        _say(level, event, message, fields)


def one_line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.splitlines())


def _say(level: str, event: str, message: str, fields: dict[str, object]) -> None:
    message = one_line(message)
    line = _BEGINNINGS[level] + printable(message)
    if is_json():
        head = {"time": _now(), "level": level, "event": event, "message": message}
        line = json.dumps(head | fields)
    # A broken pipe or full disk, a closed stream, none at all, or one that a signal's handler met
    # in the middle of a write.
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        # In one piece, so that lines of several writers do not mix.
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _now() -> str:
    milliseconds = time.time_ns() // 1_000_000
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{moment}.{milliseconds % 1000:03d}Z"
