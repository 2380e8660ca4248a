"""Repositories put together folder by folder, for what looks at them from outside."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.report import RangeCounts, Report
from bkctl.storage.base import Storage

CONTENT = b"an SST file, more or less"


def claim(storage: Storage, name: str, start_ts: int, end_ts: int) -> BackupDir:
    """Begin a backup, as a run does."""
    settings = {
        "cluster_id": 7,
        "store_id": 1,
        "start_ts": start_ts,
        "end_ts": end_ts,
        "start_key": "",
        "end_key": "",
        "mode": "txn",
        "cf": "",
    }
    backup_dir = BackupDir(storage, name)
    backup_dir.claim(json.dumps({"host": "h", "pid": 1, "settings": settings}).encode())
    return backup_dir


def save(backup_dir: BackupDir, scratch: Path, *names: str) -> None:
    for name in names:
        path = scratch / uuid4().hex
        path.write_bytes(CONTENT)
        backup_dir.save_file(name, path)


def publish(
    storage: Storage, scratch: Path, name: str, start_ts: int, end_ts: int, files: int = 2
) -> None:
    """A complete backup of a few files that only look like SSTs from outside."""
    backup_dir = claim(storage, name, start_ts, end_ts)
    names = [f"1_1_1_{number}_1_write.sst" for number in range(files)]
    save(backup_dir, scratch, *names)
    metas = tuple(
        BackupFile(file, b"", b"", b"", start_ts, end_ts, 0, 1, 1, "write", len(CONTENT))
        for file in names
    )
    size = files * len(CONTENT)
    counts = RangeCounts(1, 1, 0, 0)
    report = Report(name, "ok", "txn", start_ts, end_ts, 1, 7, counts, files, 1, 1, 0, size, 0.1)
    backup_dir.publish(BackupMeta(7, "", metas, start_ts, end_ts), report)
