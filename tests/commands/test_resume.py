"""Killed again and again, and resumed each time: exact, nothing twice, nothing done again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.storage.url import open_storage, parse_storage
from tests.commands.test_kill import END_TS, moment, wait_until_gone
from tests.oracles import read_oracle, require_shared


def start(repository: Path, resume: bool, work: Path) -> subprocess.Popen[str]:
    store = require_shared() / "stores" / "mvcc-short"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bkctl", "backup"),
            *("--db", str(store), "--region-map", f"{store}.regions.json"),
            *("--storage", str(repository), "--name", "b", "--end-ts", str(END_TS)),
            *("--jobs", "1", "--json", "--progress", "none", "--work-dir", str(work)),
            *("--rate-limit", "2MiB", *(["--resume"] if resume else [])),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(repository: Path) -> dict[str, int]:
    """The records of finished ranges, and when they were written."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in (repository / "b" / "checkpoint").glob("*.json")
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_kills_and_resumes(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    line = read_oracle(require_shared() / "stores" / "mvcc-short.oracle")[3]
    repository, work = tmp_path / "repo", tmp_path / "work"
    work.mkdir()
    before: dict[str, int] = {}
    for _ in range(10):
        claim = repository / "b" / "backup.lock"
        begun = time.monotonic()
        process = start(repository, claim.exists(), work)
        while not claim.exists() and process.poll() is None:
            begun = time.monotonic()  # there is nothing to resume before
        moment(begun, rng.uniform(0.2, 0.6))
        if process.returncode is None:  # else there is nobody left to kill
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until_gone(process.pid)
        if (repository / "b" / "backupmeta").exists():
            break
        now = finished(repository)
        # What was finished before this run is there still, as it was.
        assert before.items() <= now.items()
        before = now
    if not (repository / "b" / "backupmeta").exists():
        # On a busy machine all may have been killed before they began.
        process = start(repository, (repository / "b" / "backup.lock").exists(), work)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["resumed"] >= len(before)
    report = json.loads((repository / "b" / "report.json").read_text())
    assert (report["total_kvs"], int(report["crc64xor"], 16)) == (line.kvs, line.crc64xor)
    assert report["ranges"]["done"] == report["ranges"]["total"] == 8
    with open_storage(parse_storage(str(repository))) as storage:
        named = {file.name for file in BackupDir(storage, "b").read_meta().files}
    stored = {path.name for path in (repository / "b").glob("*.sst")}
    assert named == stored
    assert len(named) == report["files"] == 8
