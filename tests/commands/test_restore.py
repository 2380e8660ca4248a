"""`bkctl restore` as a user or a script meets it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bkctl.restore.restore import FetchProgress
from bkctl.ui.transfer import TransferLine
from examples.make_store import END_TS, MID_TS
from tests.backup.helpers import backup, regions_from
from tests.commands.console import bkctl
from tests.conftest import SampleStore


@pytest.fixture
def repository(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A full backup and an incremental one of the sample store."""
    for name, start_ts, end_ts in (("full", 0, MID_TS), ("incr", MID_TS, END_TS)):
        backup(
            sample_store.path,
            tmp_path / "repo",
            start_ts=start_ts,
            end_ts=end_ts,
            name=name,
            load_regions=regions_from(sample_store.region_map),
        )
    return tmp_path / "repo"


@pytest.mark.parametrize(
    ("arguments", "chain", "end_ts"),
    [
        ((), ["full", "incr"], END_TS),
        (("latest",), ["full", "incr"], END_TS),
        (("full",), ["full"], MID_TS),
        (("--name", "incr"), ["full", "incr"], END_TS),
        (("--at", MID_TS), ["full"], MID_TS),
        (("--at", END_TS - 1), ["full"], MID_TS),
        (("--at", "now"), ["full", "incr"], END_TS),
    ],
)
def test_what_is_restored_can_be_said_in_several_ways(
    arguments: tuple[object, ...], chain: list[str], end_ts: int, repository: Path, tmp_path: Path
) -> None:
    outcome = bkctl(
        "restore", *arguments, "--storage", repository, "--to", tmp_path / "db", "--json"
    )
    assert outcome.code == 0, outcome.stderr
    document = outcome.document
    assert (document["backups"], document["end_ts"]) == (chain, end_ts)
    assert (document["status"], document["to"]) == ("ok", str(tmp_path / "db"))
    assert sum(document["how"].values()) == document["files"] > 0
    assert (tmp_path / "db" / "CURRENT").exists()


def test_people_are_told_the_chain_and_the_time(repository: Path, tmp_path: Path) -> None:
    outcome = bkctl("restore", "--storage", repository, "--to", tmp_path / "db")
    assert outcome.code == 0
    assert "db: restored" in outcome.stdout
    assert "full → incr" in outcome.stdout
    assert f"{END_TS} (2026-01-01T02:00:00.000Z)" in outcome.stdout


def test_a_dry_run_changes_nothing(repository: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    arguments = ["restore", "--storage", repository, "--to", tmp_path / "a" / "db", "--dry-run"]
    told = bkctl(*arguments)
    assert (told.code, "would be made" in told.stdout) == (0, True)
    document = bkctl(*arguments, "--json").document
    assert (document["status"], document["backups"]) == ("planned", ["full", "incr"])
    assert document["size"] > 0
    assert sorted(tmp_path.iterdir()) == before


def test_damage_is_exit_5_and_listed(repository: Path, tmp_path: Path) -> None:
    victim = min((repository / "full").glob("*.sst"))
    victim.unlink()
    arguments = ["restore", "--storage", repository, "--to", tmp_path / "db"]
    outcome = bkctl(*arguments)
    assert outcome.code == 5
    assert f"full/{victim.name}: is missing" in outcome.stdout
    outcome = bkctl(*arguments, "--json")
    assert outcome.code == 5
    assert outcome.document["status"] == "damaged"
    assert outcome.document["damages"] == [
        {"file": f"full/{victim.name}", "offset": None, "what": "is missing"}
    ]
    assert bkctl(*arguments, "--dry-run").code == 5
    assert not (tmp_path / "db").exists()


def test_a_damaged_newer_backup_is_not_passed_over_in_silence(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "incr" / "backupmeta").write_bytes(b"\xff")
    outcome = bkctl("restore", "latest", "--storage", repository, "--to", tmp_path / "db")
    assert outcome.code == 0
    assert "warning: backup incr is damaged" in outcome.stderr
    assert f"as of   {MID_TS}" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("latest", "--at", "5"), "exclude each other"),
        (("--name", "a", "b"), "exclude each other"),
        (("nope",), "no backup 'nope'"),
        (("--at", "5"), "no backup ends at 5"),
        (("--start-key", "62", "--end-key", "61"), "--end-key"),
        (("--jobs", "0"), "--jobs"),
    ],
)
def test_mistakes_are_exit_2(
    arguments: tuple[str, ...], told: str, repository: Path, tmp_path: Path
) -> None:
    outcome = bkctl("restore", *arguments, "--storage", repository, "--to", tmp_path / "db")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert told in outcome.stderr
    assert not (tmp_path / "db").exists()


def test_a_target_that_is_not_empty_is_exit_2(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "mine").touch()
    outcome = bkctl("restore", "--storage", repository, "--to", tmp_path / "db")
    assert outcome.code == 2
    assert "not an empty directory" in outcome.stderr


def test_what_is_missing_is_named(repository: Path) -> None:
    assert "--to is missing" in bkctl("restore", "--storage", repository).stderr
    assert "--storage is missing" in bkctl("restore", "--to", "x").stderr


_STOP_AT_FIRST_FILE = """
import os, signal, sys
from bkctl.restore import files as restore_files
fetch = restore_files.FileFetcher.fetch
def stop(self, planned):
    done = fetch(self, planned)
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return done
restore_files.FileFetcher.fetch = stop
from bkctl.__main__ import main
main()
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_restore_that_is_stopped_leaves_no_target(
    signum: signal.Signals, repository: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _STOP_AT_FIRST_FILE, "restore", "--storage", str(repository)]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "db")],
        env={**os.environ, "SIGNAL": str(int(signum))},
        capture_output=True,
        text=True,
    )
    assert not (tmp_path / "db").exists()
    if signum is signal.SIGKILL:
        assert done.returncode == -signum
    else:
        assert done.returncode == 128 + signum
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.glob("db*"))


@pytest.fixture
def stopped(repository: Path, tmp_path: Path) -> Path:
    """What a killed restore to `db [1]` left; the name has a pattern's signs."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", _STOP_AT_FIRST_FILE, "restore", "--storage", str(repository)),
            *("--to", str(tmp_path / "there" / "db [1]")),
        ],
        env={**os.environ, "SIGNAL": str(int(signal.SIGKILL))},
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "there").iterdir()
    assert left.name.startswith("db [1].bkctl-tmp-")
    assert list((left / "files").iterdir())
    return left


def test_what_a_killed_restore_left_goes_with_the_next_to_the_same_place(
    stopped: Path, repository: Path, tmp_path: Path
) -> None:
    there = stopped.parent
    other = ["restore", "--storage", repository, "--to", there / "db"]
    assert bkctl(*other).code == 0
    assert stopped.exists()
    # Links in it lead nowhere.
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    (stopped / "link").symlink_to(victim)
    (stopped / "files" / "link").symlink_to(victim)
    outcome = bkctl("restore", "--storage", repository, "--to", there / "db [1]")
    assert outcome.code == 0, outcome.stderr
    assert {path.name for path in there.iterdir()} == {"db", "db [1]"}
    assert (victim / "file").read_bytes() == b"precious"


def test_links_that_are_called_like_what_a_restore_left_lead_nowhere(
    stopped: Path, repository: Path, tmp_path: Path
) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("db.bkctl-tmp-abcdefgh", ".db.bkctl-tmp-abcdefgh"):
        (there / name).symlink_to(stopped)
        os.utime(there / name, (0, 0), follow_symlinks=False)
    os.utime(stopped, (0, 0))
    before = sorted(stopped.rglob("*"))
    assert bkctl("restore", "--storage", repository, "--to", there / "db").code == 0
    assert sorted(stopped.rglob("*")) == before


_ANOTHER_BESIDE_IT = """
import os, subprocess, sys
from bkctl.restore import files as restore_files
fetch = restore_files.FileFetcher.fetch
def beside(self, planned):
    restore_files.FileFetcher.fetch = fetch
    done = subprocess.run(
        [sys.executable, "-m", "bkctl", "restore", "full", *sys.argv[2:]], capture_output=True
    )
    if done.returncode:
        sys.exit(99)
    subprocess.run(["rm", "-r", sys.argv[-1]], check=True)
    return fetch(self, planned)
restore_files.FileFetcher.fetch = beside
from bkctl.__main__ import main
main()
"""


def test_a_restore_that_runs_keeps_what_it_has(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", _ANOTHER_BESIDE_IT, "restore"),
            *("--storage", str(repository), "--jobs", "1", "--to", str(tmp_path / "there" / "db")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "there") == ["db"]


class _Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_a_line_every_ten_seconds_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), _Clock()
    line = TransferLine("auto", stream, clock=clock)
    for now in (1.0, 10.0, 11.0, 20.0):
        clock.now = now
        line.show(FetchProgress(int(now), 40, int(now) << 20, 40 << 20))
    line.close()
    first, second = stream.getvalue().splitlines()
    assert first == "10/40 files, 10.0 MiB of 40.0 MiB, 1.0 MiB/s, 30s left"
    assert second.startswith("20/40 files")


def test_progress_is_one_line_on_a_terminal_and_nothing_if_not_wanted() -> None:
    clock = _Clock()
    shown, silent = io.StringIO(), io.StringIO()
    live, none = TransferLine("rich", shown, clock=clock), TransferLine("none", silent, clock=clock)
    for line in (live, none):
        line.show(FetchProgress(1, 2, 0, 0))
        line.close()
    assert shown.getvalue().startswith("\r\x1b[K1/2 files")
    assert shown.getvalue().endswith("\r\x1b[K")
    assert silent.getvalue() == ""
