"""Replays a view's write-ahead logs into SST files, in a process of its own."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from rocksdict import DBRecoveryMode, Options, Rdict

from bkctl.errors import BkctlError, CorruptionError, SourceError
from bkctl.pool import processes
from bkctl.store.rocksdb_options import rocksdb_options

_FLUSH_BUFFER = 16 << 20


def flush_logs(db_dir: Path, source: Path) -> None:
    """Replay a view's logs into SST files of the view's own, in a process that ends with it.

    Memory is bounded by the write buffers, not by the logs. They have been checked, and cut where
    they end (`bkctl.store.logs`), so whatever RocksDB cannot replay is a CorruptionError.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = processes.start_shielded(_flush_process, (db_dir, source, sender), "bkctl-flush")
    sender.close()
    try:
        error: BkctlError | None = receiver.recv()
    except EOFError:
        process.join()
        error = SourceError(
            f"{source}: the process that replays the write-ahead log ended with "
            f"{process.exitcode} (killed, or out of memory)"
        )
    finally:
        receiver.close()
        process.join()
    if error is not None:
        raise error


def _flush_process(db_dir: Path, source: Path, sender: Connection) -> None:
    processes.begin()
    try:
        _flush(db_dir, source)
        sender.send(None)
    except BkctlError as e:
        sender.send(e)


def _flush(db_dir: Path, source: Path) -> None:
    def options() -> Options:
        made = rocksdb_options()
        made.set_disable_auto_compactions(True)
        made.set_write_buffer_size(_FLUSH_BUFFER)
        made.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
        return made

    try:
        names = Rdict.list_cf(str(db_dir))
        db = Rdict(str(db_dir), options(), column_families={name: options() for name in names})
        for name in names:
            (db if name == "default" else db.get_column_family(name)).flush(True)
        db.close()
    except Exception as e:  # rocksdict raises nothing narrower
        text = " ".join(str(e).split()).replace(str(db_dir), str(source))
        raise CorruptionError(f"{source}: the write-ahead log cannot be replayed: {text}") from None
