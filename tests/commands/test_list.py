"""`bkctl list` as a user or a script meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupMeta
from bkctl.storage.local import LocalStorage
from tests.commands.console import bkctl
from tests.oracles import require_shared
from tests.repository.test_catalog import report


@pytest.fixture
def repository(tmp_path: Path) -> LocalStorage:
    """A full backup, an incremental on it, an orphan, an unfinished and a damaged one."""
    storage = LocalStorage(tmp_path / "repo")
    for name, start_ts, end_ts in (
        ("full", 0, 1 << 60),
        ("incr", 1 << 60, 1 << 61),
        ("lost", 5, 1 << 61),
        ("torn", 0, 9),
    ):
        backup_dir = BackupDir(storage, name)
        backup_dir.claim(b'{"host": "box", "pid": 42}')
        backup_dir.publish(BackupMeta(7, "", (), start_ts, end_ts), report(name, start_ts, end_ts))
    storage.write("torn/backupmeta", b"\xff")
    BackupDir(storage, "open").claim(b'{"host": "box", "pid": 43}')
    return storage


def test_chains_are_drawn_as_chains(repository: LocalStorage) -> None:
    outcome = bkctl("list", "--storage", repository.url)
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split() == ["backup", "state", "age", "window", "size", "files", "kvs"]
    assert any(line.startswith("full ") for line in lines)
    assert any(line.startswith("└─ incr ") for line in lines)
    assert "needs a backup that ends at 5" in outcome.stdout
    assert "begun by host box, pid 43" in outcome.stdout
    assert "no readable protobuf" in outcome.stdout
    assert lines[-1].startswith("total: 3 complete backups, 1 unfinished, 1 damaged")


def test_the_window_is_told_as_time_and_as_tso(repository: LocalStorage) -> None:
    told = bkctl("list", "--storage", repository.url).stdout
    assert "2109-05-15T07:35:11.104Z to 2248-09-26T15:10:22.208Z" in told
    assert f"TSO {1 << 60} to {1 << 61}" in told


def test_one_json_document_says_the_same(repository: LocalStorage) -> None:
    document = bkctl("list", "--storage", repository.url, "--json").document
    backups = {entry["name"]: entry for entry in document["backups"]}
    assert {name: entry["state"] for name, entry in backups.items()} == {
        "full": "complete",
        "incr": "complete",
        "lost": "complete",
        "open": "unfinished",
        "torn": "damaged",
    }
    assert (backups["incr"]["base"], backups["incr"]["orphan"]) == ("full", False)
    assert (backups["lost"]["base"], backups["lost"]["orphan"]) == (None, True)
    assert (backups["full"]["kind"], backups["incr"]["kind"]) == ("full", "incr")
    assert backups["open"]["begun_by"] == {"host": "box", "pid": 43, "started_at": ""}
    assert document["totals"]["backups"] == 3


def test_an_empty_repository_says_so(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    outcome = bkctl("list", "--storage", tmp_path / "repo")
    assert (outcome.code, "no backups" in outcome.stdout) == (0, True)
    document = bkctl("list", "--storage", tmp_path / "repo", "--json").document
    assert document["backups"] == []


def test_a_repository_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    outcome = bkctl("list", "--storage", tmp_path / "nowhere")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "nowhere" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_single_backup_of_br_is_listed() -> None:
    real = require_shared() / "br-raw-v5.2.1"
    outcome = bkctl("list", "--storage", real)
    assert "br-raw-v5.2.1" in outcome.stdout
    assert "total: 1 complete backup, 12.0 KiB, 2 files, 1,000 kvs" in outcome.stdout
    (entry,) = bkctl("list", "--storage", real, "--json").document["backups"]
    assert (entry["start_key"], entry["end_key"]) == (b"test".hex(), b"u".hex())
    assert (entry["files"], entry["total_kvs"], entry["total_bytes"]) == (2, 1000, 85_000)
