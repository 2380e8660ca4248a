"""A view's RocksDB, opened to be written to: its logs are replayed, then the raft log is applied.

Only a private view is ever opened so. Writes are gathered into batches, and need no log of their
own: they are flushed into SST files at the end. Loads RocksDB.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rocksdict import (
    ColumnFamily,
    DBRecoveryMode,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from bkctl.errors import BkctlError, CorruptionError, StorageError
from bkctl.sst.soundness import check_sound
from bkctl.sst.source import FileReader
from bkctl.store.blob_logs import mark_blob_indexes
from bkctl.store.families import BLOB_FAMILY
from bkctl.store.rocksdb_options import rocksdb_options
from bkctl.titan.manifest import FOLDER

_WRITE_BUFFER = 16 << 20
_BATCH_BYTES = 1 << 20
_BATCH_RECORDS = 4096


class RocksKv:
    """See `bkctl.raft.kv.KvStore`; to be closed by `finish`, which makes all of it last."""

    def __init__(self, db_dir: Path, source: Path) -> None:
        """Open the view and replay its logs; `source` is the store's own folder, for messages.

        Raises CorruptionError where RocksDB finds damage, StorageError where there is no room.
        """
        self._db_dir, self._source = db_dir, source
        mark_blob_indexes(db_dir, source)
        try:
            self.families = tuple(Rdict.list_cf(str(db_dir)))
            families = {name: _options() for name in self.families}
            self._db = Rdict(str(db_dir), _options(), column_families=families)
            self._handles = {
                name: self._db.get_column_family_handle(name) for name in self.families
            }
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign,assignment]
        self._batch = WriteBatch(raw_mode=True)

    def has_family(self, family: str) -> bool:
        """See KvStore."""
        return family in self._handles

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """See KvStore."""
        self._batch.put(key, value, self._handle(family))
        self._write_if_full()

    def delete(self, family: str, key: bytes) -> None:
        """See KvStore."""
        self._batch.delete(key, self._handle(family))
        self._write_if_full()

    def delete_range(self, family: str, start_key: bytes, end_key: bytes) -> None:
        """See KvStore. Each key by itself: scans read blocks with range deletions slowly."""
        for key in self._keys(family, start_key, end_key):
            self.delete(family, key)

    def _keys(self, family: str, start_key: bytes, end_key: bytes) -> Iterator[bytes]:
        """The keys of `[start_key, end_key)`, in order."""
        if family != BLOB_FAMILY or not (self._db_dir / FOLDER).is_dir():
            yield from (key for key, _ in self.records(family, start_key, end_key))
            return
        # RocksDB's iterators end at blob indexes: all is to be in SST files, which we read.
        from bkctl.store.merge import SEEK_CHUNK, MergedScan
        from bkctl.store.tables import Tables, UnreadableError

        self._write()
        tables = Tables(self._db_dir)
        try:
            self._family(family).flush(True)
            scan = MergedScan(tables, family, start_key, end_key, SEEK_CHUNK)
            while (read := scan.take()) is not None:
                yield from read[0].tolist()
        except UnreadableError as e:
            raise CorruptionError(f"{self._source}: {e}; beside values in blob files") from None
        except BkctlError:
            raise
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        finally:
            tables.close()

    def ingest(self, family: str, path: Path, name: str) -> None:
        """See KvStore. The file is looked through first: RocksDB trusts in what it reads."""
        with FileReader(path) as reader:
            check_sound(reader, f"import/{name}")
        self._write()
        options = IngestExternalFileOptions()
        options.set_move_files(False)
        options.set_allow_global_seqno(True)
        options.set_allow_blocking_flush(True)
        try:
            self._family(family).ingest_external_file([str(path)], options)
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None

    def records(
        self, family: str, start_key: bytes, end_key: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """See KvStore. They are those of the moment in which the first is asked for."""
        self._write()
        options = ReadOptions()
        options.set_iterate_upper_bound(end_key)
        options.set_total_order_seek(True)
        iterator = self._family(family).iter(options)
        try:
            iterator.seek(start_key)
            while iterator.valid():
                key, value = iterator.key(), iterator.value()
                assert isinstance(key, bytes)
                assert isinstance(value, bytes)
                yield key, value
                iterator.next()
            iterator.status()
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None

    def finish(self) -> None:
        """Write all there is into SST files, and close."""
        self._write()
        try:
            for name in self.families:
                self._family(name).flush(True)
            self._handles.clear()
            self._db.close()
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None

    def _handle(self, family: str) -> ColumnFamily:
        try:
            return self._handles[family]
        except KeyError:
            raise CorruptionError(f"{self._source}: it has no column family {family!a}") from None

    def _family(self, family: str) -> Rdict:
        self._handle(family)
        return self._db if family == "default" else self._db.get_column_family(family)

    def _write_if_full(self) -> None:
        if self._batch.size_in_bytes() >= _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        if self._batch.is_empty():
            return
        try:
            self._db.write(self._batch, self._unlogged)
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        self._batch = WriteBatch(raw_mode=True)

    def _error(self, error: Exception) -> BkctlError:
        text = " ".join(str(error).split()).replace(str(self._db_dir), str(self._source))
        if "No space left" in text or "Disk quota" in text:
            return StorageError(
                f"{self._db_dir}: no space left for temporary files; "
                "set TMPDIR or --work-dir to a directory with space"
            )
        return CorruptionError(f"{self._source}: the logs cannot be applied: {text}")


def _options() -> Options:
    options = rocksdb_options()
    options.set_disable_auto_compactions(True)
    options.set_write_buffer_size(_WRITE_BUFFER)
    # The logs were looked through, and cut where they end.
    options.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
    return options
