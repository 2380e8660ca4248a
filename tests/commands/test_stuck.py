"""A worker that hangs: one signal ends the run all the same, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from examples.make_store import MID_TS
from tests.commands.test_kill import wait_until_gone, workers
from tests.conftest import SampleStore


def test_one_signal_ends_a_run_whose_worker_hangs(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bkctl", "backup", "--db", str(sample_store.path)),
            *("--region-map", str(sample_store.region_map), "--storage", str(tmp_path / "repo")),
            *("--end-ts", str(MID_TS), "--jobs", "1"),
            # So slow that its worker has something to do for long.
            *("--rate-limit", "1KiB", "--log-format", "json"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        while '"running"' not in process.stderr.readline():
            assert process.poll() is None
        for pid in workers(process.pid):
            os.kill(pid, signal.SIGSTOP)
        process.terminate()
        _, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 143
    assert "Traceback" not in err
    wait_until_gone(process.pid)
