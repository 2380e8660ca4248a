"""The keys and timestamps that a backup file's records must keep to."""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.codec.memcomparable import encode
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX


@dataclass(frozen=True, slots=True)
class EntryBounds:
    """What a file's records must keep to: raw user keys `[start_key, end_key)`, TSOs."""

    raw_start_key: bytes
    raw_end_key: bytes
    start_ts: int
    end_ts: int
    is_raw: bool = False

    def lower(self) -> bytes:
        """The first data key of the range."""
        return DATA_PREFIX + self._encoded(self.raw_start_key)

    def upper(self) -> bytes:
        """The data key behind the range."""
        return DATA_PREFIX + self._encoded(self.raw_end_key) if self.raw_end_key else DATA_END

    def _encoded(self, raw_key: bytes) -> bytes:
        return raw_key if self.is_raw or not raw_key else encode(raw_key)
