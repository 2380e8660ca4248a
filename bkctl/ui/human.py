"""Figures for people: sizes, counts and times, each with its unit."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def format_size(size: float) -> str:
    """A number of bytes with a binary unit: `512 B`, `130.2 MiB`."""
    unit = 0
    # 1023.95 would be rounded to 1024.0, so the next unit begins there.
    while abs(size) >= 1023.95 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} B"


def format_count(count: int, noun: str | None = None, plural: str | None = None) -> str:
    """A count in groups of three digits: `1,234,567`, with a noun `1 region`, `2 regions`."""
    if noun is None:
        return f"{count:,}"
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_duration(seconds: float) -> str:
    """A time span in its two largest units: `0s`, `45s`, `2m10s`, `1h02m`, `3d04h`."""
    left = max(0, round(seconds))
    if left < _MINUTE:
        return f"{left}s"
    if left < _HOUR:
        return f"{left // _MINUTE}m{left % _MINUTE:02d}s"
    if left < _DAY:
        return f"{left // _HOUR}h{left % _HOUR // _MINUTE:02d}m"
    return f"{left // _DAY}d{left % _DAY // _HOUR:02d}h"
