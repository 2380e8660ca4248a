"""A forward scan of one column family that gives columns, by the fastest way that is exact.

The view's SST files are read block by block (`merge`). Whatever that way does not know, or takes
for damage, is left to RocksDB from the record on where it stands: RocksDB has the last word on
what a store holds, and on what is broken in it. Where a store has values in blob files, which
plain RocksDB cannot follow, a second reader of our own (`rows`) is asked before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bkctl.codec.strings import ByteStrings
from bkctl.errors import BkctlError, CorruptionError, StorageError
from bkctl.store.families import BLOB_FAMILY
from bkctl.store.lookup import Lookup
from bkctl.store.merge import SCAN_CHUNK, SEEK_CHUNK, MergedScan
from bkctl.store.rows import RowScan
from bkctl.store.scan import RecordScan
from bkctl.store.tables import Tables, UnreadableError
from bkctl.titan.blobs import Blobs
from bkctl.titan.stored import StoredValues

_PLAIN_RECORDS = 4096
_PLAIN_BYTES = 1 << 20
_LEFT_TO_ROCKSDB = (UnreadableError, CorruptionError, StorageError, OSError)

Stored = tuple[ByteStrings, StoredValues]


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways to read a family, up to the upper bound of the scan.

    `tables` raises UnreadableError where not all of the family is in known files; `plain` begins
    RocksDB's own scan at a key, told why; `blobs` has the values that lie outside of the family's
    files.
    """

    tables: Callable[[], Tables]
    plain: Callable[[bytes, BkctlError | OSError], RecordScan]
    blobs: Blobs


class ColumnScan:
    """Reads `[lower, upper)` of a family, in key order; take from it until it gives None."""

    def __init__(self, family: str, lower: bytes, upper: bytes, ways: Ways) -> None:
        self._family, self._ways = family, ways
        self._lower, self._upper = lower, upper
        self._may_have_blobs = family == BLOB_FAMILY and ways.blobs.are_there
        self._ours: MergedScan | RowScan | None = None
        self._plain: RecordScan | None = None
        self._lookup: Lookup | None = None
        self._unresolved: Stored | None = None
        # Why the rows were left to RocksDB: what it cannot read either, is this.
        self._why: BkctlError | None = None
        self._open(lower, SCAN_CHUNK)

    @property
    def is_merged(self) -> bool:
        """Whether all was read as columns so far."""
        return self._ours is not None and not isinstance(self._ours, RowScan)

    @property
    def is_plain(self) -> bool:
        """Whether RocksDB's own scan reads by now."""
        return self._plain is not None

    def take(self) -> tuple[ByteStrings, ByteStrings] | None:
        """The next keys and values, some MiB at most or one record; None only at the true end.

        Raises CorruptionError when the data could not be read to its end.
        """
        read = self._unresolved or self.take_stored()
        if read is None:
            return None
        keys, stored = read
        values = self.resolve(keys, stored)
        count, self._unresolved = len(values), None
        if count == len(keys):
            return keys, values
        self._unresolved = keys.slice(count, len(keys)), stored.slice(count, len(keys))
        return keys.slice(0, count), values

    def take_stored(self) -> Stored | None:
        """As `take`, which must not be used beside it, but blob indexes stay what they are."""
        read = self._take_stored()
        if read is not None and read[1].is_blob is not None and self._family != BLOB_FAMILY:
            key = read[0][int(read[1].is_blob.argmax())]
            raise CorruptionError(
                f"{self._family} has a blob index at key {key.hex().upper()}, and Titan keeps "
                f"values of {BLOB_FAMILY} only; the store is damaged"
            )
        return read

    def _take_stored(self) -> Stored | None:
        while self._ours is not None:
            try:
                return self._ours.take()
            except _LEFT_TO_ROCKSDB as e:
                last = self._ours.last_key
                self._fall_back(self._lower if last is None else last + b"\0", e)
        return self._take_plain()

    def resolve(self, keys: ByteStrings, stored: StoredValues) -> ByteStrings:
        """The values of `keys`, or of the first of them, at least one; see Blobs."""
        return self._ways.blobs.resolve(keys, stored)

    def seek(self, key: bytes) -> None:
        """Go on at `key` (or behind it), which must lie behind all that was taken."""
        self._unresolved = None
        # Often few records are wanted there.
        self._open(key, SEEK_CHUNK)

    def lookup(self, keys: ByteStrings, plain_bytes: int) -> StoredValues | None:
        """The values of some of `keys`, see Lookup; None where they are to be scanned for.

        The scan stays where it is.
        """
        try:
            if self._lookup is None:
                self._lookup = Lookup(self._ways.tables(), self._family, self._lower, self._upper)
            return self._lookup.find(keys, plain_bytes)
        except _LEFT_TO_ROCKSDB:
            return None

    def _open(self, key: bytes, first_chunk: int) -> None:
        self._lower = key
        if self._plain is not None:
            self._plain.seek(key)
        elif isinstance(self._ours, RowScan):
            self._open_rows(key)
        else:
            try:
                tables = self._ways.tables()
                self._ours = MergedScan(tables, self._family, key, self._upper, first_chunk)
            except _LEFT_TO_ROCKSDB as e:
                self._fall_back(key, e)

    def _fall_back(self, key: bytes, why: BkctlError | OSError) -> None:
        """Read the next way from `key` on."""
        was_rows = isinstance(self._ours, RowScan)
        self._ours, self._lower = None, key
        if self._may_have_blobs and not was_rows:
            self._open_rows(key)
        else:
            self._open_plain(key, why)

    def _open_rows(self, key: bytes) -> None:
        try:
            self._ours = RowScan(self._ways.tables(), self._family, key, self._upper)
        except _LEFT_TO_ROCKSDB as e:
            self._ours = None
            self._open_plain(key, e)

    def _open_plain(self, key: bytes, why: BkctlError | OSError) -> None:
        self._plain = self._ways.plain(key, why)
        if self._may_have_blobs and isinstance(why, BkctlError):
            self._why = why

    def _take_plain(self) -> Stored | None:
        assert self._plain is not None
        try:
            records = self._plain.take_bounded(_PLAIN_RECORDS, _PLAIN_BYTES)
        except CorruptionError as e:
            if self._why is not None and "blob index" in str(e):
                raise CorruptionError(f"{self._why}; beside values in blob files") from None
            raise
        if not records:
            return None
        keys, values = zip(*records, strict=True)
        return ByteStrings.of(keys), StoredValues(ByteStrings.of(values))
