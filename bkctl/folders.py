"""Private temporary folders, which no run leaves behind for good, be it killed.

    PREFIX…/
      owner     locked (flock) for as long as the folder is used; a free lock marks a leftover

A run that makes such a folder first removes the leftovers of others beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bkctl.errors import StorageError

_OWNER = "owner"


class PrivateFolder:
    """A new folder at `path`, as a context manager; it is gone at the end of the block."""

    def __init__(self, prefix: str, base: Path | None = None) -> None:
        """Make it in `base` (default: the system's); its name begins with `prefix`.

        Raises StorageError where it cannot be made.
        """
        base = Path(base or tempfile.gettempdir())
        with making_files(base):
            remove_leftovers(base, prefix)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            self._owner = _own(self.path)

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
        shutil.rmtree(self.path, ignore_errors=True)
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
    for folder in base.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _own(folder: Path) -> int:
    """Mark a folder as in use until the descriptor returned is closed."""
    # Under its name it is locked from the first: another run may be looking for leftovers now.
    unlocked = folder / f"{_OWNER}.new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / _OWNER)
    return descriptor
