"""The raw scanner: records of one column family as they are, in batches.

API V1 keeps `z` + user key; V1TTL appends 8 bytes of expiry to the value, which stay as they are,
so that a restored store keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence

from bkctl.mvcc.entries import BATCH_LIMIT
from bkctl.store.database import Database

_BATCH_BYTES = 1 << 20


class RawScanner:
    """Scans `[lower, upper)` (data keys) of a column family."""

    def __init__(self, database: Database, family: str, lower: bytes, upper: bytes) -> None:
        self._scan = database.scan(family, lower, upper)

    def scan_batch(self) -> tuple[Sequence[bytes], Sequence[bytes]] | None:
        """The next (data keys, values), at most 1,024 and about 1 MiB of them; None at the end."""
        records = self._scan.take_bounded(BATCH_LIMIT, _BATCH_BYTES)
        if not records:
            return None
        keys, values = zip(*records, strict=True)
        return keys, values
