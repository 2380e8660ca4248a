"""What is removed with a tree, and that nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bkctl.files.trees import OPEN_FOLDER, empty_folder, opened_folder, remove_folder, remove_tree


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of someone's that no test may change."""
    folder = tmp_path / "victim"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"precious")
    return folder


def assert_whole(victim: Path) -> None:
    assert (victim / "deep" / "file").read_bytes() == b"precious"


def tree(path: Path, victim: Path) -> Path:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").write_bytes(b"x")
    (path / "a" / "link").symlink_to(victim)
    (path / "dangling").symlink_to("nowhere")
    (path / "file-link").symlink_to(victim / "deep" / "file")
    os.mkfifo(path / "a" / "pipe")
    return path


def test_all_of_a_tree_goes_and_links_are_not_followed(tmp_path: Path, victim: Path) -> None:
    remove_folder(tree(tmp_path / "tree", victim))
    assert not (tmp_path / "tree").exists()
    assert_whole(victim)


def test_a_link_in_the_place_of_a_tree_is_unlinked_or_left(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "link").symlink_to(victim)
    remove_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    with opened_folder(tmp_path) as parent:
        remove_tree(parent, "link")
        assert not (tmp_path / "link").is_symlink()
        remove_tree(parent, "link")
    assert_whole(victim)


def test_a_folder_that_becomes_a_link_is_not_entered(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "tree", victim)
    open_ = os.open

    def swap_first(name: str, flags: int, *args: object, **handles: int) -> int:
        if name == "b" and flags == OPEN_FOLDER:
            (folder / "a" / "b").rename(tmp_path / "b")
            (folder / "a" / "b").symlink_to(victim)
        return open_(name, flags, **handles)

    monkeypatch.setattr(os, "open", swap_first)
    with opened_folder(tmp_path) as parent, pytest.raises(OSError):  # noqa: PT011 - of a system call
        remove_tree(parent, "tree")
    assert_whole(victim)


def test_what_cannot_be_removed_does_not_keep_the_rest(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "tree", victim)
    unlink = os.unlink

    def refuse(name: str, **handles: int) -> None:
        if name == "pipe":
            raise PermissionError(1, "Operation not permitted", name)
        unlink(name, **handles)

    monkeypatch.setattr(os, "unlink", refuse)
    with opened_folder(folder) as handle, pytest.raises(PermissionError):
        empty_folder(handle)
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["a", "a/pipe"]


def test_a_tree_of_any_depth_goes(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=handle)
        below = os.open("d", OPEN_FOLDER, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)
    before = len(os.listdir("/proc/self/fd"))
    with opened_folder(tmp_path) as parent:
        remove_tree(parent, "d")
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_kept_stays(tmp_path: Path) -> None:
    for name in ("kept", "other"):
        (tmp_path / name).write_bytes(b"")
    with opened_folder(tmp_path) as folder:
        empty_folder(folder, kept="kept")
    assert os.listdir(tmp_path) == ["kept"]
