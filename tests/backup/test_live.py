"""A store that is written, flushed and compacted while backups of it run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.codec.crc64 import crc64
from tests.backup.helpers import backup
from tests.backup.live_writer import ROWS


@pytest.fixture
def live_store(tmp_path: Path) -> Iterator[Path]:
    store = tmp_path / "live"
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.backup.live_writer", str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield store
        assert process.poll() is None, "the writer ended before the backups did"
        assert process.stdin is not None
        process.stdin.close()


def test_a_live_store_shows_the_snapshot_asked_for(live_store: Path, tmp_path: Path) -> None:
    expected = 0
    for row in range(ROWS):
        expected ^= crc64(b"r%05d" % row + b"base%05d" % row)
    for turn in range(8):
        report = backup(
            live_store, tmp_path / "repo", end_ts=10, name=f"b{turn}", is_raw=False, jobs=2
        )
        assert report.status == "ok", report.errors
        assert (report.total_kvs, report.crc64xor) == (ROWS, expected)
