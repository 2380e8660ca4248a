"""Private folders: gone with their run, be it killed, and never taken for another's leftovers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bkctl.errors import StorageError
from bkctl.folders import PrivateFolder

_KILLED = """
import os, signal, sys
from pathlib import Path
from bkctl.folders import PrivateFolder
folder = PrivateFolder("mine-", Path(sys.argv[1]))
(folder.path / "file").write_bytes(b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_gone_at_the_end_of_the_block(tmp_path: Path) -> None:
    with PrivateFolder("mine-", tmp_path) as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    (tmp_path / "mine-not-ours").mkdir()
    (left,) = (path for path in tmp_path.iterdir() if (path / "file").exists())
    with PrivateFolder("mine-", tmp_path) as first, PrivateFolder("mine-", tmp_path) as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["mine-not-ours"]


def test_no_room_is_a_storage_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing.*TMPDIR or --work-dir"):
        PrivateFolder("mine-", tmp_path / "missing")
