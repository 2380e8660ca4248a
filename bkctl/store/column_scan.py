"""A forward scan of one column family that gives columns, by the fastest way that is exact.

The view's SST files are read block by block (`merge`). Whatever that way does not know, or takes
for damage, is left to RocksDB from the record on where it stands: RocksDB has the last word on
what a store holds, and on what is broken in it.
"""

from __future__ import annotations

from collections.abc import Callable

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError, StorageError
from bkctl.store.lookup import Lookup
from bkctl.store.merge import SCAN_CHUNK, SEEK_CHUNK, MergedScan
from bkctl.store.scan import Scan
from bkctl.store.tables import Tables, UnreadableError

_PLAIN_RECORDS = 4096
_PLAIN_BYTES = 1 << 20
_LEFT_TO_ROCKSDB = (UnreadableError, CorruptionError, StorageError, OSError)


class ColumnScan:
    """Reads `[lower, upper)` of a family, in key order; take from it until it gives None."""

    def __init__(
        self,
        family: str,
        lower: bytes,
        upper: bytes,
        *,
        tables: Callable[[], Tables],
        plain: Callable[[bytes], Scan],
    ) -> None:
        """Read by `tables`, or else by the scan that `plain` begins at a key.

        `tables` raises UnreadableError where not all of the family is in known files.
        """
        self._family, self._tables, self._plain_from = family, tables, plain
        self._lower, self._upper = lower, upper
        self._merged: MergedScan | None = None
        self._plain: Scan | None = None
        self._lookup: Lookup | None = None
        self._open(lower, SCAN_CHUNK)

    @property
    def is_merged(self) -> bool:
        """Whether nothing had to be left to RocksDB so far."""
        return self._plain is None

    def take(self) -> tuple[ByteStrings, ByteStrings] | None:
        """The next keys and values, some MiB at most or one record; None only at the true end.

        Raises CorruptionError when the data could not be read to its end.
        """
        if self._merged is not None:
            try:
                return self._merged.take()
            except _LEFT_TO_ROCKSDB:
                last = self._merged.last_key
                self._merged = None
                self._open_plain(self._lower if last is None else last + b"\0")
        assert self._plain is not None
        records = self._plain.take_bounded(_PLAIN_RECORDS, _PLAIN_BYTES)
        if not records:
            return None
        keys, values = zip(*records, strict=True)
        return ByteStrings.of(keys), ByteStrings.of(values)

    def seek(self, key: bytes) -> None:
        """Go on at `key` (or behind it), which must lie behind all that was taken."""
        # Often few records are wanted there.
        self._open(key, SEEK_CHUNK)

    def lookup(self, keys: ByteStrings, plain_bytes: int) -> ByteStrings | None:
        """The values of some of `keys`, see Lookup; None where they are to be scanned for.

        The scan stays where it is.
        """
        try:
            if self._lookup is None:
                self._lookup = Lookup(self._tables(), self._family, self._lower, self._upper)
            return self._lookup.find(keys, plain_bytes)
        except _LEFT_TO_ROCKSDB:
            return None

    def _open(self, key: bytes, first_chunk: int) -> None:
        self._lower = key
        if self._plain is not None:
            self._plain.seek(key)
            return
        try:
            self._merged = MergedScan(self._tables(), self._family, key, self._upper, first_chunk)
        except _LEFT_TO_ROCKSDB:
            self._open_plain(key)

    def _open_plain(self, key: bytes) -> None:
        self._plain = self._plain_from(key)
