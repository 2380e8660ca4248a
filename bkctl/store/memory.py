"""Places for plain text that are in memory alone: files without a name, and a folder.

A file without a name (memfd) is gone with the process that made it, however that ends. RocksDB
makes files of its own, and needs a folder for them: one on a file system that is memory (tmpfs),
which a killed run leaves behind until the next one (`bkctl.folders`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bkctl.errors import SourceError, StorageError
from bkctl.folders import PrivateFolder, remove_leftovers

_SHARED_MEMORY = Path("/dev/shm")
# Of each mount: … major:minor … - file system …
_MOUNTS = Path("/proc/self/mountinfo")
_PREFIX = "bkctl-memory-"
_MEMORY_SYSTEMS = ("tmpfs", "ramfs")
_MIB = 1 << 20


class MemoryFile:
    """A file without a name, in memory; open until `close`."""

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        """Make it of these bytes; StorageError where the system has no memory for it."""
        self._fd = -1
        try:
            self._fd = os.memfd_create("bkctl", os.MFD_CLOEXEC)
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._fd, view) :]
        except AttributeError:
            raise SourceError(
                "this system has no memory files (memfd), which an encrypted store needs; "
                "run bkctl on Linux"
            ) from None
        except OSError as e:
            self.close()
            raise StorageError(f"no memory for decrypted files ({e.strerror})") from None
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Where this and other processes of the user find it, until it is closed."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    @property
    def descriptor(self) -> int:
        """The open file's own."""
        return self._fd

    def close(self) -> None:
        """Let it go; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def memory_folder(work_dir: Path | None, needed: int) -> PrivateFolder:
    """A new folder in memory, with room for `needed` bytes, to be used as a context manager.

    It is in `work_dir`, or else the system's place for temporary files, if that is memory, or in
    /dev/shm. Raises StorageError, saying what to do, where none has the room.
    """
    places = [place for place in _places(work_dir) if _is_memory(place)]
    free = {place: _free(place) for place in places}
    for place in places:
        if free[place] >= needed:
            return PrivateFolder(_PREFIX, place)
    there = ", ".join(f"{place} has {size // _MIB} MiB free" for place, size in free.items())
    raise StorageError(
        f"the write-ahead logs of an encrypted store are replayed in memory, which takes up to "
        f"{-(-needed // _MIB)} MiB of a tmpfs; {there or f'{_SHARED_MEMORY} is none'}: make it "
        "larger (mount -o remount,size=…, docker --shm-size), or set --work-dir to a larger tmpfs"
    )


def remove_memory_leftovers(work_dir: Path | None) -> None:
    """Remove what runs that were killed have left in memory."""
    for place in _places(work_dir):
        remove_leftovers(place, _PREFIX)


def _places(work_dir: Path | None) -> list[Path]:
    given = work_dir or Path(tempfile.gettempdir())
    return list(dict.fromkeys((given.absolute(), _SHARED_MEMORY)))


def _free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def _is_memory(place: Path) -> bool:
    """Whether a folder lies on a file system that is memory and nothing else."""
    try:
        device = place.stat().st_dev
        mounts = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for mount in mounts:
        fields, _, system = mount.partition(" - ")
        if fields.split(" ")[2:3] == [number]:
            return system.split(" ")[0] in _MEMORY_SYSTEMS
    return False
