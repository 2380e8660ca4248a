"""Runs of one repository at the same time: one runs, the other ends with 6 and names it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import list_backups
from bkctl.backup.backup import take_backup
from bkctl.repository.lock import LockLostError
from bkctl.storage.url import open_storage, parse_storage
from tests.backup.helpers import Quiet, backup, request
from tests.commands.console import bkctl
from tests.conftest import SampleStore
from tests.repository.test_lock import dead_here, elsewhere
from tests.storage.servers import gcs_server, s3_server

pytestmark = pytest.mark.xdist_group("object-stores")

KEYS = "access-key=a&secret-access-key=b&region=us-east-1"
ROUNDS = 3


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        gcs, s3 = stack.enter_context(gcs_server()), stack.enter_context(s3_server())
        yield {
            "gcs": f"gcs://bucket/{{}}?endpoint={gcs}",
            "s3": f"s3://bucket/{{}}?endpoint={s3}&{KEYS}",
        }


def url_of(kind: str, urls: dict[str, str], path: Path) -> str:
    return str(path) if kind == "local" else urls[kind].format(path.name)


def contender(store: SampleStore, url: str, name: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "tests.commands.contender", "backup", "--db", str(store.path)),
        *("--region-map", str(store.region_map), "--storage", url, "--name", name, "--jobs", "1"),
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def race(store: SampleStore, url: str, turn: int) -> None:
    """Start two at once; the winner waits in the middle of its run until the other has ended."""
    contenders = [contender(store, url, f"run-{turn}-{i}") for i in range(2)]
    for process in contenders:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in contenders:
        tell(process)
    loser = first_to_end(contenders)
    winner = contenders[1 - contenders.index(loser)]
    assert winner.poll() is None
    tell(winner)
    _, told = loser.communicate(timeout=60)
    _, error = winner.communicate(timeout=60)
    assert (winner.returncode, error) == (0, "")
    assert loser.returncode == 6
    assert told.count("\n") == 1
    assert "in use by bkctl backup on host" in told
    assert f"pid {winner.pid}, since 20" in told
    assert "last heartbeat 20" in told


def first_to_end(processes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    for _ in range(3000):
        for process in processes:
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            return process
    for process in processes:
        process.kill()
    raise AssertionError("both hold the lock")


@pytest.mark.parametrize("kind", ["local", "gcs"])
def test_of_two_runs_started_at_once_one_runs_and_one_names_it(
    kind: str, urls: dict[str, str], sample_store: SampleStore, tmp_path: Path
) -> None:
    url = url_of(kind, urls, tmp_path / "repository")
    for turn in range(ROUNDS):
        race(sample_store, url, turn)
    with open_storage(parse_storage(url)) as storage:
        entries = list_backups(storage)
        assert [entry.complete for entry in entries] == [True] * ROUNDS
        assert storage.stat("bkctl.lock") is None


@pytest.mark.parametrize("kind", ["local", "gcs", "s3"])
def test_a_dead_run_is_replaced_and_said_so(
    kind: str, urls: dict[str, str], sample_store: SampleStore, tmp_path: Path
) -> None:
    url = url_of(kind, urls, tmp_path / f"repository-{kind}")
    with open_storage(parse_storage(url)) as storage:
        storage.create("bkctl.lock", dead_here().encode())
        run = bkctl(
            *("backup", "--db", sample_store.path, "--region-map", sample_store.region_map),
            *("--storage", url, "--name", "b", "--jobs", "1", "--progress", "none"),
        )
        assert run.code == 0, run.stderr
        assert "took over the lock of bkctl backup on host" in run.stderr
        assert storage.stat("bkctl.lock") is None


def test_a_run_that_lost_its_lock_publishes_nothing(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    theirs = elsewhere().encode()

    def overtake(event: str) -> None:
        if event == "finished":
            (repository / "bkctl.lock").write_bytes(theirs)

    with pytest.raises(LockLostError, match="taken over by bkctl backup on host other"):
        take_backup(
            request(sample_store.path, repository, end_ts=1 << 60, name="b"), Quiet(overtake)
        )
    assert not (repository / "b" / "backupmeta").exists()
    assert (repository / "bkctl.lock").read_bytes() == theirs


def test_reading_commands_take_no_lock(sample_store: SampleStore, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    backup(sample_store.path, repository, end_ts=1 << 60, name="b")
    (repository / "bkctl.lock").write_bytes(elsewhere().encode())
    at = ("--storage", repository)
    for command in (
        ("list", *at),
        ("show", "b", *at),
        ("verify", *at),
        ("restore", "b", *at, "--to", tmp_path / "restored"),
        ("prune", *at, "--keep-last", 1, "--dry-run"),
    ):
        run = bkctl(*command)
        assert run.code == 0, run.stderr
    assert [b["name"] for b in bkctl("list", *at, "--json").document["backups"]] == ["b"]
    run = bkctl("prune", *at, "--keep-last", 1)
    assert (run.code, "pid 77" in run.stderr) == (6, True)
