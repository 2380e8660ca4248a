"""Private temporary folders, which no run leaves behind for good, be it killed.

    .PREFIX…/   being made
    PREFIX…/
      owner     locked (flock) for as long as the folder is used; a free lock marks a leftover

The owner file is there, locked, before the folder gets its name, and goes as the last of it: at
whatever moment a run is killed, the next one that makes such a folder knows what to remove. Names
alone prove nothing where others may write: a leftover is a real folder of our own user, and is
removed through its handle, whatever its name may lead to by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from bkctl.errors import StorageError, UsageError
from bkctl.files.trees import OPEN_FOLDER, empty_folder, opened_folder
from bkctl.shortage import reason_of

_OWNER = "owner"
# Not what is no plain file, and no waiting for the other end of a pipe.
_OPEN_OWNER = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# What tempfile puts behind a prefix.
_RANDOM = r"[a-z0-9_]{8}"
# Nobody takes so long to make one.
_HOUR = 3600


@contextlib.contextmanager
def making_files(place: Path) -> Iterator[None]:
    """Turn what goes wrong with temporary files in `place` into a StorageError with advice."""
    try:
        yield
    except OSError as e:
        raise StorageError(
            f"{e.filename or place}: no room for temporary files ({reason_of(e)}); "
            "set TMPDIR or --work-dir to a directory with space"
        ) from None


class PrivateFolder:
    """A new folder at `path`, as a context manager; it is gone at the end of the block."""

    def __init__(
        self,
        prefix: str,
        base: Path | None = None,
        making: Callable[[Path], AbstractContextManager[None]] = making_files,
    ) -> None:
        """Make it in `base` (default: the system's); its name begins with `prefix`.

        `making` says what cannot be made, as a StorageError unless it is another's.
        """
        base = Path(base or tempfile.gettempdir())
        with making(base):
            remove_leftovers(base, prefix)
            unnamed = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=base))
            self._folder = os.open(unnamed, OPEN_FOLDER)
            self._owner = _own(self._folder)
            self.path = unnamed.rename(base / unnamed.name.removeprefix("."))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove it; may be called twice."""
        if self._folder < 0:
            return
        with contextlib.suppress(OSError), _opened_base(self.path.parent) as base:
            _remove(base, self.path.name, self._folder)
        os.close(self._folder)
        os.close(self._owner)
        self._folder = self._owner = -1


def refuse_work_dir_in(root: str, base: Path | None) -> None:
    """Raise UsageError where folders made in `base` would lie in a repository at `root`.

    For who puts into them what the repository may hold encrypted only. "" is a root elsewhere.
    """
    real = Path(os.path.realpath(base or tempfile.gettempdir()))
    if root and real.is_relative_to(os.path.realpath(root)):
        raise UsageError(
            f"{real} lies in the repository, which would get plain temporary files beside the "
            "encrypted ones; give another --work-dir, or set TMPDIR"
        )


def remove_leftovers(base: Path, prefix: str) -> None:
    """Remove the private folders in `base` whose process was killed; those of living ones stay."""
    ours = re.compile(rf"(\.?){re.escape(prefix)}{_RANDOM}")
    with contextlib.suppress(OSError), _opened_base(base) as parent:
        for name in os.listdir(parent):
            if match := ours.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_leftover(parent, name, is_unnamed=bool(match[1]))


def _remove_leftover(parent: int, name: str, *, is_unnamed: bool) -> None:
    with opened_folder(name, parent) as folder:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            return
        if not is_unnamed:
            _remove_unowned(parent, name, folder)
        elif status.st_mtime < time.time() - _HOUR:
            _remove(parent, name, folder)


def _remove_unowned(parent: int, name: str, folder: int) -> None:
    try:
        owner = os.open(_OWNER, _OPEN_OWNER, dir_fd=folder)
    except FileNotFoundError:
        os.rmdir(name, dir_fd=parent)  # if it is empty: only that was left to do
        return
    try:
        if stat.S_ISREG(os.fstat(owner).st_mode):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(parent, name, folder)
    finally:
        os.close(owner)


def _remove(parent: int, name: str, folder: int) -> None:
    """Remove the open folder `name` as far as that goes, and its owner file after all else."""
    with contextlib.suppress(OSError):
        empty_folder(folder, kept=_OWNER)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_OWNER, dir_fd=folder)
        os.rmdir(name, dir_fd=parent)


def _own(folder: int) -> int:
    """Mark a folder as in use until the descriptor returned is closed."""
    owner = os.open(_OWNER, _OPEN_OWNER | os.O_CREAT, 0o600, dir_fd=folder)
    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return owner


@contextlib.contextmanager
def _opened_base(base: Path) -> Iterator[int]:
    """The directory that private folders are made in: the user named it, perhaps by a link."""
    descriptor = os.open(base, OPEN_FOLDER & ~os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
