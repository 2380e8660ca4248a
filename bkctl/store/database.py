"""Opens a pinned view with RocksDB and reads it; no scan here can end early without an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rocksdict import AccessType, Rdict, ReadOptions

from bkctl.errors import BkctlError, CorruptionError, StorageError
from bkctl.shortage import lack_in
from bkctl.store.families import BLOB_FAMILY, require_families
from bkctl.store.rocksdb_options import rocksdb_options
from bkctl.store.scan import RecordScan, Scan
from bkctl.titan.manifest import FOLDER

if TYPE_CHECKING:
    # Imported where columns are wanted: they bring numpy, which a look at a store does not need.
    from bkctl.store.column_scan import ColumnScan, Ways
    from bkctl.store.tables import Tables
    from bkctl.titan.blobs import Blobs

READAHEAD = 4 << 20
_IN_MEMORY = ("rocksdb.num-entries-active-mem-table", "rocksdb.num-entries-imm-mem-tables")


class Database:
    """A view opened read-only; `source` replaces the private folder's name in messages."""

    _readahead = READAHEAD

    def __init__(self, db_dir: Path, source: Path, levels: int | None = None) -> None:
        """Open `db_dir`; raises CorruptionError where RocksDB finds damage.

        A store of more than the usual number of levels can be opened only with that number.
        """
        self._db_dir, self._source = db_dir, source
        try:
            self.families = tuple(Rdict.list_cf(str(db_dir)))
            self._db = Rdict(
                str(db_dir),
                rocksdb_options(levels),
                column_families={name: rocksdb_options(levels) for name in self.families},
                access_type=AccessType.read_only(False),
            )
        except Exception as e:  # rocksdict raises nothing narrower
            raise self.error(e) from None
        self._handles = {"default": self._db}
        self._tables: Tables | None = None
        self._same_tables: bool | None = None
        self._blobs: Blobs | None = None

    def close(self) -> None:
        """Close the handle; iterators must be gone."""
        if self._tables is not None:
            self._tables.close()
        if self._blobs is not None:
            self._blobs.close()
        self._handles.clear()
        self._db.close()

    @property
    def last_sequence(self) -> int:
        """The sequence number of the newest record the view shows."""
        return self._db.latest_sequence_number()

    def require(self, *families: str) -> None:
        """Raise SourceError, by name, for a column family that the store does not have."""
        require_families(self._source, self.families, families)

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of one key, or None."""
        try:
            value = self._family(family).get(key)
        except Exception as e:  # rocksdict raises nothing narrower
            raise self.error(e) from None
        return value if isinstance(value, bytes) else None

    def last_key(self, family: str, lower: bytes, upper: bytes) -> bytes | None:
        """The last key of `[lower, upper)` in a family, or None."""
        options = ReadOptions()
        options.set_total_order_seek(True)
        options.set_iterate_upper_bound(upper)
        try:
            found = self._family(family).iter(options)
            found.seek_to_last()
            found.status()
            key = found.key() if found.valid() else None
        except Exception as e:  # rocksdict raises nothing narrower
            raise self.error(e) from None
        return key if isinstance(key, bytes) and key >= lower else None

    def has(self, family: str, key: bytes) -> bool:
        """Whether a family shows a key, be its value in a blob file."""
        if family != BLOB_FAMILY or not self._blob_files().are_there:
            return self.get(family, key) is not None
        return self.scan_columns(family, key, key + b"\0").take_stored() is not None

    def scan(
        self, family: str, lower: bytes, upper: bytes, *, readahead: int | None = None
    ) -> RecordScan:
        """Read `[lower, upper)` of a family, in key order."""
        return self._rocksdb_scan(family, lower, upper, readahead)

    def scan_columns(self, family: str, lower: bytes, upper: bytes) -> ColumnScan:
        """Read `[lower, upper)` of a family, in key order, as columns."""
        from bkctl.store.column_scan import ColumnScan

        return ColumnScan(family, lower, upper, self._ways(family, upper))

    def _ways(self, family: str, upper: bytes) -> Ways:
        from bkctl.store.column_scan import Ways

        return Ways(
            tables=lambda: self.tables(family),
            plain=lambda start, why: self._rocksdb_scan(family, start, upper, None),
            blobs=self._blob_files(),
        )

    def _blob_files(self) -> Blobs:
        from bkctl.titan.blobs import Blobs

        if self._blobs is None:
            self._blobs = Blobs(self._db_dir / FOLDER, self._source / FOLDER)
        return self._blobs

    def tables(self, family: str) -> Tables:
        """The view's SST files, if they hold all there is of a family; else UnreadableError.

        They must be those that RocksDB has open, and nothing may be in memory beside them.
        """
        from bkctl.store.tables import Tables, UnreadableError

        if self._tables is None:
            self._tables = Tables(self._db_dir)
        if self._same_tables is None:
            self._same_tables = self._has_same_tables(self._tables)
        handle = self._family(family)
        in_memory = map(handle.property_int_value, _IN_MEMORY)
        if not self._same_tables or any(count != 0 for count in in_memory):
            raise UnreadableError(f"{self._source}: not all of {family} is in known SST files")
        return self._tables

    def _has_same_tables(self, tables: Tables) -> bool:
        files = [file for family in tables.files().values() for file in family]
        opened = {(file["level"], Path(file["name"]).name) for file in self._db.live_files()}
        return {(file.level, file.name) for file in files} == opened and all(
            file.largest_sequence <= self.last_sequence for file in files
        )

    def error(self, error: Exception) -> BkctlError:
        """Say RocksDB's error in one line, with the store's own file names."""
        text = " ".join(str(error).split())
        if "No space left" in text or "Disk quota" in text:
            return StorageError(
                f"{self._db_dir}: no space left for temporary files; "
                "set TMPDIR or --work-dir to a directory with space"
            )
        if lack := lack_in(text):
            return StorageError(f"{self._source}: cannot be read: {lack}")
        text = text.replace(str(self._db_dir), str(self._source))
        while text.startswith("Corruption: Corruption:"):
            text = text.removeprefix("Corruption: ")
        return CorruptionError(f"{self._source}: {text}")

    def _rocksdb_scan(self, family: str, lower: bytes, upper: bytes, readahead: int | None) -> Scan:
        readahead = self._readahead if readahead is None else readahead
        return Scan(self._family(family), lower, upper, readahead, self.error)

    def _family(self, name: str) -> Rdict:
        if name not in self._handles:
            self._handles[name] = self._db.get_column_family(name)
        return self._handles[name]
