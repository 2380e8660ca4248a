"""`bkctl prune` as a user or a cron job meets it, and killed where it hurts."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.make_store import END_TS, MID_TS, make_store
from tests.backup.helpers import backup
from tests.commands.console import Outcome, bkctl
from tests.conftest import SAMPLE_ROWS, SAMPLE_SEED

BACKUPS = (
    # A chain of three, a full backup beside it, and a newer chain of two.
    ("full1", 0, MID_TS - 1000),
    ("incr1", MID_TS - 1000, MID_TS - 500),
    ("incr2", MID_TS - 500, MID_TS),
    ("full2", 0, MID_TS - 1),
    ("full3", 0, MID_TS),
    ("incr3", MID_TS, END_TS),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("prune")
    make_store(base / "store", SAMPLE_ROWS, SAMPLE_SEED)
    for name, start_ts, end_ts in BACKUPS:
        report = backup(base / "store", base / "repo", name=name, start_ts=start_ts, end_ts=end_ts)
        assert report.status == "ok"
    return base / "repo"


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "repo")
    return tmp_path / "repo"


def prune(repository: Path, *args: object) -> Outcome:
    return bkctl("prune", "--storage", repository, *args)


def listed(repository: Path) -> dict[str, Any]:
    document = bkctl("list", "--storage", repository, "--json").document
    return {entry["name"]: entry for entry in document["backups"]}


def names(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def test_a_dry_run_says_why_and_changes_nothing(repository: Path) -> None:
    before = names(repository)
    told = prune(repository, "--keep-last", 1, "--dry-run")
    assert told.code == 0
    lines = {line.split()[1]: line for line in told.stdout.splitlines() if line.startswith("  ")}
    assert lines.keys() == {name for name, _, _ in BACKUPS}
    assert lines["incr3"].split()[0] == "keep"
    assert lines["incr3"].endswith("last 1 of 1")
    assert lines["full3"].endswith("incr3 builds on it")
    for name in ("full1", "incr1", "incr2", "full2"):
        assert lines[name].split()[0] == "remove"
        assert lines[name].endswith("no rule keeps it")
    assert "would remove: 4 backups, " in told.stdout
    assert names(repository) == before


def test_what_is_told_is_done(repository: Path) -> None:
    told = prune(repository, "--keep-last", 1, "--dry-run", "--json").document
    assert (told["dry_run"], told["freed"]["backups"]) == (True, 4)
    size = sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())
    done = prune(repository, "--keep-last", 1, "--json")
    assert done.code == 0
    document = done.document
    assert document["freed"] == told["freed"]
    assert all(entry["done"] for entry in document["backups"])
    assert {e["name"] for e in document["backups"] if e["action"] == "keep"} == {"full3", "incr3"}
    left = sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())
    assert size - left == document["freed"]["size"]
    assert {path.name for path in repository.iterdir()} == {"full3", "incr3"}
    again = prune(repository, "--keep-last", 1)
    assert "removed: 0 backups, 0 objects, 0 B" in again.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing says what to keep; give --keep-last"),
        (("--keep-last", 0), "--keep-last"),
        (("--keep-within", "30"), "--keep-within: '30' is no span of time; write 30d"),
        (("--keep-last", 1, "--leftovers-after", "x"), "--leftovers-after: 'x' is no span"),
    ],
)
def test_bad_options(repository: Path, args: tuple[object, ...], message: str) -> None:
    before = names(repository)
    refused = prune(repository, *args)
    assert (refused.code, message in refused.stderr) == (2, True)
    assert names(repository) == before


def test_a_missing_repository_and_an_empty_one(tmp_path: Path) -> None:
    for args in ((), ("--dry-run",)):
        missing = prune(tmp_path / "missing", "--keep-last", 1, *args)
        assert missing.code == 1
        assert not (tmp_path / "missing").exists()
    (tmp_path / "empty").mkdir()
    empty = prune(tmp_path / "empty", "--keep-last", 1)
    assert (empty.code, empty.stdout.rstrip().endswith("no backups")) == (0, True)


def test_a_damaged_backup_is_warned_of(repository: Path) -> None:
    (repository / "full2" / "backupmeta").write_bytes(b"\xff" * 9)
    done = prune(repository, "--keep-last", 1)
    assert done.code == 0
    assert "bkctl: warning: backup full2 is damaged, never removed" in done.stderr
    assert "full2" in listed(repository)


def killed_at(repository: Path, number: int) -> tuple[int, str]:
    """Prune with SIGKILL before that call; the exit code, and what was said."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.commands.killed_prune", str(number)),
            *("prune", "--storage", str(repository), "--keep-last", "1", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.returncode, run.stderr


def test_killed_at_ten_random_points_all_that_is_listed_is_whole(
    repository: Path, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(repository, undisturbed)
    code, said = killed_at(undisturbed, 0)
    assert code == 0, said
    calls = int(said.split()[-1])
    assert calls > 40
    for number in random.Random(1).sample(range(1, calls + 1), 10):
        killed = tmp_path / f"killed-{number}"
        shutil.copytree(repository, killed)
        assert killed_at(killed, number)[0] == -signal.SIGKILL
        for name, entry in listed(killed).items():
            assert entry["state"] in ("complete", "unfinished")
            assert entry["state"] == "unfinished" or not entry["orphan"], (number, name)
        verified = bkctl("verify", "--all", "--storage", killed, "--progress", "none", "--jobs", 1)
        assert verified.code == 0, (number, verified.stderr)
        ended = prune(killed, "--keep-last", 1)
        assert ended.code == 0, ended.stderr
        assert names(killed) == names(undisturbed), number
