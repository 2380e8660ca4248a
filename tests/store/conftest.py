"""Stores that several modules of tests encrypt, and memory of a test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.store import memory
from tests.store.sealed import (
    fill,
)
from tests.store.test_source import WRITER


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A part of /dev/shm that is the test's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        monkeypatch.setattr(memory, "_SHARED_MEMORY", Path(path))
        yield Path(path)


@pytest.fixture
def plain_store(tmp_path: Path) -> Path:
    fill(tmp_path / "plain" / "db")
    return tmp_path / "plain"


@pytest.fixture
def killed_store(tmp_path: Path) -> Path:
    """A data directory whose newest records are only in the log."""
    path = tmp_path / "killed"
    path.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path / "db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    return path
