"""Files that are something else are refused at once, unread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.files.small import UnfitFileError, open_regular, read_small

LIMIT = 1 << 20


def sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 3 << 30)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a sparse file": (sparse, "has 3,221,225,472 bytes, where at most 1,048,576 are read"),
    "a pipe": (os.mkfifo, "is a named pipe, where a regular file belongs"),
    "a directory": (lambda path: path.mkdir(), "is a directory"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_small_file_is_refused(kind: str, tmp_path: Path) -> None:
    make, why = UNFIT[kind]
    make(tmp_path / "x")
    before = os.listdir("/proc/self/fd")
    for read in (read_small, open_regular):
        with pytest.raises(UnfitFileError) as told:
            read(tmp_path / "x", LIMIT)
        assert why in (told.value.strerror or "")
        assert told.value.filename == str(tmp_path / "x")
    assert os.listdir("/proc/self/fd") == before


def test_a_socket_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bound_socket(tmp_path / "x")
    with pytest.raises(OSError, match="No such device"):
        read_small(tmp_path / "x", LIMIT)


def test_small_files_links_to_them_and_nothing_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(LIMIT))
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_small(tmp_path / "link", LIMIT) == bytes(LIMIT)
    assert read_small(Path(os.devnull), LIMIT) == b""
    with pytest.raises(UnfitFileError, match="has 1,048,576 bytes"):
        read_small(tmp_path / "x", LIMIT - 1)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "missing", LIMIT)


def test_a_pipe_without_a_name_is_read_if_asked_for(tmp_path: Path) -> None:
    for size, says in ((LIMIT, None), (LIMIT + 1, "has more bytes")):
        reader, writer = os.pipe()
        filler = threading.Thread(target=fill, args=(writer, size))
        filler.start()
        path = f"/dev/fd/{reader}"
        with pytest.raises(UnfitFileError, match="is a named pipe"):
            read_small(path, LIMIT)
        if says is None:
            assert read_small(path, LIMIT, waits=True) == bytes(LIMIT)
        else:
            with pytest.raises(UnfitFileError, match=says):
                read_small(path, LIMIT, waits=True)
        os.close(reader)
        filler.join()
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UnfitFileError, match="is a named pipe"):
        read_small(tmp_path / "x", LIMIT, waits=True)


def fill(writer: int, size: int) -> None:
    with open(writer, "wb") as file:
        file.write(bytes(size))


def test_a_file_that_grows_is_read_to_the_limit_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    read, taken = os.read, 0

    def endless(descriptor: int, length: int) -> bytes:
        nonlocal taken
        read(descriptor, length)
        taken += length
        return bytes(length)

    monkeypatch.setattr(os, "read", endless)
    with pytest.raises(UnfitFileError, match="has more bytes, where at most 5,000,000 are read"):
        read_small(tmp_path / "x", 5_000_000)
    assert taken == 5_000_001
