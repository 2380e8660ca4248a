"""Values of the `default` family, fetched beside a scan of the `write` family.

Both families are in user key order, so one forward iterator serves all keys; it seeks only when the
next key wanted turns out to be far ahead. Where it meets many values that nobody wants, as with an
incremental backup, keys are looked up one by one instead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from bkctl.codec.strings import I64, ByteStrings, Mask
from bkctl.errors import CorruptionError
from bkctl.store.column_scan import ColumnScan
from bkctl.store.database import Database
from bkctl.titan.stored import StoredValues

_BARREN_CHUNKS = 2
# So many values have to be seen, and so many of them a wanted one, to call the wanted ones few.
_SAMPLE = 1024
_FEW = 4
_LOOKUP_BYTES = 2 << 20


class LongValues:
    """Looks values up by data keys (with ~start_ts) that are asked for in ascending order."""

    def __init__(self, database: Database, upper: bytes) -> None:
        self._database, self._upper = database, upper
        self._scan: ColumnScan | None = None
        self._keys, self._stored = ByteStrings.of(()), StoredValues(ByteStrings.of(()))
        self._last = b""
        self._seen = self._wanted = 0
        self._can_look_up = True

    def fetch(self, keys: ByteStrings) -> Iterator[tuple[ByteStrings, ByteStrings]]:
        """Yield (keys, values) in order, in chunks of some MiB or one value.

        Raises CorruptionError for a key that is not there: its write record refers to nothing.
        """
        start, barren = 0, 0
        while start < len(keys):
            stop = start
            if keys[start] <= self._last:
                stop += _count_upto(keys.slice(start, len(keys)), self._last)
            if stop > start:
                wanted = keys.slice(start, stop)
                yield from self._resolved(wanted, self._stored_of(wanted))
                start, barren = stop, 0
                continue
            if self._are_few() and (stored := self._look_up(keys.slice(start, len(keys)))):
                stop = start + len(stored)
                yield from self._resolved(keys.slice(start, stop), stored)
                start = stop
                continue
            barren += 1
            self._load(keys[start], far=barren > _BARREN_CHUNKS)

    def _are_few(self) -> bool:
        """Whether few of the values that were scanned were wanted."""
        return self._seen >= _SAMPLE and self._seen >= _FEW * self._wanted

    def _resolved(
        self, keys: ByteStrings, stored: StoredValues
    ) -> Iterator[tuple[ByteStrings, ByteStrings]]:
        """(keys, values) in order; values that lie in blob files are fetched a few at a time."""
        assert self._scan is not None
        while len(keys):
            values = self._scan.resolve(keys, stored)
            count = len(values)
            yield keys.slice(0, count), values
            keys, stored = keys.slice(count, len(keys)), stored.slice(count, len(stored))

    def _look_up(self, keys: ByteStrings) -> StoredValues | None:
        """The values of the first of `keys`, all behind the chunk at hand, without scanning."""
        if not self._can_look_up or self._scan is None or not keys.width:
            return None
        stored = self._scan.lookup(keys, _LOOKUP_BYTES)
        # Whatever cannot be told this way, the scan tells.
        self._can_look_up = stored is not None
        return stored

    def _stored_of(self, keys: ByteStrings) -> StoredValues:
        """The values of keys that are all within the chunk at hand, which is used up to them."""
        index = _find(keys, self._keys)
        self._wanted += len(index)
        stored = self._stored.take(index)
        # The next keys asked for are likely to be the next ones here.
        used = int(index[-1]) + 1
        self._keys = self._keys.slice(used, len(self._keys))
        self._stored = self._stored.slice(used, len(self._stored))
        return stored

    def _load(self, key: bytes, *, far: bool) -> None:
        if self._scan is None:
            self._scan = self._database.scan_columns("default", key, self._upper)
        elif far:
            self._scan.seek(key)
        read = self._scan.take_stored()
        if read is None:
            raise _missing(key)
        self._keys, self._stored = read
        self._last = self._keys[len(self._keys) - 1]
        self._seen += len(self._keys)


def _count_upto(keys: ByteStrings, bound: bytes) -> int:
    if keys[len(keys) - 1] <= bound:
        return len(keys)
    return bisect_right(range(len(keys)), bound, key=keys.__getitem__)


def _find(wanted: ByteStrings, keys: ByteStrings) -> I64:
    """The positions of `wanted` in `keys`, both ascending; CorruptionError for one not there."""
    count = len(wanted)
    if count <= len(keys):
        # Mostly the keys are the same, one for one.
        same = _same(wanted, keys.slice(0, count))
        if same.all():
            return np.arange(count)
    if wanted.width and wanted.width == keys.width:
        return _find_sorted(wanted, keys)
    places = {key: i for i, key in enumerate(keys.tolist())}
    found = [places.get(key, -1) for key in wanted.tolist()]
    index = np.array(found, np.int64)
    if (index < 0).any():
        raise _missing(wanted[int((index < 0).argmax())])
    return index


def _find_sorted(wanted: ByteStrings, keys: ByteStrings) -> I64:
    """`_find` for keys of one width."""
    there, sought = keys.scalars(), wanted.scalars()
    index: I64 = np.minimum(np.searchsorted(there, sought), len(keys) - 1)
    found = there[index] == sought
    if not found.all():
        raise _missing(wanted[int(found.argmin())])
    return index


def _same(left: ByteStrings, right: ByteStrings) -> Mask:
    if left.width is None or left.width != right.width or not left.width:
        return np.array([a == b for a, b in zip(left.tolist(), right.tolist(), strict=True)])
    same: Mask = left.scalars() == right.scalars()
    return same


def _missing(key: bytes) -> CorruptionError:
    return CorruptionError(
        f"the value of {key.hex().upper()} is missing from the default family, though a write "
        "record refers to it; the store is damaged"
    )
