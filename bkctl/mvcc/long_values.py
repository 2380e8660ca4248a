"""Values of the `default` family, fetched beside a scan of the `write` family.

Both families are in user key order, so one forward iterator serves all keys; it seeks only when the
next key wanted turns out to be far ahead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from bkctl.errors import CorruptionError
from bkctl.store.database import Database, Scan

_CHUNK_RECORDS = 512
_CHUNK_BYTES = 1 << 20
_BARREN_CHUNKS = 2


class LongValues:
    """Looks values up by data keys (with ~start_ts) that are asked for in ascending order."""

    def __init__(self, database: Database, upper: bytes) -> None:
        self._database, self._upper = database, upper
        self._scan: Scan | None = None
        self._chunk: dict[bytes, bytes] = {}
        self._last = b""

    def fetch(self, keys: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], list[bytes]]]:
        """Yield (keys, values) in order, in chunks of about 1 MiB.

        Raises CorruptionError for a key that is not there: its write record refers to nothing.
        """
        start, barren = 0, 0
        while start < len(keys):
            stop = bisect_right(keys, self._last, start)
            if stop > start:
                wanted = keys[start:stop]
                yield wanted, self._values(wanted)
                start, barren = stop, 0
                continue
            barren += 1
            self._load(keys[start], far=barren > _BARREN_CHUNKS)

    def _values(self, keys: Sequence[bytes]) -> list[bytes]:
        found = list(map(self._chunk.get, keys))
        values = [value for value in found if value is not None]
        if len(values) != len(keys):
            raise _missing(keys[found.index(None)])
        return values

    def _load(self, key: bytes, *, far: bool) -> None:
        if self._scan is None:
            self._scan = self._database.scan("default", key, self._upper)
        elif far:
            self._scan.seek(key)
        records = self._scan.take_bounded(_CHUNK_RECORDS, _CHUNK_BYTES)
        if not records:
            raise _missing(key)
        self._chunk = dict(records)
        self._last = records[-1][0]


def _missing(key: bytes) -> CorruptionError:
    return CorruptionError(
        f"the value of {key.hex().upper()} is missing from the default family, though a write "
        "record refers to it; the store is damaged"
    )
