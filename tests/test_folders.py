"""Private folders: gone with their run, be it killed, and never taken for another's leftovers."""

from __future__ import annotations

import os
import signal
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

calls = 0
def killed(event, args):
    global calls
    if event == sys.argv[2]:
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(killed)
with PrivateFolder("mine-", Path(sys.argv[1])) as folder:
    (folder / "in" / "it").mkdir(parents=True)
    (folder / "in" / "it" / "file").write_bytes(b"x")
    (folder / "link").symlink_to(sys.argv[1])
    os.kill(os.getpid(), signal.SIGKILL if sys.argv[2] == "use" else 0)
"""


def killed_at(base: Path, event: str, nth: int = 1) -> int:
    """Whether a run was killed as the event (of sys.audit) came for the nth time."""
    command = [sys.executable, "-c", _KILLED, str(base), event, str(nth)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_folder_is_gone_at_the_end_of_the_block(tmp_path: Path) -> None:
    with PrivateFolder("mine-", tmp_path) as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("event", ["use", "os.remove", "os.rmdir"])
def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(
    event: str, tmp_path: Path
) -> None:
    others = ["mine-not-ours", "mine-", ".mine-not-ours", "mine-12345678"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    moments = 0
    while killed_at(tmp_path, event, moments + 1):
        moments += 1
        left = {path.name for path in tmp_path.iterdir()} - set(others)
        with PrivateFolder("mine-", tmp_path) as first, PrivateFolder("mine-", tmp_path) as second:
            assert not any((tmp_path / name).exists() for name in left)
            assert first.is_dir()
            assert second.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == set(others)
        if event == "use":
            break
    # Twice its own entries and itself; one of the others is tried, too, before there is any.
    assert moments == {"use": 1, "os.remove": 3, "os.rmdir": 4}[event]
    assert all((tmp_path / name / "file").exists() for name in others)


def test_what_was_left_unnamed_is_removed_when_it_is_old(tmp_path: Path) -> None:
    assert killed_at(tmp_path, "os.rename")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".mine-")
    with PrivateFolder("mine-", tmp_path):
        assert left.exists()
    os.utime(left, (0, 0))
    with PrivateFolder("mine-", tmp_path):
        assert not left.exists()


def test_no_room_is_a_storage_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing.*TMPDIR or --work-dir"):
        PrivateFolder("mine-", tmp_path / "missing")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, which looks like a leftover and must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"precious")
    (folder / "owner").write_bytes(b"")
    os.utime(folder, (0, 0))
    return folder


def assert_whole(victim: Path) -> None:
    assert {path.name for path in victim.rglob("*")} == {"deep", "file", "owner"}
    assert (victim / "deep" / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("name", [".mine-abcdefgh", "mine-abcdefgh"])
def test_a_link_that_is_called_like_a_leftover_leads_nowhere(
    name: str, tmp_path: Path, victim: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / name).symlink_to(victim)
    os.utime(base / name, (0, 0), follow_symlinks=False)
    with PrivateFolder("mine-", base):
        pass
    assert_whole(victim)
    assert (base / name).is_symlink()


@pytest.mark.parametrize("name", [".mine-abcdefgh", "mine-abcdefgh"])
def test_links_in_a_leftover_are_removed_and_not_followed(
    name: str, tmp_path: Path, victim: Path
) -> None:
    base = tmp_path / "base"
    (base / name / "deep").mkdir(parents=True)
    (base / name / "owner").write_bytes(b"")
    (base / name / "link").symlink_to(victim)
    (base / name / "deep" / "link").symlink_to(victim / "deep")
    os.utime(base / name, (0, 0))
    with PrivateFolder("mine-", base):
        assert not (base / name).exists()
    assert_whole(victim)


@pytest.mark.parametrize("name", [".mine-abcdefgh", "mine-abcdefgh"])
def test_a_leftover_of_another_user_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "owner").write_bytes(b"")
    os.utime(tmp_path / name, (0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with PrivateFolder("mine-", tmp_path):
        assert (tmp_path / name / "owner").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_an_owner_file_that_is_none_stops_nothing(kind: str, tmp_path: Path, victim: Path) -> None:
    left = tmp_path / "base" / "mine-abcdefgh"
    left.mkdir(parents=True)
    owner = left / "owner"
    if kind == "link":
        owner.symlink_to(victim / "owner")
    elif kind == "pipe":
        os.mkfifo(owner)
    else:
        owner.mkdir()
    (left / "file").write_bytes(b"")
    with PrivateFolder("mine-", tmp_path / "base"):
        assert (left / "file").exists()
    assert_whole(victim)


def test_a_folder_that_was_swapped_for_a_link_does_not_lead_its_removal_astray(
    tmp_path: Path, victim: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    with PrivateFolder("mine-", base) as folder:
        (folder / "file").write_bytes(b"")
        folder.rename(tmp_path / "moved")
        folder.symlink_to(victim)
    assert_whole(victim)
    assert not list((tmp_path / "moved").iterdir())


def test_a_name_with_a_pattern_s_signs_means_itself(tmp_path: Path) -> None:
    for name in ("mine[*]-abcdefgh", "mine*-abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner").write_bytes(b"")
    with PrivateFolder("mine[*]-", tmp_path):
        assert not (tmp_path / "mine[*]-abcdefgh").exists()
        assert (tmp_path / "mine*-abcdefgh").exists()
