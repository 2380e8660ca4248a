"""A raft log is read while another process writes it as fast as it can, and recycles its files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.raft.engine import PinnedRaftEngine
from tests.raft.live_writer import REGIONS
from tests.raft.logs import indexes

ROOT = Path(__file__).resolve().parents[2]
READS = 15


@pytest.fixture
def live_log(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "live"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.raft.live_writer", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield folder
            assert process.poll() is None
            process.stdin.close()
            assert process.wait() == 0
        finally:
            process.kill()


def acked(folder: Path) -> int:
    return int.from_bytes((folder / "acked").read_bytes()[:8], "big")


def test_all_that_was_written_before_is_read_whatever_the_store_does(
    tmp_path: Path, live_log: Path
) -> None:
    read: list[int] = []
    for number in range(READS):
        before = acked(live_log)
        with PinnedRaftEngine([live_log], copy_to=tmp_path) as pinned:
            keep = dict.fromkeys(REGIONS, before - 100) if number % 2 else {}
            log = pinned.read(keep)
            assert log.region_ids() == [*REGIONS]
            for region_id in REGIONS:
                first, last = log.first_index(region_id), log.last_index(region_id)
                assert first is not None
                assert last is not None
                assert last >= before
                assert indexes(log, region_id, first, last + 1) == [*range(first, last + 1)]
                # The files with these entries may be gone if the writer was much faster.
                if keep and acked(live_log) < before + 400:
                    assert first <= before - 100
                read.append(last)
    assert read == sorted(read)
    assert read[-1] > read[0]
