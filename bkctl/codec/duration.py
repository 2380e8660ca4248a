"""Spans of time as people write them: `90s`, `30m`, `36h`, `30d`, `4w`."""

from __future__ import annotations

import re

from bkctl.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str) -> int:
    """Read a span of time as seconds: a whole number and s, m, h, d or w. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]{1,9})([smhdw])\s*", text, re.ASCII)
    if match is None:
        raise UsageError(f"{text[:40]!a} is no span of time; write 30d, 36h or 90m (s, m, h, d, w)")
    return int(match[1]) * _SECONDS[match[2]]
