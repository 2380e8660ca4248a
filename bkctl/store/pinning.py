"""How files of a store that may be live are opened, and linked into a private folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import open_regular, read_small
from bkctl.shortage import reason_of
from bkctl.store.manifest import MAX_BYTES

_MAX_CURRENT = 4096


def current(db_dir: Path) -> bytes:
    """What CURRENT says."""
    path = db_dir / "CURRENT"
    with reading(path):
        return read_small(path, _MAX_CURRENT)


@contextlib.contextmanager
def opened_manifest(manifest: Path) -> Iterator[tuple[int, int]]:
    """A MANIFEST's descriptor, and its size now."""
    with reading(manifest):
        descriptor = open_regular(manifest, MAX_BYTES)
    try:
        yield descriptor, os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in bkctl's words where `path`, which a store must have, cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise CorruptionError(f"{path}: missing; the store is incomplete") from None
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({reason_of(e)})") from None


def size_of(path: Path) -> int:
    """The file's size now; -1 where it is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def manifest_name(named: bytes, db_dir: Path) -> str:
    """The MANIFEST that CURRENT says; CorruptionError where it says none."""
    match = re.fullmatch(rb"(MANIFEST-\d+)\n", named)
    if match is None:
        raise CorruptionError(f"{db_dir / 'CURRENT'}: damaged: it does not name a MANIFEST")
    return match.group(1).decode()


def open_sized(path: Path, size: int, named: str) -> int:
    """Open a file that a MANIFEST says has `size` bytes; `named` is how it says so, for errors.

    Raises CorruptionError where it is missing or of another size, SourceError.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: missing: {named}") from None
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({reason_of(e)})") from None
    found = os.fstat(descriptor).st_size
    if found != size:
        os.close(descriptor)
        raise CorruptionError(f"{path}: is {found} bytes, the MANIFEST says {size}")
    return descriptor


def link_open(link: Path, descriptor: int, original: Path) -> None:
    """Make `link` lead to the open file, which is called `original` in the store."""
    target = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    if target.exists():
        link.symlink_to(target)
        return
    try:  # no /proc: a hard link needs the private folder on the store's file system
        os.link(original, link)
    except OSError as e:
        if e.errno in (errno.EXDEV, errno.EPERM):
            raise SourceError(
                f"{link.name}: cannot be pinned without /proc; set --work-dir to a directory "
                "on the store's file system"
            ) from None
        raise
