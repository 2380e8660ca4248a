"""The files of a raft log are opened as they were at one moment."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError
from bkctl.raft.directory import LogFiles
from bkctl.raft.log_file import FileId, PlainFile, Queue, parse_name
from tests.raft.writer import FileWriter


def make(folder: Path, *numbers: int, suffix: str = "raftlog") -> None:
    for number in numbers:
        FileWriter(folder, number, suffix).write()


def opened(files: LogFiles) -> list[str]:
    return [file.path.name for file in files.files]


class Opening:
    """Opens files, and has `between` done when the one of a number is to be opened."""

    def __init__(self, number: int, between: Callable[[], None]) -> None:
        self.number, self.between = number, between
        self.opened: list[PlainFile] = []
        self.done = False

    def __call__(self, path: Path) -> PlainFile:
        if not self.done and path.name.startswith(f"{self.number:016}"):
            self.done = True
            self.between()
        self.opened.append(PlainFile(path))
        return self.opened[-1]


def test_names_of_files() -> None:
    assert parse_name("0000000000000012.raftlog") == FileId(Queue.APPEND, 12)
    assert parse_name("0000000000000012.rewrite") == FileId(Queue.REWRITE, 12)
    for other in ("LOCK", "0000000000000012.raftlog.reserved", "12.raftlog", "swap"):
        assert parse_name(other) is None


def test_the_rewrite_queue_comes_first_each_by_number(tmp_path: Path) -> None:
    make(tmp_path, 9, 10, 11)
    make(tmp_path, 1, 2, suffix="rewrite")
    (tmp_path / "0000000000000012.raftlog.reserved").write_bytes(b"")
    (tmp_path / "LOCK").write_bytes(b"")
    with LogFiles([tmp_path], PlainFile) as files:
        assert opened(files) == [
            "0000000000000001.rewrite",
            "0000000000000002.rewrite",
            "0000000000000009.raftlog",
            "0000000000000010.raftlog",
            "0000000000000011.raftlog",
        ]
        assert [files.is_newest(file) for file in files.files] == [False, True, False, False, True]
        assert files.ignored == ()


def test_files_before_a_hole_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 5, 7, 8)
    make(tmp_path, 3, 5, suffix="rewrite")
    with LogFiles([tmp_path], PlainFile) as files:
        assert opened(files) == [
            "0000000000000005.rewrite",
            "0000000000000007.raftlog",
            "0000000000000008.raftlog",
        ]
        assert sorted(path.name for path in files.ignored) == [
            "0000000000000001.raftlog",
            "0000000000000002.raftlog",
            "0000000000000003.rewrite",
            "0000000000000005.raftlog",
        ]


def test_a_second_folder_is_part_of_the_log(tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    make(tmp_path, 1, 3)
    make(spill, 2, 4)
    with LogFiles([tmp_path, spill], PlainFile) as files:
        assert [file.id.number for file in files.files] == [1, 2, 3, 4]
    make(spill, 3)
    with pytest.raises(CorruptionError, match="has the same number"):
        LogFiles([tmp_path, spill], PlainFile)


@pytest.mark.parametrize("names", [[], ["0000000000000001.rewrite"]])
def test_a_log_without_files_is_told(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CorruptionError, match=r"no \*\.raftlog file"):
        LogFiles([tmp_path], PlainFile)


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none: the raft log cannot be read"):
        LogFiles([tmp_path / "none"], PlainFile)


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)

    def denied(path: Path) -> PlainFile:
        if path.name.startswith("0000000000000002"):
            raise PermissionError(13, "Permission denied")
        return PlainFile(path)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(SourceError, match=r"0002\.raftlog: cannot be read .Permission denied"):
        LogFiles([tmp_path], denied)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_purged_while_they_are_opened_has_them_opened_again(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)
    opening = Opening(1, (tmp_path / "0000000000000001.raftlog").unlink)
    with LogFiles([tmp_path], opening) as files:
        assert [file.id.number for file in files.files] == [2, 3]


def test_a_file_purged_after_it_was_opened_has_them_opened_again(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)
    opening = Opening(3, (tmp_path / "0000000000000001.raftlog").unlink)
    with LogFiles([tmp_path], opening) as files:
        assert [file.id.number for file in files.files] == [2, 3]
        assert len(opening.opened) == 5
    assert all(reader.fileno() < 0 for reader in opening.opened)


def test_a_file_recycled_while_they_are_opened_has_them_opened_again(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)

    def recycle() -> None:
        (tmp_path / "0000000000000001.raftlog").rename(tmp_path / "0000000000000004.raftlog")

    with LogFiles([tmp_path], Opening(2, recycle)) as files:
        assert [file.id.number for file in files.files] == [2, 3, 4]


def test_a_file_replaced_while_they_are_opened_has_them_opened_again(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)

    def replace() -> None:
        (tmp_path / "0000000000000001.raftlog").unlink()
        make(tmp_path, 1)

    opening = Opening(2, replace)
    with LogFiles([tmp_path], opening) as files:
        assert [file.id.number for file in files.files] == [1, 2]
        assert not files.is_recycled(files.files[0])


def test_a_file_begun_meanwhile_need_not_be_there(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    opening = Opening(2, lambda: make(tmp_path, 3))
    with LogFiles([tmp_path], opening) as files:
        assert [file.id.number for file in files.files] == [1, 2]
        assert len(opening.opened) == 2


def test_a_hole_must_still_be_one_when_they_are_listed_again(tmp_path: Path) -> None:
    make(tmp_path, 1, 3)
    with LogFiles([tmp_path], Opening(3, lambda: make(tmp_path, 2))) as files:
        assert [file.id.number for file in files.files] == [1, 2, 3]


def test_a_store_that_changes_all_the_time_is_given_up(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    count = 0

    def replacing(path: Path) -> PlainFile:
        nonlocal count
        count += 1
        reader = PlainFile(path)
        path.unlink()
        path.write_bytes(b"")
        return reader

    with pytest.raises(SourceError, match="changed the raft log's files 200 times"):
        LogFiles([tmp_path], replacing)
    assert count == 400


def test_a_file_is_recycled_once_it_has_lost_its_name(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    make(tmp_path, 1, 2, suffix="rewrite")
    with LogFiles([tmp_path], PlainFile) as files:
        for file in files.files:
            assert not files.is_recycled(file)
        (tmp_path / "0000000000000001.raftlog").rename(tmp_path / "0000000000000003.raftlog")
        (tmp_path / "0000000000000001.rewrite").unlink()
        assert [files.is_recycled(file) for file in files.files] == [False, False, True, False]


def test_more_files_than_may_be_open_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    with pytest.raises(SourceError, match=r"raft log, have to be kept open, and only 200"):
        LogFiles([tmp_path], PlainFile)
