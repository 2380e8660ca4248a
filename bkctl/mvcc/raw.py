"""The raw scanner: records of one column family as they are, in batches.

    API V1     z | user key          user value
    API V1TTL  z | user key          user value | expiry (8, BE): unix seconds, 0 for never

What had expired is left out; an expiry that is still to come stays behind its value, so that a
restored store keeps it, and is not counted. Source: TiKV's api_version/src/api_v1ttl.rs.
"""

from __future__ import annotations

import numpy as np

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting
from bkctl.store.database import Database
from bkctl.store.ident import API_V1TTL

_EXPIRY_SIZE = 8


class RawScanner:
    """Scans `[lower, upper)` (data keys) of a column family.

    `expired_by` (unix seconds) is for stores of API V1TTL: what expired then or before is left out.
    """

    def __init__(
        self,
        database: Database,
        family: str,
        lower: bytes,
        upper: bytes,
        expired_by: int | None = None,
    ) -> None:
        self._scan = database.scan_columns(family, lower, upper)
        self._expired_by = expired_by

    def scan_batch(self) -> tuple[ByteStrings, ByteStrings] | None:
        """The next (data keys, values), some MiB of them at most or one record; None at the end.

        Raises CorruptionError for a value that is too short for its expiry.
        """
        while (batch := self._scan.take()) is not None:
            if self._expired_by is not None:
                batch = _unexpired(*batch, self._expired_by)
            if len(batch[0]):
                return batch
        return None


def account_raw(
    counted: Accounting, keys: ByteStrings, values: ByteStrings, api_version: int
) -> None:
    """Count records (data keys, values as stored); CorruptionError for a value cut short."""
    if api_version == API_V1TTL:
        _check_lengths(keys, values)
        values = values.trimmed(0, _EXPIRY_SIZE)
    counted.add_raw(keys, values)


def _check_lengths(keys: ByteStrings, values: ByteStrings) -> None:
    if len(values) and int(values.lengths.min()) < _EXPIRY_SIZE:
        key = keys[int(values.lengths.argmin())]
        raise CorruptionError(
            f"the value of {key.hex().upper()} is too short to end in an expiry, as values of API "
            "V1TTL do; the store is damaged"
        )


def _unexpired(
    keys: ByteStrings, values: ByteStrings, expired_by: int
) -> tuple[ByteStrings, ByteStrings]:
    _check_lengths(keys, values)
    expiries = values.last(_EXPIRY_SIZE).view(">u8").ravel()
    stays = (expiries == 0) | (expiries > expired_by)
    if stays.all():
        return keys, values
    index = np.flatnonzero(stays)
    return keys.thinned(index), values.take(index)
