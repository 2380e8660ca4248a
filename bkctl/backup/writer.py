"""The backup writer: a range's entries into a `write` and a `default` file, and their figures.

Named and split as TiKV's: a writer is built for a start key, takes batches, says when its keys
need splitting, and saves its files.
"""

from __future__ import annotations

import time

from bkctl.archive.meta import BackupFile
from bkctl.archive.names import backup_file_name
from bkctl.backup.saver import PendingFile, Saver
from bkctl.backup.task import BackupTask
from bkctl.codec.strings import ByteStrings
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.entries import EntryBatch, account_long
from bkctl.mvcc.long_values import LongValues
from bkctl.mvcc.raw import account_raw
from bkctl.regions.plan import BackupRange
from bkctl.sst.writer import FinishedSst, SstWriter


class FamilyFile:
    """One column family's file of a writer, made when its first record comes."""

    def __init__(
        self,
        task: BackupTask,
        saver: Saver,
        brange: BackupRange,
        raw_start_key: bytes,
        unix_ms: int,
        cf: str,
    ) -> None:
        self._task, self._saver, self._cf = task, saver, cf
        self._start_key = raw_start_key
        self._start_ts = 0 if brange.takes_all else task.start_ts
        region, store_id = brange.region, task.views[brange.view].store_id
        self._name = backup_file_name(
            store_id,
            region.id,
            region.epoch.version,
            raw_start_key,
            unix_ms,
            cf,
            task.writer,
        )
        self._sst: SstWriter | None = None
        self.accounting = Accounting()

    def write(self, keys: ByteStrings, values: ByteStrings) -> None:
        """Append records; counting them is the caller's."""
        if self._sst is None:
            task = self._task
            self._sst = SstWriter(
                task.staging / self._name,
                task.compression,
                self._saver.grown,
                task.cipher or task.seal,
            )
        self._sst.write_columns(keys, values)

    def save(self, end_key: bytes) -> list[PendingFile]:
        """Hand the file to the saver as reaching to `end_key`; an empty one leaves nothing."""
        if self._sst is None:
            return []
        sst, self._sst = self._sst, None

        def describe(finished: FinishedSst) -> BackupFile:
            return BackupFile(
                name=self._name,
                sha256=finished.sha256,
                start_key=self._start_key,
                end_key=end_key,
                start_version=self._start_ts,
                end_version=self._task.end_ts,
                crc64xor=self.accounting.crc64xor,
                total_kvs=self.accounting.total_kvs,
                total_bytes=self.accounting.total_bytes,
                cf=self._cf,
                size=finished.size,
                cipher_iv=finished.cipher_iv,
            )

        return [self._saver.save(sst, describe)]

    def abandon(self) -> None:
        """Remove an unfinished file."""
        if self._sst is not None:
            self._sst.abandon()
            self._sst = None


class BackupWriter:
    """Writes a transactional range's entries, from `raw_start_key` on."""

    def __init__(
        self, task: BackupTask, saver: Saver, brange: BackupRange, raw_start_key: bytes
    ) -> None:
        unix_ms = time.time_ns() // 1_000_000
        self._limit = task.sst_max_size
        self._write = FamilyFile(task, saver, brange, raw_start_key, unix_ms, "write")
        self._default = FamilyFile(task, saver, brange, raw_start_key, unix_ms, "default")

    @property
    def total_kvs(self) -> int:
        """Entries counted so far."""
        return self._write.accounting.total_kvs + self._default.accounting.total_kvs

    @property
    def total_bytes(self) -> int:
        """Plain bytes counted so far."""
        return self._write.accounting.total_bytes + self._default.accounting.total_bytes

    @property
    def room(self) -> int:
        """The plain bytes left before keys need splitting; none or less when they do."""
        return self._limit - self.total_bytes

    def need_split_keys(self) -> bool:
        """Whether the files have reached the size at which the next batch goes into new ones."""
        return self.room <= 0

    def write(self, batch: EntryBatch, long_values: LongValues) -> None:
        """Append a batch, with the values that live in `default`."""
        for segment in batch.segments:
            self._write.write(segment.keys, segment.values)
            segment.account(self._write.accounting)
            for keys, values in long_values.fetch(segment.default_keys):
                self._default.write(keys, values)
                account_long(self._default.accounting, keys, values)

    def save(self, end_key: bytes) -> list[PendingFile]:
        """Save both files as covering the keys from the start key to `end_key` (raw user keys)."""
        return [*self._default.save(end_key), *self._write.save(end_key)]

    def abandon(self) -> None:
        """Remove what is unfinished."""
        self._write.abandon()
        self._default.abandon()


class RawWriter:
    """Writes a raw range's records into one file."""

    def __init__(
        self, task: BackupTask, saver: Saver, brange: BackupRange, raw_start_key: bytes
    ) -> None:
        unix_ms = time.time_ns() // 1_000_000
        self._file = FamilyFile(task, saver, brange, raw_start_key, unix_ms, task.family)
        self._api_version = task.api_version

    @property
    def total_kvs(self) -> int:
        """Records counted so far."""
        return self._file.accounting.total_kvs

    @property
    def total_bytes(self) -> int:
        """Plain bytes counted so far."""
        return self._file.accounting.total_bytes

    def write(self, keys: ByteStrings, values: ByteStrings) -> None:
        """Append records (data keys)."""
        self._file.write(keys, values)
        account_raw(self._file.accounting, keys, values, self._api_version)

    def save(self, end_key: bytes) -> list[PendingFile]:
        """Save the file as covering the keys from the start key to `end_key`."""
        return self._file.save(end_key)

    def abandon(self) -> None:
        """Remove what is unfinished."""
        self._file.abandon()
