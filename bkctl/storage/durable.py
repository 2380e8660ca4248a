"""Durable file operations through directory handles, as LocalStorage needs them.

All take the handle of an open directory and one name in it, follow no symbolic link, and raise
plain OSError: who calls knows what to say about it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bkctl.files.access import FILE_MODE, FOLDER_MODE
from bkctl.storage.base import TEMPORARY_PREFIX

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe must not wait for its other end.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def open_child(parent: int, name: str) -> int:
    """Open the directory `name`; FileNotFoundError if absent."""
    return os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


class FolderMaker:
    """Makes directories durably, each sync once; may be used from several threads."""

    def __init__(self) -> None:
        self._durable: set[tuple[int, int]] = set()

    def open_child(self, parent: int, name: str, mode: int = FOLDER_MODE) -> int:
        """Open the directory `name`, which is made if need be, and whose name is durable then."""
        made = False
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=parent)
            made = True
        child = open_child(parent, name)
        try:
            status = os.fstat(child)
            known = (status.st_dev, status.st_ino)
            # One that was there is synced too: whoever made it may not have come to this yet.
            if made or known not in self._durable:
                fsync_directory(parent)
                self._durable.add(known)
        except BaseException:
            os.close(child)
            raise
        return child

    def remove_child(self, parent: int, name: str) -> None:
        """Remove the directory `name`, which is empty."""
        os.rmdir(name, dir_fd=parent)
        # Its number may be the next one's.
        self._durable.clear()


def make_directories(path: Path) -> None:
    """Make a directory and its missing parents, durably."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directories(path.parent)
    with suppress(FileExistsError):
        path.mkdir(FOLDER_MODE)
    fd = os.open(path.parent, OPEN_DIRECTORY)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)


def create_empty(folder: int, name: str) -> None:
    """Make an empty file; FileExistsError if the name is taken."""
    os.close(os.open(name, _OPEN_NEW, FILE_MODE, dir_fd=folder))


def write_temporary(folder: int, data: bytes) -> str:
    """Write `data` to stable storage under a new temporary name; give the name."""
    temporary = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    fd = os.open(temporary, _OPEN_NEW, FILE_MODE, dir_fd=folder)
    with removed_on_failure(folder, temporary), os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    return temporary


@contextmanager
def locked_file(folder: int, name: str) -> Iterator[int]:
    """Open a file, locked against all others that open it so; FileNotFoundError if absent.

    Who waits for a file that is replaced or removed meanwhile gets what has its name then.
    """
    while True:
        # Network file systems lock only what is open for writing.
        fd = os.open(name, os.O_RDWR | OPEN_FILE, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            named = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(os.fstat(fd), named):
                yield fd
                return
        finally:
            os.close(fd)


def copy_into(folder: int, name: str, source: int) -> None:
    """Copy the open file `source` to `name` in one step, so safely that it can be deleted."""
    temporary = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    fd = os.open(temporary, _OPEN_NEW, FILE_MODE, dir_fd=folder)
    with removed_on_failure(folder, temporary):
        with os.fdopen(fd, "wb") as target, os.fdopen(os.dup(source), "rb") as origin:
            shutil.copyfileobj(origin, target, 1 << 20)
            target.flush()
            os.fsync(fd)
        rename(folder, temporary, name)
    fsync_directory(folder)


def rename(folder: int, old: str, new: str) -> None:
    """Rename within a directory, replacing what has the new name."""
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def removed_on_failure(folder: int, temporary: str) -> Iterator[None]:
    """Leave no temporary file behind when the block fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def fsync_directory(fd: int) -> None:
    """Make a directory's entries durable."""
    try:
        os.fsync(fd)
    except OSError as e:
        # Some network file systems cannot sync a directory and need no such call.
        if e.errno not in _NO_FSYNC:
            raise
