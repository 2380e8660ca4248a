"""Sizes as people write them: `50MiB`, `5MB`, `1024`."""

from __future__ import annotations

import re
from decimal import Decimal

from bkctl.errors import UsageError

_UNITS = {"": 1, "B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}


def parse_size(text: str) -> int:
    """Read a number of bytes: `1048576`, `50MiB` (powers of 1024), `5MB` (powers of 1000).

    Fractions are rounded down. Raises UsageError.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text[:40]!a} is no size; write bytes as 1048576, 50MiB or 5MB")
    return int(Decimal(match[1]) * factor)
