"""Parts of stores that are in use, parts that are cut off, and parts that meet in a bucket."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bkctl.fleet.joining import is_over
from tests.commands.console import process
from tests.fleet.commands import Fleet
from tests.fleet.conftest import ACKED, END_TS
from tests.fleet.test_flow import begun, in_use
from tests.fleet.test_real import ACKED as FIGURES
from tests.fleet.test_real import figures
from tests.fleet.test_refusals import CHOSEN, state_of
from tests.oracles import ROOT
from tests.storage.servers import gcs_server, s3_server

END_MS = END_TS >> 18


def test_a_running_store_needs_some_seconds_more() -> None:
    assert not is_over(END_TS, END_MS - 1, is_live=False)
    assert is_over(END_TS, END_MS, is_live=False)
    assert not is_over(END_TS, END_MS + 9_999, is_live=True)
    assert is_over(END_TS, END_MS + 10_000, is_live=True)


def test_running_stores_make_a_backup(dead3: list[Path], tmp_path: Path) -> None:
    fleet = Fleet(dead3, tmp_path / "repository", **ACKED)
    with ExitStack() as held:
        for store in dead3:
            held.enter_context(in_use(store))
        for number in (0, 1, 2, 0, 1):
            assert begun(fleet, number).returncode == 0
    assert state_of(fleet, CHOSEN).is_live
    done = fleet.seal()
    assert done.code == 0, done.stderr
    assert figures(done.document) == FIGURES


@pytest.mark.xdist_group("object-stores")
@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_parts_meet_in_a_bucket(dead3: list[Path], kind: str) -> None:
    with (gcs_server if kind == "gcs" else s3_server)() as endpoint:
        keys = "" if kind == "gcs" else "&access-key=a&secret-access-key=b&region=us-east-1"
        url = f"{kind}://bucket/fleet?endpoint={endpoint}{keys}"
        fleet = Fleet(dead3, Path("unused"), **ACKED)
        fleet.storage = url  # type: ignore[assignment]
        fleet.parts(0, 1, 0, 1)
        done = fleet.seal()
        assert done.code == 0, done.stderr
        assert figures(done.document) == FIGURES
        assert fleet.seal().code == 2


def test_a_part_that_was_cut_off_goes_on(dead3: list[Path], tmp_path: Path) -> None:
    fleet = Fleet(dead3, tmp_path / "repository", **ACKED)
    fleet.parts(0, 1)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, _words(fleet, 0))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -9, killed.stderr
    assert list(fleet.folder.glob("parts/*.lock"))
    fleet.parts(0, 1)
    done = fleet.seal()
    assert done.code == 0, done.stderr
    assert figures(done.document) == FIGURES


# Killed once its state is recorded, before any range is read.
_KILLED = """
import os, signal, sys
from bkctl.fleet import part
def kill(*given):
    os.kill(os.getpid(), signal.SIGKILL)
part.run_plan = kill
from bkctl.cli import app
app(sys.argv[1:])
"""


def _words(fleet: Fleet, number: int) -> list[object]:
    return [
        *("backup", "--part", "--db", fleet.stores[number], "--region-map", "store"),
        *("--storage", fleet.storage, "--name", fleet.name, *fleet.options),
    ]


def test_the_remedy_can_be_pasted(dead3: list[Path], tmp_path: Path) -> None:
    fleet = Fleet(dead3, tmp_path / "my repository", compression="lz4", **ACKED)
    fleet.parts(1, 0)
    for _ in range(4):
        done = fleet.seal()
        if done.code == 0:
            break
        for remedy in done.document["remedies"]:
            _, *words = shlex.split(remedy.partition("): ")[2])
            assert process(*words).returncode == 0
    assert figures(done.document) == FIGURES


def test_the_example_makes_a_backup(dead3: list[Path], tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("bkctl", f'exec {shlex.quote(sys.executable)} -m bkctl "$@"'),
        # The hour after the cluster's end, whatever the time is.
        ("date", 'case "$2" in *00Z) echo 2026-11-24T12:00:00Z;; *) echo 20261124;; esac'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(stat.S_IRWXU)
    config = tmp_path / "bkctl.toml"
    config.write_text(f'storage = "{tmp_path}/repository"\n')
    env = {name: value for name, value in os.environ.items() if not name.startswith("BKCTL_")}
    env |= {"PATH": f"{tools}:{env['PATH']}", "BKCTL_CONFIG": str(config), "PYTHONPATH": str(ROOT)}
    env |= {"BKCTL_START_KEY": ACKED["start_key"], "BKCTL_END_KEY": ACKED["end_key"]}  # type: ignore[dict-item]
    env |= {"BKCTL_WAIT_LOCKS": "0s"}
    script = ROOT / "examples/fleet/bkctl-part.sh"
    running = [
        subprocess.Popen(
            ["/bin/sh", str(script)], env=env | {"BKCTL_DB": str(store)}, stderr=subprocess.PIPE
        )
        for store in dead3
    ]
    for each in running:
        _, said = each.communicate(timeout=100)
        assert each.returncode == 0, said
    sealed = subprocess.run(["/bin/sh", str(script), "seal"], env=env, capture_output=True)
    assert sealed.returncode == 0, sealed.stderr
    assert (tmp_path / "repository/fleet-20261124/backupmeta").exists()
