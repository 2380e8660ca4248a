"""Backs up one range: scan, split, save. TiKV's `BackupRange::backup` and `backup_raw`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bkctl.backup.saver import PendingFile, Saver
from bkctl.backup.task import BackupTask
from bkctl.backup.writer import BackupWriter, RawWriter
from bkctl.mvcc.decide import Decider
from bkctl.mvcc.keys import TS_SIZE, decode_data_key
from bkctl.mvcc.lock import DecidedLock
from bkctl.mvcc.raw import RawScanner
from bkctl.mvcc.scan import EntryScanner
from bkctl.regions.plan import BackupRange
from bkctl.store.database import Database

Advance = Callable[[int, int], None]
"""Called before each batch with the range's records and plain bytes so far; raises to cancel."""


def backup_range(
    task: BackupTask,
    backup_range: BackupRange,
    database: Database,
    saver: Saver,
    advance: Advance,
    decider: Decider | None = None,
    decided: list[DecidedLock] | None = None,
) -> list[PendingFile]:
    """Back up one range and return its files, which may still be on their way to the storage.

    Locks that `decider` knows the end of do not block; they are added to `decided`.

    Nothing visible means no file; the files of a range cover it without gap or overlap. Raises
    KeyIsLockedError, CorruptionError, StorageError, or what `advance` raises.
    """
    if task.is_raw:
        return _backup_raw(task, backup_range, database, saver, advance)
    lower, upper = backup_range.data_start_key, backup_range.data_end_key
    start_ts = 0 if backup_range.takes_all else task.start_ts
    scanner = EntryScanner(database, lower, upper, start_ts, task.end_ts)
    locks = scanner.check_locks(decider)
    if decided is not None:
        decided += locks
    return _backup_txn(task, backup_range, scanner, saver, advance)


def _backup_txn(
    task: BackupTask,
    backup_range: BackupRange,
    scanner: EntryScanner,
    saver: Saver,
    advance: Advance,
) -> list[PendingFile]:
    files: list[PendingFile] = []
    writer = BackupWriter(task, saver, backup_range, backup_range.raw_start_key)
    saved_kvs = saved_bytes = 0
    try:
        while (batch := scanner.scan_entries(writer.room)) is not None:
            advance(saved_kvs + writer.total_kvs, saved_bytes + writer.total_bytes)
            if writer.need_split_keys():
                cut_key = decode_data_key(batch.first_key[:-TS_SIZE])
                saved_kvs += writer.total_kvs
                saved_bytes += writer.total_bytes
                files += writer.save(cut_key)
                writer = BackupWriter(task, saver, backup_range, cut_key)
            writer.write(batch, scanner.long_values)
        return files + writer.save(backup_range.raw_end_key)
    except BaseException:
        writer.abandon()
        raise


def _backup_raw(
    task: BackupTask,
    backup_range: BackupRange,
    database: Database,
    saver: Saver,
    advance: Advance,
) -> list[PendingFile]:
    lower, upper = backup_range.data_start_key, backup_range.data_end_key
    layout = task.raw_layout
    if backup_range.takes_all:
        layout = replace(layout, start_ts=0)
    scanner = RawScanner(database, task.family, lower, upper, layout)
    writer = RawWriter(task, saver, backup_range, backup_range.raw_start_key)
    try:
        while (batch := scanner.scan_batch()) is not None:
            advance(writer.total_kvs, writer.total_bytes)
            writer.write(*batch)
        return writer.save(backup_range.raw_end_key)
    except BaseException:
        writer.abandon()
        raise
