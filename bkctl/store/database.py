"""Opens a pinned view with RocksDB and reads it; no scan here can end early without an error.

RocksDB's fast iterators stop at a damaged block as if the data had ended. A `Scan` therefore looks
again at its end: a second iterator is put on the last key, stepped once, and must be at the end
with a clean status.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
)

from bkctl import processes
from bkctl.errors import BkctlError, CorruptionError, SourceError, StorageError
from bkctl.store.column_scan import ColumnScan
from bkctl.store.tables import Tables, UnreadableError

READAHEAD = 4 << 20
_OPEN_FILES = 64
_BLOCK_CACHE = 8 << 20
_FLUSH_BUFFER = 16 << 20
# Values can be 8 MiB each: so few at a time that a run of them stays small in memory.
_STEP = 16
_VALUE = itemgetter(1)
_IN_MEMORY = ("rocksdb.num-entries-active-mem-table", "rocksdb.num-entries-imm-mem-tables")


class Database:
    """A view opened read-only; `source` replaces the private folder's name in messages."""

    def __init__(self, db_dir: Path, source: Path, levels: int | None = None) -> None:
        """Open `db_dir`; raises CorruptionError where RocksDB finds damage.

        A store of more than the usual number of levels can be opened only with that number.
        """
        self._db_dir, self._source = db_dir, source
        try:
            self.families = tuple(Rdict.list_cf(str(db_dir)))
            self._db = Rdict(
                str(db_dir),
                _options(levels),
                column_families={name: _options(levels) for name in self.families},
                access_type=AccessType.read_only(False),
            )
        except Exception as e:  # rocksdict raises nothing narrower
            raise self.error(e) from None
        self._handles = {"default": self._db}
        self._tables = Tables(db_dir)
        self._same_tables: bool | None = None

    def close(self) -> None:
        """Close the handle; iterators must be gone."""
        self._tables.close()
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

    def scan(self, family: str, lower: bytes, upper: bytes, *, readahead: int = READAHEAD) -> Scan:
        """Read `[lower, upper)` of a family, in key order."""
        return Scan(self, self._family(family), lower, upper, readahead)

    def scan_columns(self, family: str, lower: bytes, upper: bytes) -> ColumnScan:
        """Read `[lower, upper)` of a family, in key order, as columns."""
        return ColumnScan(self, family, lower, upper)

    def tables(self, family: str) -> Tables:
        """The view's SST files, if they hold all there is of a family; else UnreadableError.

        They must be those that RocksDB has open, and nothing may be in memory beside them.
        """
        if self._same_tables is None:
            self._same_tables = self._has_same_tables()
        handle = self._family(family)
        in_memory = map(handle.property_int_value, _IN_MEMORY)
        if not self._same_tables or any(count != 0 for count in in_memory):
            raise UnreadableError(f"{self._source}: not all of {family} is in known SST files")
        return self._tables

    def _has_same_tables(self) -> bool:
        files = [file for family in self._tables.files().values() for file in family]
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
        text = text.replace(str(self._db_dir), str(self._source))
        while text.startswith("Corruption: Corruption:"):
            text = text.removeprefix("Corruption: ")
        return CorruptionError(f"{self._source}: {text}")

    def _family(self, name: str) -> Rdict:
        if name not in self._handles:
            self._handles[name] = self._db.get_column_family(name)
        return self._handles[name]


class Scan:
    """A forward scan of one column family; take records from it until it gives none."""

    def __init__(
        self, database: Database, family: Rdict, lower: bytes, upper: bytes, readahead: int
    ) -> None:
        self._database, self._family = database, family
        self._lower, self._upper, self._readahead = lower, upper, readahead
        self._last: bytes | None = None
        self._items: Iterator[tuple[bytes, bytes]] = self._open(lower)
        self._ended = False

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next records, `count` of them or all that are left; empty only at the true end.

        Raises CorruptionError when the data could not be read to its end.
        """
        if self._ended:
            return []
        records = list(islice(self._items, count))
        if records:
            self._last = records[-1][0]
        if len(records) < count:
            self._ended = True
            self._check_end()
        return records

    def take_bounded(self, count: int, plain_bytes: int) -> list[tuple[bytes, bytes]]:
        """Like `take`, but stops soon after values of `plain_bytes` bytes: for values of any size.

        Raises CorruptionError when the data could not be read to its end.
        """
        records: list[tuple[bytes, bytes]] = []
        size = 0
        while len(records) < count and size < plain_bytes:
            step = self.take(min(_STEP, count - len(records)))
            if not step:
                break
            records += step
            size += sum(map(len, map(_VALUE, step)))
        return records

    def seek(self, key: bytes) -> None:
        """Go on at `key` (or behind it), which must lie behind all that was taken."""
        self._items = self._open(key)
        self._lower, self._last = key, None
        self._ended = False

    def _open(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            items: Any = self._family.items(from_key=key, read_opt=self._read_options())
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._database.error(e) from None
        return cast("Iterator[tuple[bytes, bytes]]", items)

    def _read_options(self) -> ReadOptions:
        options = ReadOptions()
        options.set_readahead_size(self._readahead)
        options.set_total_order_seek(True)
        options.set_iterate_upper_bound(self._upper)
        return options

    def _check_end(self) -> None:
        again = self._family.iter(self._read_options())
        try:
            again.seek(self._lower if self._last is None else self._last)
            at_last = again.valid() and again.key() == self._last
            if at_last:
                again.next()
            again.status()
            if again.valid() or (self._last is not None and not at_last):
                raise CorruptionError("the scan ended before the data did")
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._database.error(e) from None


def require_families(source: Path, found: Sequence[str], families: Sequence[str]) -> None:
    """Raise SourceError, by name, for a column family that is not among those `found`."""
    missing = [name for name in families if name not in found]
    if missing:
        raise SourceError(
            f"{source}: no column family {', '.join(missing)}; it has {', '.join(sorted(found))}"
            + (" (a raw store is backed up with --raw)" if "write" in missing else "")
        )


def flush_logs(db_dir: Path, source: Path, *, point_in_time: bool) -> None:
    """Replay a view's logs into SST files of the view's own, in a process that ends with it.

    Memory is bounded by the write buffers, not by the logs. A record cut off at the very end of the
    newest log (a killed store) is no damage; any other damage is a CorruptionError, unless
    `point_in_time` asks for what TiKV would do: take what lies before it.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = processes.start_shielded(
        _flush_process, (db_dir, source, point_in_time, sender), "bkctl-flush"
    )
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


def _flush_process(db_dir: Path, source: Path, point_in_time: bool, sender: Connection) -> None:
    processes.begin()
    try:
        _flush(db_dir, source, point_in_time)
        sender.send(None)
    except BkctlError as e:
        sender.send(e)


def _flush(db_dir: Path, source: Path, point_in_time: bool) -> None:
    def options() -> Options:
        made = _options()
        made.set_disable_auto_compactions(True)
        made.set_write_buffer_size(_FLUSH_BUFFER)
        made.set_wal_recovery_mode(
            DBRecoveryMode.point_in_time()
            if point_in_time
            else DBRecoveryMode.tolerate_corrupted_tail_records()
        )
        return made

    try:
        names = Rdict.list_cf(str(db_dir))
        db = Rdict(str(db_dir), options(), column_families={name: options() for name in names})
        for name in names:
            (db if name == "default" else db.get_column_family(name)).flush(True)
        db.close()
    except Exception as e:  # rocksdict raises nothing narrower
        text = " ".join(str(e).split()).replace(str(db_dir), str(source))
        hint = (
            ""
            if point_in_time
            else "; --recovery point-in-time takes what lies before the damage, as TiKV would"
        )
        raise CorruptionError(
            f"{source}: the write-ahead log cannot be replayed: {text}{hint}"
        ) from None


def _options(levels: int | None = None) -> Options:
    options = Options(raw_mode=True)
    if levels is not None:
        options.set_num_levels(levels)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_BLOCK_CACHE))
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    # Bounded, so that memory does not grow with the number of files.
    options.set_max_open_files(_OPEN_FILES)
    # Few are opened to begin with; each family would start sixteen threads for them.
    options.set_max_file_opening_threads(1)
    options.set_skip_stats_update_on_db_open(True)
    return options


__all__ = ["READAHEAD", "Database", "Scan", "flush_logs", "require_families"]
