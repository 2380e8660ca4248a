"""Private temporary folders, which no run leaves behind for good, be it killed.

    .PREFIX…/   being made
    PREFIX…/
      owner     locked (flock) for as long as the folder is used; a free lock marks a leftover

The owner file is there, locked, before the folder gets its name, and goes as the last of it: at
whatever moment a run is killed, the next one that makes such a folder knows what to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bkctl.errors import StorageError

_OWNER = "owner"
# What tempfile puts behind a prefix.
_RANDOM = r"[a-z0-9_]{8}"
# Nobody takes so long to make one.
_HOUR = 3600


class PrivateFolder:
    """A new folder at `path`, as a context manager; it is gone at the end of the block."""

    def __init__(self, prefix: str, base: Path | None = None) -> None:
        """Make it in `base` (default: the system's); its name begins with `prefix`.

        Raises StorageError where it cannot be made.
        """
        base = Path(base or tempfile.gettempdir())
        with making_files(base):
            remove_leftovers(base, prefix)
            unnamed = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=base))
            self._owner = _own(unnamed)
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
        _remove(self.path)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1


@contextlib.contextmanager
def making_files(place: Path) -> Iterator[None]:
    """Turn what goes wrong with temporary files in `place` into a StorageError with advice."""
    try:
        yield
    except OSError as e:
        raise StorageError(
            f"{e.filename or place}: no room for temporary files ({e.strerror}); "
            "set TMPDIR or --work-dir to a directory with space"
        ) from None


def remove_leftovers(base: Path, prefix: str) -> None:
    """Remove the private folders in `base` whose process was killed; those of living ones stay."""
    ours = re.compile(re.escape(prefix) + _RANDOM)
    for folder in base.glob(f"{prefix}*"):
        if ours.fullmatch(folder.name):
            with contextlib.suppress(OSError):
                _remove_unowned(folder)
    for folder in base.glob(f".{prefix}*"):
        if ours.fullmatch(folder.name, 1):
            with contextlib.suppress(OSError):
                if folder.lstat().st_mtime < time.time() - _HOUR:
                    _remove(folder)


def _remove_unowned(folder: Path) -> None:
    try:
        descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        folder.rmdir()  # if it is empty: only that was left to do
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove as much as can be, and the owner file after all else."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _OWNER:
                os.unlink(entry.path)
        if not set(os.listdir(folder)) - {_OWNER}:
            (folder / _OWNER).unlink(missing_ok=True)
            folder.rmdir()


def _own(folder: Path) -> int:
    """Mark a folder as in use until the descriptor returned is closed."""
    descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor
