"""Makes a new RocksDB directory out of finished SST files, without reading or writing a record.

    directory/
      CURRENT MANIFEST-* *.sst *.log    as RocksDB leaves them
      OPTIONS-*                         ours: what RocksDB 6.29 and later understand

The files are moved in as they are. RocksDB opens a moved file to sync it but writes nothing into
it: the sequence number that a file gets when it is taken in is kept in the MANIFEST. So files may
be hard links to others that must not change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rocksdict import IngestExternalFileOptions, Options, Rdict

from bkctl.errors import BkctlError, CorruptionError, StorageError
from bkctl.files.access import FOLDER_MODE
from bkctl.shortage import lack_in, reason_of

LEVELS = 7
TIKV_FAMILIES = ("default", "lock", "write", "raft")
_OPEN_FILES = 64
# How RocksDB begins to say that it is a file that is at fault: no entries, an unknown codec, ...
_BAD_FILE = ("Corruption: ", "Invalid argument: ", "Not implemented: ")
_LIBRARY_FILES = ("rocksdict-config.json", "LOG")
# A newer library's own OPTIONS name options that older ones refuse. What is not named here has its
# default. Levels grow from the last one up, as in TiKV.
_OPTIONS_HEAD = """\
[Version]
  rocksdb_version=6.29.0
  options_file_version=1.1

[DBOptions]
  create_if_missing=false
"""
_OPTIONS_OF_FAMILY = """
[CFOptions "{name}"]
  compression=kLZ4Compression
  bottommost_compression=kZSTD
  level_compaction_dynamic_level_bytes=true

[TableOptions/BlockBasedTable "{name}"]
  format_version=5
  checksum=kCRC32c
"""


@dataclass(frozen=True, slots=True)
class TakenFile:
    """A file of the store by its name there, with its first and its last key."""

    name: str
    first_key: bytes
    last_key: bytes


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that RocksDB would not take in, by the name that messages have for it, and why."""

    shown_name: str
    what: str


class NewStore:
    """A RocksDB directory while it is made; a context manager, which closes it.

    `families` are made besides those of TiKV. Only what `finish` has completed is a store.
    """

    def __init__(self, path: Path, families: Iterable[str] = (), *, levels: int = LEVELS) -> None:
        """Create the directory `path` with an empty store; StorageError where that fails.

        With more than the usual `levels` it can be opened only by who knows their number.
        """
        self.path = path
        self.families = tuple(dict.fromkeys([*TIKV_FAMILIES, *families]))
        options = {name: _options(levels) for name in self.families}
        try:
            path.mkdir(FOLDER_MODE)
        except OSError as e:
            raise StorageError(f"{path}: cannot be made ({reason_of(e)})") from None
        try:
            self._db: Rdict | None = Rdict(
                str(path), _options(levels, creating=True), column_families=options
            )
        except Exception as e:  # noqa: BLE001 - rocksdict raises nothing narrower
            raise self._error(e) from None

    def __enter__(self) -> NewStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def ingest(self, family: str, paths: Sequence[Path]) -> None:
        """Move SST files into a column family; where two hold a key, the later call's counts.

        Raises CorruptionError where one is no SST file that can be taken in, StorageError for all
        else.
        """
        db = self._opened()
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        handle = db if family == "default" else db.get_column_family(family)
        try:
            handle.ingest_external_file([str(path) for path in paths], options)
        except Exception as e:  # noqa: BLE001 - rocksdict raises nothing narrower
            raise self._error(e, _BAD_FILE) from None
        finally:
            if handle is not db:
                handle.close()

    def files(self) -> list[TakenFile]:
        """The files that were taken in, under the names that the store gave them."""
        return [
            TakenFile(file["name"].lstrip("/"), file["start_key"] or b"", file["end_key"] or b"")
            for file in self._opened().live_files()
        ]

    def finish(self) -> None:
        """Close the store, remove what only the library needs, and sync the directory."""
        self._close()
        try:
            for name in _LIBRARY_FILES:
                (self.path / name).unlink(missing_ok=True)
            self._replace_options()
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            raise StorageError(
                f"{e.filename or self.path}: cannot be written ({reason_of(e)}); "
                "check space and permissions there"
            ) from None

    def _opened(self) -> Rdict:
        if self._db is None:
            raise ValueError(f"{self.path} is closed")
        return self._db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _replace_options(self) -> None:
        text = _OPTIONS_HEAD + "".join(
            _OPTIONS_OF_FAMILY.format(name=_escaped(name)) for name in self.families
        )
        written = sorted(self.path.glob("OPTIONS-*"))
        for path in written[:-1]:
            path.unlink()
        for path in written[-1:]:
            with path.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

    def _error(
        self, error: Exception, corruption: tuple[str, ...] = ("Corruption: ",)
    ) -> BkctlError:
        text = " ".join(str(error).split())
        if text.startswith(corruption):
            return CorruptionError(f"{self.path}: {text}")
        if lack := lack_in(text):
            return StorageError(f"{self.path}: {lack}")
        return StorageError(f"{self.path}: {text}; check space and permissions there")


def ingest_named(
    store: NewStore, family: str, named: Sequence[tuple[str, Path]]
) -> RefusedFile | None:
    """Move in files, each given as (name for messages, path); the first that is refused, if any.

    Raises CorruptionError where that cannot be told, StorageError for all else.
    """
    try:
        store.ingest(family, [path for _, path in named])
    except CorruptionError:
        # RocksDB does not say which; what it refuses alone is the one.
        for shown_name, path in named:
            if path.exists():
                try:
                    store.ingest(family, [path])
                except CorruptionError as e:
                    what = str(e).removeprefix(f"{store.path}: ").removeprefix("Corruption: ")
                    what = what.replace(str(path), "the file")
                    return RefusedFile(shown_name, what)
        raise
    return None


def _options(levels: int, *, creating: bool = False) -> Options:
    options = Options(raw_mode=True)
    options.set_num_levels(levels)
    # The store is handed over as it is made: rearranging is for whoever uses it.
    options.set_disable_auto_compactions(True)
    # With a level to itself, each backup of a chain is sorted; otherwise all would share level 0.
    options.set_level_compaction_dynamic_level_bytes(False)
    if creating:
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_error_if_exists(True)
        options.set_max_open_files(_OPEN_FILES)
        options.set_keep_log_file_num(1)
    return options


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("#", "\\#")
