"""Waits for locks: ranges that failed on them are tried again, each time in a fresh view.

The snapshot stays that of the backup's timestamp. A view taken later shows the same of it, and in
addition how transactions have ended that were open before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bkctl.backup.run import RangeFailure, RunResult
from bkctl.regions.plan import BackupRange

_PAUSE_SECONDS = 2.0
_POLL_SECONDS = 0.2
LOCKED = "key_is_locked"

Again = Callable[[list[BackupRange]], RunResult]
"""Backs up these ranges from a fresh view."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for locks in all, in seconds; `clock` and `pause` are time's own."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def wait_for_locks(
    result: RunResult, patience: Patience, again: Again, is_cancelled: Callable[[], bool]
) -> RunResult:
    """Try what failed on locks again until nothing does, or the time is up; the whole result."""
    deadline = patience.clock() + patience.seconds
    while True:
        locked = [failure.backup_range for failure in result.failures if failure.kind == LOCKED]
        left = deadline - patience.clock()
        if not locked or left <= 0 or result.cancelled:
            return result
        pause_for(min(left, _PAUSE_SECONDS), patience, is_cancelled)
        if is_cancelled():
            result.cancelled = True
            return result
        result = _joined(result, again(locked))


def pause_for(seconds: float, patience: Patience, is_cancelled: Callable[[], bool]) -> None:
    """Let so many seconds go by, or those until `is_cancelled`."""
    until = patience.clock() + seconds
    while (left := until - patience.clock()) > 0 and not is_cancelled():
        patience.pause(min(left, _POLL_SECONDS))


def _joined(before: RunResult, after: RunResult) -> RunResult:
    other: list[RangeFailure] = [f for f in before.failures if f.kind != LOCKED]
    return RunResult(
        before.done + after.done,
        before.done_ranges + after.done_ranges,
        before.files + after.files,
        other + after.failures,
        before.decided_locks + after.decided_locks,
        after.cancelled,
        before.has_losses or after.has_losses,
    )
