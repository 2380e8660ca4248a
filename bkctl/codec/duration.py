"""Spans of time as people write them: `30s`, `90m`, `7d`."""

from __future__ import annotations

import re

from bkctl.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str) -> int:
    """Read a number of seconds: `30s`, `15m`, `6h`, `7d`, `4w`, or `0`. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*([smhdw])\s*", text, re.ASCII)
    if match is not None:
        return int(match[1]) * _UNITS[match[2]]
    if text.strip() == "0":
        return 0
    raise UsageError(f"{text[:40]!a} is no span of time; write 30s, 15m, 6h, 7d or 4w")
