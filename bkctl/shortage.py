"""Says what the machine lacks where the system, or Python, says only that something failed.

Space on a disk, open files, memory, processes: each is named, with the limit where there is one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

LACKING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
    }
)
"""The system's errors that say so."""


class NoThreadError(OSError):
    """Not even one thread could be started."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))


def what_failed(error: OSError | MemoryError | RecursionError) -> str:
    """In words for one line: what is lacking and what to do, or else what the system says."""
    if not isinstance(error, OSError):
        return f"there is not enough memory{_memory_limit()}; give it more, or fewer --jobs"
    number = error.errno or 0
    if number in LACKING:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{_lack(number)}"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def reason_of(error: OSError) -> str:
    """The same without the file, for a line that names it already."""
    return _lack(error.errno) if error.errno in LACKING else error.strerror or str(error)


def lack_in(text: str) -> str:
    """The same of a library's message that quotes the system's; empty where nothing is lacking."""
    found = (number for number in LACKING - {errno.EAGAIN} if os.strerror(number) in text)
    return next(map(_lack, found), "")


def is_memory_limited() -> bool:
    """Whether this process may have so much memory only (ulimit -v, ulimit -d)."""
    return bool(_memory_limit())


def _lack(number: int | None) -> str:
    if number == errno.ENOSPC:
        return "No space left on device: make some, or choose another place"
    if number == errno.EDQUOT:
        return "Disk quota exceeded: make some space, or choose another place"
    if number == errno.EFBIG:
        return "the file would be larger than files may be there (ulimit -f)"
    if number == errno.EMFILE:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"Too many open files: a process may have {most} (ulimit -n); raise the limit"
    if number == errno.ENFILE:
        return "Too many open files in system (fs.file-max); raise the limit"
    if number == errno.EAGAIN:
        return (
            "no more processes or threads can be started (ulimit -u, pids.max, or memory"
            f"{_memory_limit()}); give it more, or fewer --jobs"
        )
    return f"there is not enough memory{_memory_limit()}; give it more, or fewer --jobs"


def _memory_limit() -> str:
    for option, kind in (("v", resource.RLIMIT_AS), ("d", resource.RLIMIT_DATA)):
        with contextlib.suppress(OSError, ValueError):
            most, _ = resource.getrlimit(kind)
            if most != resource.RLIM_INFINITY:
                return f" (ulimit -{option} is {most >> 20} MiB)"
    return ""
