"""Signals at exactly the moments that matter: around the step by which an outcome is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.make_store import END_TS, MID_TS
from tests.backup.helpers import backup, regions_from
from tests.commands.console import bkctl
from tests.commands.test_kill import wait_until_gone
from tests.conftest import SampleStore

CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}

# Sends the signal at the nth thing done, of those that tell sys.audit, once the outcome is there;
# with nth 0 none, and tells how many there were.
_SIGNALLED = """
import os, signal, sys
path, is_there = os.environ["OUTCOME"], os.environ["IS_THERE"] == "yes"
nth, signum, parent = int(os.environ["NTH"]), int(os.environ["SIGNUM"]), os.getpid()
seen, busy = 0, False
WATCHED = {"open", "os.remove", "os.rmdir", "os.rename", "os.link", "os.listdir", "os.scandir",
    "os.mkdir", "object.__getattr__", "fcntl.flock", "import", "socket.__new__", "marshal.loads"}

def at(event, args):
    global seen, busy
    if event not in WATCHED or busy or os.getpid() != parent:
        return
    busy = True
    if seen or os.path.exists(path) == is_there:
        seen += 1
        if seen == nth:
            os.kill(parent, signum)
    busy = False

from bkctl.__main__ import main
sys.addaudithook(at)
try:
    main()
finally:
    busy = True
    with open(os.environ["TOLD"], "w") as told:
        told.write(str(seen))
"""

# Sends the signal in the middle of the last step, before it has had its effect and after it.
_SIGNALLED_IN_STEP = """
import os, signal
from bkctl.storage.local import LocalStorage
create, when, signum = LocalStorage.create, os.environ["WHEN"], int(os.environ["SIGNUM"])

def signalled(self, name, data):
    is_it = name.endswith("/backupmeta")
    if is_it and when == "before":
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
    if is_it and when == "failing":
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        raise OSError(28, "No space left on device")
    create(self, name, data)
    if is_it and when == "after":
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)

LocalStorage.create = signalled
from bkctl.__main__ import main
main()
"""

# Sends the signal when Python takes itself apart, with its handlers gone.
_SIGNALLED_AT_THE_END = """
import os, signal, sys
class Last:
    def __init__(self):
        self.kill, self.pid, self.signum = os.kill, os.getpid(), int(os.environ["SIGNUM"])
    def __del__(self):
        self.kill(self.pid, self.signum)
sys.last_one = Last()  # what goes last
from bkctl.__main__ import main
main()
"""


class Runs:
    """Runs of the program in a repository of a chain of two backups."""

    def __init__(self, store: SampleStore, base: Path) -> None:
        self.repository, self.base, self._store = base / "r", base, store
        for name, start_ts, end_ts in (("full", 0, MID_TS), ("incr", MID_TS, END_TS)):
            backup(
                store.path,
                self.repository,
                start_ts=start_ts,
                end_ts=end_ts,
                name=name,
                load_regions=regions_from(store.region_map),
            )

    def arguments(self, command: str, name: str) -> tuple[list[str], Path]:
        """A command line, and what is there once it is through, or is gone (prune)."""
        options: list[object] = ["--storage", self.repository]
        outcome = self.repository / name / "backupmeta"
        if command == "backup":
            options += ["--db", self._store.path, "--region-map", self._store.region_map]
            options += ["--name", name, "--end-ts", MID_TS, "--jobs", 1]
        elif command == "merge":
            options += ["incr", "--name", name, "--jobs", 1]
        elif command == "restore":
            outcome = self.base / "restored" / name
            options += ["incr", "--to", outcome]
        else:
            outcome = self.repository / "full"
            options += ["--keep-last", 1]
        return [command, *map(str, options)], outcome

    def run(
        self, script: str, arguments: list[str], **variables: object
    ) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        )
        out, err = process.communicate(timeout=60)
        wait_until_gone(process.pid)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def signalled(self, command: str, name: str, nth: int, signum: int) -> tuple[int, str, int]:
        """A run's exit code, what it said on stderr, and the moments after its outcome."""
        arguments, outcome = self.arguments(command, name)
        told = self.base / "told"
        told.unlink(missing_ok=True)
        is_there = "no" if command == "prune" else "yes"
        done = self.run(
            *(_SIGNALLED, arguments),
            OUTCOME=outcome,
            IS_THERE=is_there,
            NTH=nth,
            SIGNUM=int(signum),
            TOLD=told,
        )
        assert outcome.exists() == (command != "prune"), done.stderr
        return done.returncode, done.stderr, int(told.read_text() or 0) if told.exists() else -1


@pytest.fixture
def runs(sample_store: SampleStore, tmp_path: Path) -> Runs:
    return Runs(sample_store, tmp_path / "base")


def prepare_prune(runs: Runs) -> None:
    """Leave an old backup to be removed."""
    if not (runs.repository / "full").exists():
        arguments, _ = runs.arguments("backup", "full")
        assert bkctl(*arguments).code == 0
    if (runs.repository / "incr").exists():
        assert bkctl("merge", "--name", "new", "--storage", runs.repository).code == 0
        removed = bkctl("prune", "--keep-last", "1", "--storage", runs.repository)
        assert removed.code == 0
        arguments, _ = runs.arguments("backup", "full")
        assert bkctl(*arguments).code == 0


@pytest.mark.parametrize("command", ["backup", "merge", "restore", "prune"])
def test_no_signal_after_the_outcome_changes_it(command: str, runs: Runs) -> None:
    prepare: Callable[[], None] = lambda: prepare_prune(runs) if command == "prune" else None  # noqa: E731
    prepare()
    code, err, moments = runs.signalled(command, "counted", 0, signal.SIGTERM)
    assert code == 0, err
    assert moments > 5
    early = range(1, min(6, moments))
    for nth in sorted({*early, moments // 3, moments // 2, moments - 2, moments - 1, moments}):
        prepare()
        signum = list(CODES)[nth % 3]
        code, err, _ = runs.signalled(command, f"n{nth}", nth, signum)
        assert (nth, code, signum) == (nth, 0, signum), err
        assert "interrupted" not in err
    left = [path.name for path in runs.base.rglob("*") if "bkctl-" in path.name]
    assert not left


@pytest.mark.parametrize("signum", CODES)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("command", ["backup", "merge"])
def test_signals_within_the_last_step_wait_for_its_end(
    command: str, when: str, signum: signal.Signals, runs: Runs
) -> None:
    arguments, outcome = runs.arguments(command, "b")
    done = runs.run(_SIGNALLED_IN_STEP, [*arguments, "--json"], WHEN=when, SIGNUM=int(signum))
    assert done.returncode == 0, done.stderr
    assert "interrupted" not in done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    assert outcome.exists()


@pytest.mark.parametrize("signum", CODES)
def test_signals_count_where_the_last_step_failed(signum: signal.Signals, runs: Runs) -> None:
    arguments, outcome = runs.arguments("backup", "b")
    done = runs.run(_SIGNALLED_IN_STEP, arguments, WHEN="failing", SIGNUM=int(signum))
    assert done.returncode == CODES[signum], done.stderr
    assert "bkctl: interrupted; nothing was published\n" in done.stderr
    assert not outcome.exists()


@pytest.mark.parametrize("signum", CODES)
@pytest.mark.parametrize(
    ("arguments", "code"), [(["tso"], 0), (["tso", "nonsense"], 2), (["backup"], 0)]
)
def test_the_exit_code_stands_to_the_very_end(
    arguments: list[str], code: int, signum: signal.Signals, runs: Runs
) -> None:
    if arguments == ["backup"]:
        arguments, _ = runs.arguments("backup", "b")
    done = runs.run(_SIGNALLED_AT_THE_END, arguments, SIGNUM=int(signum))
    assert done.returncode == code, done.stderr


_HUNG_UP = """
import os, signal, sys
from bkctl.backup import run
submit = run.BackupRun._submit

def hung_up(self, numbers):
    submit(self, numbers)
    # As a terminal does it: to all processes of its session.
    os.killpg(os.getpid(), signal.SIGHUP)

run.BackupRun._submit = hung_up
from bkctl.__main__ import main
main()
"""


def test_a_hang_up_of_all_processes_ends_in_good_order(runs: Runs) -> None:
    arguments, outcome = runs.arguments("backup", "b")
    done = runs.run(_HUNG_UP, [*arguments, "--progress", "none", "--batch-size", "1"])
    assert done.returncode == 129, done.stderr
    assert "died" not in done.stderr
    assert not outcome.exists()
    assert json.loads((outcome.parent / "report.json").read_text())["status"] == "cancelled"
    assert bkctl(*arguments, "--resume").code == 0
    assert outcome.exists()


def test_a_hang_up_that_is_to_be_ignored_is(runs: Runs) -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    arguments, outcome = runs.arguments("backup", "b")
    done = runs.run(ignoring + _HUNG_UP, [*arguments, "--progress", "none"])
    assert done.returncode == 0, done.stderr
    assert outcome.exists()


@pytest.mark.parametrize("command", ["ranges", "backup"])
def test_a_terminal_that_goes_away_is_a_hang_up(command: str, runs: Runs) -> None:
    arguments, outcome = runs.arguments("backup", "b")
    if command == "ranges":
        kept = [arg for arg in arguments if arg not in ("--storage", str(runs.repository))]
        arguments = ["ranges", *kept[1 : kept.index("--name")], "--json"]
    # It says so when it is about to read the store, and goes on when the terminal is gone.
    script = (
        "import os\n"
        "from bkctl.store import source\n"
        "locate = source.locate\n"
        "def located(*args):\n"
        "    os.write(2, b'reading')\n"
        "    try:\n"
        "        os.read(0, 1)\n"
        "    except OSError:\n"
        "        pass\n"
        "    return locate(*args)\n"
        "source.locate = located\n"
        "from bkctl.__main__ import main\n"
        "main()\n"
    )
    pid, terminal = os.forkpty()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", script, *arguments])
    guard = threading.Timer(60, os.kill, (pid, signal.SIGKILL))
    guard.start()
    try:
        said = b""
        while b"reading" not in said:
            said += os.read(terminal, 4096)
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    finally:
        guard.cancel()
    assert os.waitstatus_to_exitcode(status) == 129
    assert not outcome.exists()
