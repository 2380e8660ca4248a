"""How many workers a run gets: what `--jobs` asks for, within what makes sense, said if lowered."""

from __future__ import annotations

import os

from bkctl.commands.options import notify
from bkctl.pool.events import Listener, Listeners, SilentListener

MAX_DEFAULT_JOBS = 8
JOBS_PER_CORE = 4
"""More than so many only take each other's memory and time."""


def default_jobs() -> int:
    """Half of the cores this process may use, at least 1 and at most 8."""
    return max(1, min(MAX_DEFAULT_JOBS, cores() // 2))


def bounded_jobs(asked: int | None, default: int | None = None) -> int:
    """As many as are asked for, four for each core at most; says so where that is less."""
    if asked is None:
        return default or default_jobs()
    if asked > (most := _bounded(asked)):
        notify(f"--jobs {asked} is lowered to {most}, {JOBS_PER_CORE} for each core")
    return most


def telling_jobs(listener: Listener, asked: int | None) -> Listener:
    """A listener that says, too, where a plan has fewer parts than `--jobs` asks for workers."""
    return listener if asked is None else Listeners(listener, _FewParts(_bounded(asked)))


def _bounded(asked: int) -> int:
    return min(asked, JOBS_PER_CORE * cores())


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class _FewParts(SilentListener):
    def __init__(self, asked: int) -> None:
        self._asked, self._has_told = asked, False

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        if 0 < total_ranges < self._asked and not self._has_told:
            self._has_told = True
            parts = "1 part" if total_ranges == 1 else f"{total_ranges} parts"
            notify(f"--jobs {self._asked} is lowered to {total_ranges}: there is work of {parts}")
