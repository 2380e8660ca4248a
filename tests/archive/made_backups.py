"""Backups put together file by file, right or wrong, and checked without workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile, BackupMeta, encode_meta
from bkctl.codec.strings import ByteStrings
from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.keys import versioned_key
from bkctl.mvcc.write import parse_write
from bkctl.sst.writer import Compression, SstWriter
from bkctl.storage.local import LocalStorage
from bkctl.verify.backup import check_description
from bkctl.verify.file import Finding, PairCheck, pairs_of

START_TS, END_TS = 0, 100
Record = tuple[bytes, bytes]


def write_record(kind: bytes, start_ts: int, short_value: bytes | None = None) -> bytes:
    short = b"" if short_value is None else b"v" + bytes([len(short_value)]) + short_value
    return kind + encode_uvarint(start_ts) + short


def put(raw_key: bytes, commit_ts: int, value: bytes | None = b"v", start_ts: int = 5) -> Record:
    """A record of `write`; its value is in `default` where `value` is None."""
    return versioned_key(raw_key, commit_ts), write_record(b"P", start_ts, value)


class MadeBackup:
    """The backup `b` of a repository below `path`, made of the files that are added."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.repository = path / "repo"
        self.folder = self.repository / "b"
        self.storage = LocalStorage(self.repository)
        self.files: list[BackupFile] = []
        self.settings = {"start_version": START_TS, "end_version": END_TS, **settings}
        self.folder.mkdir(parents=True)

    @property
    def is_raw(self) -> bool:
        return bool(self.settings.get("is_raw_kv"))

    @property
    def backup_dir(self) -> BackupDir:
        return BackupDir(self.storage, "b")

    def add(self, cf: str, records: list[Record], **claims: Any) -> BackupFile:
        """Add a file of these records, counted by the format's rule unless `claims` count them."""
        name = claims.pop("name", f"1_2_3_{len(self.files)}_{cf}.sst")
        writer = SstWriter(self.folder / name, Compression())
        writer.write([key for key, _ in records], [value for _, value in records])
        sst = writer.finish()
        counted = Accounting() if "total_kvs" in claims else self._count(cf, records)
        file = BackupFile(
            name=name,
            sha256=sst.sha256,
            start_key=b"",
            end_key=b"",
            start_version=int(self.settings["start_version"]),
            end_version=int(self.settings["end_version"]),
            crc64xor=counted.crc64xor,
            total_kvs=counted.total_kvs,
            total_bytes=counted.total_bytes,
            cf=cf,
            size=sst.size,
        )
        self.files.append(replace(file, **claims))
        return self.files[-1]

    def _count(self, cf: str, records: list[Record]) -> Accounting:
        counted = Accounting()
        for key, value in records:
            if self.is_raw:
                counted.add_raw(ByteStrings.of([key]), ByteStrings.of([value]))
            elif cf == "default":
                counted.add_one(key[1:-8], value)
            elif (record := parse_write(value)).short_value is not None:
                counted.add_one(key[1:-8], record.short_value)
            elif value[:1] == b"D":
                counted.add_one(key[1:-8], b"")
        return counted

    def publish(self) -> None:
        """Write backupmeta, whatever it says."""
        settings: dict[str, Any] = {
            "cluster_id": 1,
            "cluster_version": "",
            "files": tuple(self.files),
        }
        self.storage.write("b/backupmeta", encode_meta(BackupMeta(**(settings | self.settings))))

    def check(self, *, deep: bool = True) -> list[Finding]:
        """What is wrong with the files."""
        return check_files(self.backup_dir, self.files, is_raw=self.is_raw, deep=deep)


def existing(repository: Path, name: str) -> BackupDir:
    return BackupDir(LocalStorage(repository), name)


def check_files(
    backup_dir: BackupDir, files: list[BackupFile], *, is_raw: bool = False, deep: bool = True
) -> list[Finding]:
    """Check files without workers."""
    return [
        finding
        for pair in pairs_of(files, is_raw)
        for finding in PairCheck(
            backup_dir, pair, is_raw=is_raw, deep=deep, advance=lambda kvs, plain_bytes: None
        ).run()
    ]


def check_all(repository: Path, name: str, *, deep: bool = True) -> list[Finding]:
    """All that is wrong with a backup, found without workers."""
    backup_dir = existing(repository, name)
    description = check_description(backup_dir)
    found = list(description.findings)
    if (meta := description.meta) is not None:
        found += check_files(backup_dir, list(meta.files), is_raw=meta.is_raw_kv, deep=deep)
    return found
