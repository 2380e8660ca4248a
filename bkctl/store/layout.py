"""Where a store's files lie, and whether plain RocksDB can read them.

A TiKV data directory and what matters in it:

    data directory/
      db/            the kvdb: CURRENT, MANIFEST-*, OPTIONS-*, *.sst, *.log
        titandb/     values of Titan in *.blob files (`bkctl.titan`)
      file.dict      which files are encrypted at rest, how   -> refused if it names any
      tablets/       one RocksDB a region (partitioned engine) -> refused
      raft/ raft-engine/ snap/ import/                         not read

A directory that is no TiKV data directory but holds a CURRENT is taken as a RocksDB directory.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import read_small
from bkctl.proto import encryptionpb_pb2
from bkctl.proto.strict import has_unknown_fields, parse
from bkctl.shortage import reason_of

_PLAINTEXT = encryptionpb_pb2.PLAINTEXT
_FILE_DICT_HEADER = 16
# A dictionary has about a hundred bytes a file, OPTIONS some 10 kB a column family.
_MAX_FILE_DICT, _MAX_OPTIONS = 256 << 20, 16 << 20


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """A store's directories: `db_dir` holds CURRENT, `wal_dir` the write-ahead logs.

    `told_wal_dir` is another folder that the OPTIONS file names for them and that is there: which
    of the two it is, the logs tell. `is_wal_dir_given` is whether the user named the folder.
    """

    db_dir: Path
    wal_dir: Path
    recycles_wal: bool
    told_wal_dir: Path | None = None
    is_wal_dir_given: bool = False


def locate(path: Path, wal_dir: Path | None = None) -> StoreLayout:
    """Find the RocksDB directory at `path` (a data directory, its `db/`, or any RocksDB).

    `wal_dir` overrides where the write-ahead logs are looked for; without it they are in the
    database directory, or where the newest OPTIONS file says. Raises SourceError, naming the
    reason, for what is no RocksDB or what plain RocksDB cannot read.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such directory; give the TiKV data directory or its db/")
    if not path.is_dir():
        raise SourceError(f"{path}: not a directory; give the TiKV data directory or its db/")
    try:
        return _locate(path, wal_dir)
    except OSError as e:
        raise SourceError(f"{e.filename or path}: cannot be read ({reason_of(e)})") from None


def _locate(path: Path, wal_dir: Path | None) -> StoreLayout:
    db_dir = path if (path / "CURRENT").exists() else path / "db"
    if not (db_dir / "CURRENT").exists():
        if (path / "tablets").is_dir():
            raise SourceError(
                f"{path}: a partitioned store (tablets/): each region is a RocksDB of its own, "
                "which bkctl cannot read; back it up through the cluster"
            )
        manifests = any(name.startswith("MANIFEST-") for name in os.listdir(path))
        what = "its CURRENT file is missing" if manifests else "no RocksDB directory (no CURRENT)"
        raise SourceError(f"{path}: {what}; give the TiKV data directory or its db/")
    _refuse_encryption(db_dir)
    options = _newest_options(db_dir)
    if wal_dir is None:
        return StoreLayout(db_dir, db_dir, _recycles(options), _told_wal_dir(db_dir, options))
    if not wal_dir.is_dir():
        raise SourceError(f"{wal_dir}: no such directory for the write-ahead logs (--wal-dir)")
    return StoreLayout(db_dir, wal_dir, _recycles(options), is_wal_dir_given=True)


def _refuse_encryption(db_dir: Path) -> None:
    for folder in dict.fromkeys((db_dir, db_dir.parent)):
        file_dict = folder / "file.dict"
        if file_dict.exists():
            name = _first_encrypted(read_small(file_dict, _MAX_FILE_DICT))
            if name is not None:
                raise SourceError(
                    f"{file_dict}: the store is encrypted at rest ({name} and maybe more), "
                    "which bkctl cannot read; back it up through the cluster"
                )


def _first_encrypted(content: bytes) -> str | None:
    """Name a file that a TiKV file dictionary says is encrypted, or None.

    It is a FileDictionary (bkctl/proto/encryptionpb.proto) behind a 16-byte header. What cannot
    be parsed but names database files counts as encrypted.
    """
    for start in (_FILE_DICT_HEADER, 0):
        try:
            dictionary = parse(encryptionpb_pb2.FileDictionary, content[start:])
        except CorruptionError:
            continue
        if has_unknown_fields(dictionary):
            continue
        named_so = (n for n, info in dictionary.files.items() if info.method > _PLAINTEXT)
        return next(named_so, None)
    named = re.search(rb"[\w/.-]*(\.sst|MANIFEST-\d+|CURRENT|\.log)", content)
    return named.group().decode() if named else None


def _newest_options(db_dir: Path) -> str:
    found = [
        (int(match.group(1)), name)
        for name in os.listdir(db_dir)
        if (match := re.fullmatch(r"OPTIONS-(\d+)", name))
    ]
    if not found:
        return ""
    return read_small(db_dir / max(found)[1], _MAX_OPTIONS).decode("utf-8", "replace")


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
