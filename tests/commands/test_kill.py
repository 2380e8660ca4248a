"""Killing what runs, at random moments: never a backupmeta, never a leftover process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.oracles import read_oracle, require_shared

END_TS = 440000000001000000


def start(repository: Path, name: str, work: Path) -> subprocess.Popen[str]:
    store = require_shared() / "stores" / "mvcc-short"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bkctl", "backup"),
            *("--db", str(store), "--region-map", f"{store}.regions.json"),
            *("--storage", str(repository), "--name", name, "--end-ts", str(END_TS)),
            *("--jobs", "2", "--batch-size", "1", "--json", "--progress", "none"),
            *("--work-dir", str(work)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def members(session: int) -> dict[int, str]:
    """The living processes of a session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(path.name)] = (path / "cmdline").read_text()
        except (OSError, IndexError):
            continue
    return found


def workers(session: int) -> list[int]:
    return [
        pid
        for pid, command in members(session).items()
        if "resource_tracker" not in command and pid != session
    ]


def wait_until_gone(session: int) -> None:
    deadline = time.monotonic() + 20
    while left := members(session):
        assert time.monotonic() < deadline, left
        select_nothing()


def select_nothing() -> None:
    os.sched_yield()


@pytest.fixture(scope="module")
def duration(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long an undisturbed run takes, so that moments spread over all of it."""
    base = tmp_path_factory.mktemp("kill")
    begun = time.monotonic()
    process = start(base / "repo", "b", base)
    process.communicate()
    assert process.returncode == 0
    return time.monotonic() - begun


def moment(begun: float, after: float) -> None:
    while time.monotonic() - begun < after:
        select_nothing()


def assert_next_run_succeeds(repository: Path, work: Path) -> None:
    line = read_oracle(require_shared() / "stores" / "mvcc-short.oracle")[3]
    process = start(repository, "next", work)
    out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["total_kvs"], int(report["crc64xor"], 16)) == (line.kvs, line.crc64xor)
    assert not list(work.glob("bkctl-*")), "leftovers of the killed run"


@pytest.mark.parametrize("victim", ["parent", "all", "worker"])
def test_kill_at_ten_random_moments(victim: str, duration: float, tmp_path: Path) -> None:
    rng = random.Random(victim)
    work = tmp_path / "work"
    work.mkdir()
    repository = tmp_path / "repo"
    for turn in range(10):
        name = f"b{turn}"
        begun = time.monotonic()
        process = start(repository, name, work)
        moment(begun, rng.uniform(0, duration))
        whole = process.poll() is not None
        if whole:
            pass  # there is nobody left to kill
        elif victim == "parent":
            process.kill()
        elif victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            for pid in workers(process.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        wait_until_gone(process.pid)
        assert "Traceback" not in err, err[-1500:]
        published = (repository / name / "backupmeta").exists()
        if victim == "worker":
            # Killed before its range or after all of them, a worker is replaced without loss.
            assert published == (process.returncode == 0), err
            assert process.returncode in (0, 1, 3), err
        elif published:
            # The last step may be through before the kill, or before the process has ended.
            assert whole or (repository / name / "report.json").exists()
    assert_next_run_succeeds(repository, work)


_SIGNALLED_WHEN_DONE = """
import os, signal
from bkctl.pool import processes
from bkctl.commands import backup

def signalled(before):
    def act(*args, **kwargs):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        return before(*args, **kwargs)
    return act

import bkctl.ui.output
bkctl.ui.output.print_json = signalled(bkctl.ui.output.print_json)
processes.end_all = signalled(processes.end_all)
from bkctl.__main__ import main
main()
"""


_SIGNALLED_WHEN_STARTED = """
import os, signal
from bkctl.pool import processes
start = processes.start_shielded
def signalled(*args):
    process = start(*args)
    os.kill(os.getpid(), signal.SIGTERM)
    return process
processes.start_shielded = signalled
from bkctl.__main__ import main
main()
"""
_SIGNALLED_IN_FORK = """
import os, signal
fork = os.fork
def signalled():
    pid = fork()
    if pid:
        os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = signalled
from bkctl.__main__ import main
main()
"""
_SIGNALLED_IN_SPAWN = """
import os, signal
from multiprocessing import resource_tracker, util
from bkctl.pool import processes
processes.can_fork = lambda: False
resource_tracker.ensure_running()
spawn = util.spawnv_passfds
def signalled(*args):
    pid = spawn(*args)
    os.kill(os.getpid(), signal.SIGTERM)
    return pid
util.spawnv_passfds = signalled
from bkctl.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "script", [_SIGNALLED_WHEN_STARTED, _SIGNALLED_IN_FORK, _SIGNALLED_IN_SPAWN]
)
def test_a_signal_beside_a_worker_s_start_leaves_no_worker(script: str, tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", script, "backup", "--jobs", "1"),
            *("--db", str(store), "--region-map", f"{store}.regions.json"),
            *("--storage", str(tmp_path), "--name", "b", "--end-ts", str(END_TS)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (143, "bkctl: interrupted\n")
        assert not members(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_publication_changes_nothing(signum: signal.Signals, tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    done = subprocess.run(
        [
            *(sys.executable, "-c", _SIGNALLED_WHEN_DONE, "backup", "--json"),
            *("--db", str(store), "--region-map", f"{store}.regions.json"),
            *("--storage", str(tmp_path), "--name", "b", "--end-ts", str(END_TS)),
            *("--jobs", "1", "--progress", "none"),
        ],
        env={**os.environ, "SIGNAL": str(int(signum))},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["status"] == "ok"
    assert (tmp_path / "b" / "backupmeta").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_ends_with_its_code_and_publishes_nothing(
    signum: signal.Signals, code: int, duration: float, tmp_path: Path
) -> None:
    rng = random.Random(int(signum))
    work = tmp_path / "work"
    work.mkdir()
    repository = tmp_path / "repo"
    seen = set()
    for turn in range(6):
        name = f"b{turn}"
        begun = time.monotonic()
        process = start(repository, name, work)
        moment(begun, rng.uniform(0.3, 0.95) * duration)
        os.killpg(process.pid, signum)
        _, err = process.communicate(timeout=60)
        wait_until_gone(process.pid)
        assert "Traceback" not in err, err[-1500:]
        published = (repository / name / "backupmeta").exists()
        if process.returncode == -signum:
            # The signal came before the interpreter was up, or when it was on its way out: a
            # shell tells the same code, and the run itself had not begun or had ended.
            if published:
                report = json.loads((repository / name / "report.json").read_text())
                assert report["status"] == "ok"
            continue
        assert published == (process.returncode == 0), (process.returncode, err)
        assert not (repository / "bkctl.lock").exists(), err
        seen.add(process.returncode)
    assert seen <= {0, code}
    assert code in seen
    assert_next_run_succeeds(repository, work)
