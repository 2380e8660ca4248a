"""Backups of a store that is being written to have all that was acknowledged before they began."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.console import process
from tests.oracles import ROOT
from tests.raft.live_store import FIRST


@pytest.mark.parametrize("mode", ["committed", "all"])
def test_what_was_acknowledged_before_a_backup_is_in_it(tmp_path: Path, mode: str) -> None:
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
        behind = 0
        for turn in range(3):
            acked = int.from_bytes((store / "raft-engine" / "acked").read_bytes(), "big")
            rows = acked - FIRST + 1
            done = process(
                *("backup", "--db", store, "--region-map", "store", "--end-ts", 100, "--json"),
                *("--storage", tmp_path / "repository", "--name", str(turn)),
                *("--raft-log", mode, "--progress", "none"),
            )
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert report["total_kvs"] >= rows
            assert [replica["replica"] for replica in report["replicas"]] == ["complete"]
            # Without the raft log there would be less.
            plain = process(
                *("backup", "--db", store, "--region-map", "store", "--end-ts", 100, "--json"),
                *("--storage", "noop://", "--raft-log", "ignore", "--progress", "none"),
            )
            later = int.from_bytes((store / "raft-engine" / "acked").read_bytes(), "big")
            behind += json.loads(plain.stdout)["total_kvs"] < later - FIRST + 1
        assert behind
    finally:
        writer.stdin.close()
        writer.wait(60)
        writer.stdout.close()
