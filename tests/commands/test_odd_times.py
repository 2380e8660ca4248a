"""Times that no calendar has: in reports, in claims, and those of files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bkctl.storage.local import LocalStorage
from tests.commands.console import Outcome, bkctl
from tests.repository.repositories import publish


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the one backup, `b`, of a repository."""
    storage = LocalStorage(tmp_path / "repo")
    publish(storage, tmp_path, "b", 0, 100)
    return tmp_path / "repo" / "b"


def looked_at(folder: Path) -> list[Outcome]:
    """What commands that show times say; none ends in more than one line of an error."""
    ended = [
        bkctl(*command, *options, "--storage", folder.parent)
        for command in (("show", "b"), ("list",), ("prune", "--keep-daily", "1", "--dry-run"))
        for options in ((), ("--json",))
    ]
    for outcome in ended:
        assert outcome.stderr.count("\n") <= 1
    return ended


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("started_at", "0001-01-01T00:00:00+23:59"),
        ("started_at", "9999-12-31T23:59:59-23:59"),
        ("started_at", "9999-12-31T23:59:59.999999Z"),
        ("started_at", "0001-01-01T00:00:00Z"),
        ("started_at", "2026-11-23"),
        ("started_at", "2026-11-23T10:15:00"),
        ("started_at", "2026-99-99T99:99:99Z"),
        ("seconds", 1e308),
        ("seconds", -1e308),
        ("seconds", 10**400),
    ],
)
def test_times_of_a_report(folder: Path, field: str, value: object) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    shown, shown_json, listed, *_ = looked_at(folder)
    assert (shown.code, shown_json.code, listed.code) == (0, 0, 0)
    assert shown_json.document["files"] == 2
    assert "total: 1 complete backup" in listed.stdout


@pytest.mark.parametrize("started_at", ["x" * 5000, "\x1b[2J", "9999-12-31T23:59:59-23:59", 7])
def test_times_of_a_claim(folder: Path, started_at: object) -> None:
    (folder / "backup.lock").write_text(json.dumps({"host": "h", "started_at": started_at}))
    (folder / "backupmeta").unlink()
    assert [outcome.code for outcome in looked_at(folder)] == [0] * 6


@pytest.mark.parametrize("seconds", [-(1 << 33), 0, (1 << 33), 253_402_300_800])
def test_times_of_files(folder: Path, seconds: int) -> None:
    (folder / "report.json").unlink()
    for path in folder.iterdir():
        os.utime(path, (seconds, seconds))
    assert [outcome.code for outcome in looked_at(folder)] == [0] * 6
