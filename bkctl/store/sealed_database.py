"""Reads a view of an encrypted store, which RocksDB cannot open, by bkctl's own readers.

Each block is decrypted in memory as it is read, and its checksum verified. For a plain store
RocksDB has the last word on what is damaged or unknown. Here damage is an error as it is found;
what the readers do not know, such as range deletions, is read by RocksDB out of copies in memory
(`memory_scan`).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from weakref import WeakSet

from bkctl.errors import BkctlError, CorruptionError, StorageError
from bkctl.store.column_scan import ColumnScan, Ways
from bkctl.store.database import Database
from bkctl.store.memory_scan import MemoryScan
from bkctl.store.merge import SEEK_CHUNK, MergedScan
from bkctl.store.scan import RecordScan
from bkctl.store.tables import Tables, UnreadableError
from bkctl.titan.blobs import Blobs
from bkctl.titan.manifest import FOLDER

_SINGLE_FILE = ".sst: "


class SealedDatabase(Database):
    """A view whose files are encrypted; see Database. There is no RocksDB in it."""

    def __init__(self, db_dir: Path, source: Path, tables: Tables | None = None) -> None:
        """Open `db_dir`, or what `tables` are of it; raises CorruptionError for damage."""
        self._db_dir, self._source = db_dir, source
        self._blobs: Blobs | None = None
        self._scans: WeakSet[MemoryScan] = WeakSet()
        self._own_tables = tables or Tables(db_dir)
        state = self._own_tables.state()
        self.families = state.families
        self._last_sequence = state.last_sequence
        newest = max((file.largest_sequence for file in state.live_files), default=0)
        if newest > state.last_sequence:
            raise CorruptionError(
                f"{source}: has records of sequence number {newest}, but its MANIFEST ends at "
                f"{state.last_sequence}"
            )

    def close(self) -> None:
        """See Database."""
        for scan in self._scans:
            scan.close()
        self._own_tables.close()
        if self._blobs is not None:
            self._blobs.close()

    @property
    def last_sequence(self) -> int:
        """See Database."""
        return self._last_sequence

    def get(self, family: str, key: bytes) -> bytes | None:
        """See Database."""
        try:
            merged = MergedScan(self.tables(family), family, key, key + b"\0", SEEK_CHUNK)
            found = merged.take()
        except UnreadableError:
            scan = self._in_memory(family, key, key + b"\0")
            records = scan.take(1)
            scan.close()
            return records[0][1] if records else None
        except (BkctlError, OSError) as e:
            raise self._refusal(e) from None
        return None if found is None else self._blob_files().resolve(*found)[0]

    def last_key(self, family: str, lower: bytes, upper: bytes) -> bytes | None:
        """See Database; reads the whole range."""
        last, columns = None, self.scan_columns(family, lower, upper)
        while (read := columns.take()) is not None:
            last = read[0][len(read[0]) - 1]
        return last

    def scan(
        self, family: str, lower: bytes, upper: bytes, *, readahead: int | None = None
    ) -> RecordScan:
        """See Database."""
        return _ColumnRecords(self.scan_columns(family, lower, upper))

    def scan_columns(self, family: str, lower: bytes, upper: bytes) -> ColumnScan:
        """See Database."""

        return ColumnScan(family, lower, upper, self._ways(family, upper))

    def _ways(self, family: str, upper: bytes) -> Ways:
        def go_on(start: bytes, why: BkctlError | OSError) -> RecordScan:
            if isinstance(why, UnreadableError):
                return self._in_memory(family, start, upper)
            raise self._refusal(why) from None

        return Ways(lambda: self.tables(family), go_on, self._blob_files())

    def _blob_files(self) -> Blobs:
        if self._blobs is None:
            files = self._own_tables.view()
            self._blobs = Blobs(
                self._db_dir / FOLDER,
                self._source / FOLDER,
                lambda path: files.open(f"{FOLDER}/{path.name}"),
            )
        return self._blobs

    def tables(self, family: str) -> Tables:
        """See Database."""
        self.require(family)
        return self._own_tables

    def _in_memory(self, family: str, lower: bytes, upper: bytes) -> MemoryScan:
        scan = MemoryScan(self._own_tables, self._source, family, lower, upper)
        self._scans.add(scan)
        return scan

    def _refusal(self, error: Exception) -> BkctlError:
        """The error of a reader, with the store's name and, where it helps, advice."""
        if isinstance(error, CorruptionError):
            text = str(error)
            return CorruptionError(f"{self._source}{'/' if _SINGLE_FILE in text else ': '}{text}")
        if isinstance(error, OSError):
            return StorageError(f"{self._source}: cannot be read ({error.strerror or error})")
        assert isinstance(error, BkctlError)
        return error


class _ColumnRecords:
    """Records one by one out of a scan of columns."""

    def __init__(self, columns: ColumnScan) -> None:
        self._columns = columns
        self._records: deque[tuple[bytes, bytes]] = deque()

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """See RecordScan."""
        while len(self._records) < count and (read := self._columns.take()) is not None:
            keys, values = read
            self._records.extend(zip(keys.tolist(), values.tolist(), strict=True))
        return [self._records.popleft() for _ in range(min(count, len(self._records)))]

    def take_bounded(self, count: int, plain_bytes: int) -> list[tuple[bytes, bytes]]:
        """See RecordScan."""
        records: list[tuple[bytes, bytes]] = []
        while len(records) < count and plain_bytes > 0 and (step := self.take(1)):
            records += step
            plain_bytes -= len(step[0][1])
        return records

    def seek(self, key: bytes) -> None:
        """See RecordScan."""
        while self._records and self._records[0][0] < key:
            self._records.popleft()
        if not self._records:
            self._columns.seek(key)
