"""What tests of encrypted stores share: stores to encrypt, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rocksdict import Options, Rdict

from bkctl.store.database import Database
from bkctl.store.open_view import open_database
from bkctl.store.source import Source, SourceOptions
from tests.store.at_rest import EncryptedStore

FAMILIES = ("default", "lock", "write")
SECRET = b"nobody-may-read-this-on-a-disk"

Records = dict[str, list[tuple[bytes, bytes]]]


def fill(path: Path, *, parts: int = 4, close: bool = True) -> Rdict:
    """A store with files on several levels, deletions and several versions of keys."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
    for each in (options, *families.values()):
        each.set_disable_auto_compactions(True)
    db = Rdict(str(path), options, column_families=families)
    write = db.get_column_family("write")
    for part in range(parts):
        for i in range(part * 50, part * 50 + 200):
            write[b"z%06d" % i] = SECRET + b"%06d" % part
            db[b"z%06d" % i] = SECRET + os.urandom(300)
        for i in range(part * 50, part * 50 + 200, 9):
            del write[b"z%06d" % i]
        write.flush()
        db.flush()
        if part == 1:
            write.compact_range(None, None)
    if close:
        db.close()
    return db


def records_of(database: Database) -> Records:
    found: Records = {}
    for family in FAMILIES:
        scan, found[family] = database.scan(family, b"", b"\xff"), []
        while records := scan.take(100):
            found[family] += records
    return found


def read(options: SourceOptions) -> Records:
    with Source(options) as source:
        database = open_database(source.db_dir, source.path)
        try:
            return records_of(database)
        finally:
            database.close()


def options_of(store: EncryptedStore, **more: Any) -> SourceOptions:
    return SourceOptions(store.path, master_key=store.key_file, **more)


def plain_bytes_in(folder: Path, secrets: list[bytes]) -> list[str]:
    """Files of a folder that hold one of the secrets, but for those in memory."""
    found = []
    for path in folder.rglob("*"):
        in_memory = path.is_symlink() and "memfd:" in os.path.realpath(path)
        if path.is_file() and not in_memory and any(s in path.read_bytes() for s in secrets):
            found.append(path.name)
    return found


def secrets_of(records: Records) -> list[bytes]:
    return [b"z00", b"z0029", b"vvvvvvvv", SECRET, *(key for key, _ in records["write"][::500])]
