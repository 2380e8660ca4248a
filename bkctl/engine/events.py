"""What a run tells whoever watches it: the listener that progress displays and logs implement.

All counts are cumulative for one range unless said otherwise; bytes are plain bytes (raw user key
plus value), not compressed ones. Calls come from the parent process's main thread, in order.
"""

from __future__ import annotations

from typing import Protocol

from bkctl.regions.plan import BackupRange


class Listener(Protocol):
    """Receives a run's events; every method returns at once and raises nothing."""

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """The plan is known and workers start; keys are the region map's estimate, if any."""

    def range_started(self, worker: int, backup_range: BackupRange) -> None:
        """Worker number `worker` (from 0) begins a range."""

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """The range in work at `worker` has emitted this many records and plain bytes so far."""

    def range_done(self, worker: int, kvs: int, plain_bytes: int, size: int) -> None:
        """The range in work at `worker` is saved; `size` is its files' bytes as stored."""

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """A range failed; `kind` is one of `bkctl.errors.KINDS`."""

    def finished(self) -> None:
        """The run is over, however it ended; releases the terminal."""
