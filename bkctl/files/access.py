"""Who may read what a run makes: its own user; where that is asked for, the user's group too.

Never others. The process's umask says so, whatever it was before: all that makes files obeys it,
RocksDB too, and worker processes inherit it. Files that the user named are the user's own, and are
made as the user would have made them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What files and folders are made with; the umask takes from it.
FILE_MODE, FOLDER_MODE = 0o640, 0o750
_PRIVATE, _GROUP_READABLE = 0o077, 0o027


class _Current:
    """The umask outside, while this process has one of its own; -1 while it has none."""

    outside = -1
    lets_group_read = False


@contextmanager
def private_files() -> Iterator[None]:
    """Within the block, what is made is for this process's user alone, unless let otherwise."""
    _Current.outside = os.umask(_PRIVATE)
    try:
        yield
    finally:
        os.umask(_Current.outside)
        _Current.outside, _Current.lets_group_read = -1, False


def let_group_read() -> None:
    """Let the group read what is made from here on, until the end of the block of private files."""
    _Current.lets_group_read = True
    os.umask(_GROUP_READABLE)


def lets_group_read() -> bool:
    """Whether the group is to read what is made."""
    return _Current.lets_group_read


def outside_umask() -> int:
    """The umask for what is not ours, -1 where the process has no other."""
    return _Current.outside


@contextmanager
def users_own_files() -> Iterator[None]:
    """Within the block, files are made as the user would make them."""
    if _Current.outside == -1:
        yield
        return
    ours = os.umask(_Current.outside)
    try:
        yield
    finally:
        os.umask(ours)
