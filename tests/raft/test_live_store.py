"""Backups of a store that is being written to have all that was acknowledged before they began.

`BKCTL_LIVE_ROUNDS` is how many there are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.commands.console import process
from tests.oracles import ROOT
from tests.raft.live_store import FIRST

ROUNDS = int(os.environ.get("BKCTL_LIVE_ROUNDS", "2"))


def test_what_was_acknowledged_before_a_backup_is_in_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.raft.live_store", str(store)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "ready\n"
        for turn in range(ROUNDS):
            rows = acknowledged(store)
            report = back_up(store, tmp_path / "repository", "--name", turn)
            assert report["total_kvs"] >= rows
            assert [replica["replica"] for replica in report["replicas"]] == ["complete"]
    finally:
        writer.stdin.close()
        writer.wait(60)
        writer.stdout.close()

    # The kv store alone has less, so that it was the raft log which had them.
    rows = acknowledged(store)
    assert back_up(store, "noop://")["total_kvs"] == rows
    assert back_up(store, "noop://", "--raft-log", "ignore")["total_kvs"] < rows


def acknowledged(store: Path) -> int:
    """How many rows the store has acknowledged."""
    newest = int.from_bytes((store / "raft-engine" / "acked").read_bytes(), "big")
    return newest - FIRST + 1


def back_up(store: Path, storage: object, *options: object) -> Any:
    """The report of a backup, which is whole."""
    done = process(
        *("backup", "--db", store, "--region-map", "store", "--end-ts", 100, "--json"),
        *("--storage", storage, "--progress", "none", *options),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
