"""Removes folders with all that is in them, and nothing that a link in them points to.

All goes through handles of open directories, one name at a time: a name that is, or becomes, a
symbolic link is unlinked itself. What is mounted below is not entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_folder(name: Path | str, parent: int | None = None) -> Iterator[int]:
    """Give the handle of a directory, a real one; links on the way to `name` itself are followed.

    Raises OSError: NotADirectoryError for a link, too.
    """
    folder = os.open(name, OPEN_FOLDER, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


def remove_folder(path: Path) -> None:
    """Remove a folder of ours as far as that goes; a link at `path` is left alone."""
    with suppress(OSError), opened_folder(path) as folder:
        empty_folder(folder)
        os.rmdir(path)


def remove_tree(parent: int, name: str) -> None:
    """Remove the entry `name` of an open directory, with all in it if it is one.

    One that is not there is fine. What cannot be removed does not keep the rest; raises the first
    OSError at the end.
    """
    problem = _empty([_Level(parent, "", [name])])
    if problem is not None:
        raise problem


def empty_folder(folder: int, kept: str = "") -> None:
    """Remove all in an open directory but the entry `kept`, as `remove_tree` does."""
    names = [name for name in os.listdir(folder) if name != kept]
    problem = _empty([_Level(folder, "", names)])
    if problem is not None:
        raise problem


@dataclass(slots=True)
class _Level:
    """An open directory, its name in the one above it, and the entries that are left to remove."""

    folder: int
    name: str
    left: list[str]


def _empty(levels: list[_Level]) -> OSError | None:
    """Remove what is left of the one level given, which stays itself; the first thing wrong."""
    # No recursion: whoever made the tree chose its depth.
    problem: OSError | None = None
    try:
        while True:
            level = levels[-1]
            try:
                if level.left:
                    _remove_next(levels)
                elif len(levels) == 1:
                    return problem
                else:
                    os.close(levels.pop().folder)
                    os.rmdir(level.name, dir_fd=levels[-1].folder)
            except FileNotFoundError:
                pass
            except OSError as e:
                problem = problem or e
    finally:
        for level in levels[1:]:
            os.close(level.folder)


def _remove_next(levels: list[_Level]) -> None:
    """Unlink the next entry, or go down into it."""
    level = levels[-1]
    name = level.left.pop()
    if not stat.S_ISDIR(os.stat(name, dir_fd=level.folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=level.folder)
        return
    levels.append(_Level(os.open(name, OPEN_FOLDER, dir_fd=level.folder), name, []))
    if os.fstat(levels[-1].folder).st_dev != os.fstat(level.folder).st_dev:
        raise OSError(errno.EXDEV, "something is mounted there", name)
    levels[-1].left = os.listdir(levels[-1].folder)
