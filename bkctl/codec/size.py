"""Sizes as people write them: `50MiB`, `5MB`, `144M`, `1024`."""

from __future__ import annotations

import re

from bkctl.errors import UsageError

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 10**3,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 10**6,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 10**9,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 10**12,
}


def parse_size(text: str, option: str) -> int:
    """The bytes that `text` means, at least 1; UsageError naming `option` for anything else."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = _UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{option}: {text!a} is no size; write bytes, or 50MiB, 1.5GiB, 5MB")
    size = int(float(match.group(1)) * unit)
    if size < 1:
        raise UsageError(f"{option}: {text!a} is no size; it must be at least one byte")
    return size
