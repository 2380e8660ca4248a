"""Where a store's files lie, and whether bkctl can read them.

A TiKV data directory and what matters in it:

    data directory/
      db/            the kvdb: CURRENT, MANIFEST-*, OPTIONS-*, *.sst, *.log
        titandb/     values of Titan in *.blob files (`bkctl.titan`)
      file.dict key.dict   which files are encrypted at rest, how, with which keys (`atrest`)
      tablets/       one RocksDB a region (partitioned engine) -> refused
      raft/ raft-engine/ snap/ import/                         not read

A directory that is no TiKV data directory but holds a CURRENT is taken as a RocksDB directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import read_small
from bkctl.shortage import reason_of

if TYPE_CHECKING:
    from bkctl.store.atrest.dictionary import AtRest

_DICTIONARIES = ("file.dict", "key.dict")
# Some 10 kB a column family.
_MAX_OPTIONS = 16 << 20


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """A store's directories: `db_dir` holds CURRENT, `wal_dir` the write-ahead logs.

    `told_wal_dir` is another folder that the OPTIONS file names for them and that is there: which
    of the two it is, the logs tell. `is_wal_dir_given` is whether the user named the folder.
    `at_rest` are the dictionaries of a store that has encrypted files.
    """

    db_dir: Path
    wal_dir: Path
    recycles_wal: bool
    told_wal_dir: Path | None = None
    is_wal_dir_given: bool = False
    at_rest: AtRest | None = None


def locate(
    path: Path,
    wal_dir: Path | None = None,
    master_key: Path | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> StoreLayout:
    """Find the RocksDB directory at `path` (a data directory, its `db/`, or any RocksDB).

    `wal_dir` overrides where the write-ahead logs are looked for; without it they are in the
    database directory, or where the newest OPTIONS file says. `master_key` and `warn` are for a
    store that is encrypted at rest, as AtRest takes them. Raises SourceError, naming the reason,
    for what is no RocksDB or what bkctl cannot read, CorruptionError for damaged dictionaries.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such directory; give the TiKV data directory or its db/")
    if not path.is_dir():
        raise SourceError(f"{path}: not a directory; give the TiKV data directory or its db/")
    try:
        return _locate(path, wal_dir, master_key, warn)
    except OSError as e:
        raise SourceError(f"{e.filename or path}: cannot be read ({reason_of(e)})") from None


def is_encrypted(path: Path) -> bool:
    """Whether a store, at `path` as `locate` takes it, has files that are encrypted at rest.

    Needs no key. Raises CorruptionError, SourceError for dictionaries that cannot be read.
    """
    at_rest = _open_dictionaries(_db_dir(path), None, lambda message: None)
    if at_rest is not None:
        at_rest.close()
    return at_rest is not None


def _db_dir(path: Path) -> Path:
    return path if (path / "CURRENT").exists() else path / "db"


def _locate(
    path: Path, wal_dir: Path | None, master_key: Path | None, warn: Callable[[str], None]
) -> StoreLayout:
    db_dir = _db_dir(path)
    if not (db_dir / "CURRENT").exists():
        if (path / "tablets").is_dir():
            raise SourceError(
                f"{path}: a partitioned store (tablets/): each region is a RocksDB of its own, "
                "which bkctl cannot read; back it up through the cluster"
            )
        manifests = any(name.startswith("MANIFEST-") for name in os.listdir(path))
        what = "its CURRENT file is missing" if manifests else "no RocksDB directory (no CURRENT)"
        raise SourceError(f"{path}: {what}; give the TiKV data directory or its db/")
    at_rest = _open_dictionaries(db_dir, master_key, warn)
    options = _newest_options(db_dir, at_rest)
    recycles = _recycles(options)
    if wal_dir is None:
        told = _told_wal_dir(db_dir, options)
        return StoreLayout(db_dir, db_dir, recycles, told, at_rest=at_rest)
    if not wal_dir.is_dir():
        raise SourceError(f"{wal_dir}: no such directory for the write-ahead logs (--wal-dir)")
    return StoreLayout(db_dir, wal_dir, recycles, is_wal_dir_given=True, at_rest=at_rest)


def _open_dictionaries(
    db_dir: Path, master_key: Path | None, warn: Callable[[str], None]
) -> AtRest | None:
    """The dictionaries of a store that has encrypted files, None for one that has not."""
    folder = next((f for f in (db_dir.parent, db_dir) if _has_dictionaries(f)), None)
    if folder is None:
        return None
    from bkctl.store.atrest.dictionary import AtRest

    at_rest = AtRest(folder, db_dir, master_key, warn)
    if at_rest.encrypts:
        return at_rest
    at_rest.close()
    return None


def _has_dictionaries(folder: Path) -> bool:
    return any((folder / name).exists() for name in _DICTIONARIES)


def _newest_options(db_dir: Path, at_rest: AtRest | None) -> str:
    found = [
        (int(match.group(1)), name)
        for name in os.listdir(db_dir)
        if (match := re.fullmatch(r"OPTIONS-(\d+)", name))
    ]
    if not found:
        return ""
    path = db_dir / max(found)[1]
    if at_rest is None:
        return read_small(path, _MAX_OPTIONS).decode("utf-8", "replace")
    text = at_rest.read_small(path, _MAX_OPTIONS).decode("utf-8", "replace")
    if "[DBOptions]" not in text:
        raise CorruptionError(
            f"{path}: is no OPTIONS file when decrypted as {at_rest.path} says: one of the two is "
            "damaged, or from another moment"
        )
    return text


def _recycles(options: str) -> bool:
    match = re.search(r"^\s*recycle_log_file_num=(\d+)", options, re.MULTILINE)
    return match is not None and int(match.group(1)) > 0


def _told_wal_dir(db_dir: Path, options: str) -> Path | None:
    """The folder of logs that the OPTIONS file names, if it is there and not the database's own."""
    match = re.search(r"^\s*wal_dir=(\S.*?)\s*$", options, re.MULTILINE)
    if match is None:
        return None
    told = db_dir / match.group(1)
    if told.is_dir():
        return None if told.samefile(db_dir) else told
    # A RocksDB keeps a current log always, and names its own folder where that is moved, too.
    if told.name == db_dir.name or any(re.fullmatch(r"\d+\.log", n) for n in os.listdir(db_dir)):
        return None
    raise SourceError(
        f"{db_dir}: its write-ahead logs are kept in {told}, which is not there; "
        "say where they are with --wal-dir (or --wal-dir of an empty directory if there are none)"
    )
