"""The raw scanner: records of one column family as they are, in batches.

API V1 keeps `z` + user key; V1TTL appends 8 bytes of expiry to the value, which stay as they are,
so that a restored store keeps them.
"""

from __future__ import annotations

from bkctl.codec.strings import ByteStrings
from bkctl.store.database import Database


class RawScanner:
    """Scans `[lower, upper)` (data keys) of a column family."""

    def __init__(self, database: Database, family: str, lower: bytes, upper: bytes) -> None:
        self._scan = database.scan_columns(family, lower, upper)

    def scan_batch(self) -> tuple[ByteStrings, ByteStrings] | None:
        """The next (data keys, values), some MiB of them at most or one record; None at the end."""
        return self._scan.take()
