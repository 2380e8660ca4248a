"""Replays write-ahead logs into SST files, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bkctl.errors import CorruptionError, SourceError, StorageError
from bkctl.pool.helper import Helper, HelperDiedError
from bkctl.shortage import lack_in
from bkctl.store.blob_logs import mark_blob_indexes
from bkctl.store.inspector import store_died
from bkctl.store.view_files import is_sealed
from bkctl.titan.manifest import FOLDER

FLUSH_BUFFER = 16 << 20
"""Bytes of a family's records in memory after which they are written to a file."""


def flush_logs(
    db_dir: Path, source: Path, is_cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Replay a view's logs into SST files of the view's own; see LogFlusher.

    Does nothing in a view of an encrypted store, which replays them itself.
    """
    if is_sealed(db_dir):
        return
    with LogFlusher(source, is_cancelled) as flusher:
        flusher.flush(db_dir)


class LogFlusher:
    """A context manager around a process that replays logs, as often as it is asked to."""

    def __init__(self, source: Path, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """`source` is the store's directory, for messages."""
        self._source = source
        self._helper = Helper(_Flusher, "flush", is_cancelled)

    def __enter__(self) -> LogFlusher:
        # Now, lest it inherit the locks of folders that are made later.
        self._helper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._helper.close()

    def flush(self, db_dir: Path) -> None:
        """Replay the logs in `db_dir` into SST files there.

        Memory is bounded by the write buffers, not by the logs. They have been checked, and cut
        where they end (`bkctl.store.logs`), so whatever RocksDB cannot replay is a
        CorruptionError; StorageError where there is no room.
        """
        try:
            for _ in self._helper.ask((db_dir, self._source)):
                pass
        except HelperDiedError as e:
            if e.is_crash:
                raise store_died(self._source, e) from None
            raise SourceError(
                f"{self._source}: the process that replays the write-ahead log ended: {e}"
            ) from None


def flush_here(db_dir: Path, source: Path) -> None:
    """Replay the logs in `db_dir` in this very process, which RocksDB may end; see LogFlusher."""
    _flush(db_dir, source)


class _Flusher:
    """What the process does; it has nothing to answer but that it is done."""

    def __call__(self, request: tuple[Path, Path]) -> tuple[object, ...]:
        _flush(*request)
        return ()


def _flush(db_dir: Path, source: Path) -> None:
    # Loaded here, as only that process needs it.
    from rocksdict import DBRecoveryMode, Options, Rdict

    from bkctl.store.rocksdb_options import rocksdb_options

    mark_blob_indexes(db_dir, source)

    def options() -> Options:
        made = rocksdb_options()
        made.set_disable_auto_compactions(True)
        made.set_write_buffer_size(FLUSH_BUFFER)
        made.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
        return made

    try:
        names = Rdict.list_cf(str(db_dir))
        db = Rdict(str(db_dir), options(), column_families={name: options() for name in names})
        for name in names:
            (db if name == "default" else db.get_column_family(name)).flush(True)
        db.close()
    except Exception as e:  # rocksdict raises nothing narrower
        text = " ".join(str(e).split())
        if lack := lack_in(text):
            raise StorageError(
                f"{db_dir}: the write-ahead log cannot be replayed there: {lack} (--work-dir)"
            ) from None
        text = text.replace(str(db_dir), str(source))
        if "blob index" in text and not (db_dir / FOLDER).is_dir():
            text += "; it leads to values in blob files, and the store has no titandb"
        raise CorruptionError(f"{source}: the write-ahead log cannot be replayed: {text}") from None
