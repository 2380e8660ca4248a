"""Reads files whose place anyone may have put something else in: refused by kind and size.

Opening waits for nobody (the other end of a pipe), nothing is read of what is no regular file, and
never more than the bound that the caller sets, whatever grows meanwhile. /dev/null is taken for the
empty file that it is like.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PIECE = 1 << 18


class UnfitFileError(OSError):
    """A file that is of another kind, or larger, than it may be; `strerror` says which."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def open_regular(path: Path | str, limit: int | None = None) -> int:
    """Open a file for reading; give its descriptor.

    Links are followed. Raises OSError, UnfitFileError for what is no regular file, or has more
    than `limit` bytes.
    """
    descriptor = os.open(path, _OPEN)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) and not _is_null(status):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise UnfitFileError(path, f"is {kind}, where a regular file belongs")
        if limit is not None and status.st_size > limit:
            raise _too_large(path, f"{status.st_size:,}", limit)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_small(path: Path | str, limit: int, *, waits: bool = False) -> bytes:
    """Read a whole file of at most `limit` bytes; raises as `open_regular` does.

    With `waits`, a pipe without a name will do, which has its other end already: a shell's
    `<(command)` is one. What comes through it is waited for.
    """
    return b"".join(read_pieces(path, limit, waits=waits))


def read_pieces(path: Path | str, limit: int, *, waits: bool = False) -> Iterator[bytes]:
    """Read a file as `read_small` does, piece by piece."""
    descriptor = _open_pipe(path) if waits and _is_unnamed(path) else open_regular(path, limit)
    try:
        left = limit + 1
        while left and (piece := os.read(descriptor, min(left, _PIECE))):
            left -= len(piece)
            yield piece
    finally:
        os.close(descriptor)
    if not left:
        raise _too_large(path, "more", limit)


def _is_unnamed(path: Path | str) -> bool:
    """Tell whether a path like /dev/fd/3 leads to a pipe that is no file of a folder."""
    folder, name = os.path.split(os.path.realpath(path))
    return folder == f"/proc/{os.getpid()}/fd" and name.startswith("pipe:[")


def _open_pipe(path: Path | str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev


def _too_large(path: Path | str, found: str, limit: int) -> UnfitFileError:
    return UnfitFileError(path, f"has {found} bytes, where at most {limit:,} are read")
