"""Room for the files that a run keeps open."""

from __future__ import annotations

import resource
from pathlib import Path

from bkctl.errors import SourceError

_SPARE = 256


def allow_descriptors(count: int, source: Path, what: str) -> None:
    """Raise the soft limit of open files as far as `count` of them, `what` of `source`, need it.

    Some are spared for all else. Raises SourceError where the hard limit is too low.
    """
    needed = count + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SourceError(
            f"{source}: {count} {what} have to be kept open, and only {hard} files may be; "
            f"raise the limit (ulimit -n {needed}) and try again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
