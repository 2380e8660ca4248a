"""What a run tells whoever watches it: the listener that displays, logs and metrics implement.

All counts are cumulative for one range unless said otherwise; bytes are plain bytes (raw user key
plus value), not compressed ones. Calls come from the parent process's main thread, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bkctl.archive.meta import BackupFile
from bkctl.regions.plan import BackupRange
from bkctl.storage.base import Storage
from bkctl.storage.metrics import Metrics, OperationCounts
from bkctl.storage.url import StorageSpec, open_storage


@dataclass(frozen=True, slots=True)
class PhaseSeconds:
    """How many seconds the phases of a range took, named as TiKV names them.

    `snapshot` is opening the store's view, which the first range of a worker pays for; `scan` is
    reading records and making files of them; `save` is completing, hashing and storing the files,
    which goes on beside the scan of what follows.
    """

    snapshot: float = 0.0
    scan: float = 0.0
    save: float = 0.0


@dataclass(frozen=True, slots=True)
class DoneRange:
    """A range that is done: its records, their plain bytes, and its files' bytes as stored.

    `files` and `seconds` are known of backups and merges only.
    """

    backup_range: BackupRange
    kvs: int
    plain_bytes: int
    size: int
    files: tuple[BackupFile, ...] = ()
    seconds: PhaseSeconds | None = None


class Listener(Protocol):
    """Receives a run's events; every method returns at once and raises nothing."""

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """The plan is known and workers start; keys are the region map's estimate, if any."""

    def range_started(self, worker: int, backup_range: BackupRange) -> None:
        """Worker number `worker` (from 0) begins a range."""

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """The range in work at `worker` has emitted this many records and plain bytes so far."""

    def range_done(self, worker: int, done: DoneRange) -> None:
        """A range that was in work at `worker` is saved."""

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """A range failed; `kind` is one of `bkctl.errors.KINDS`."""

    def finished(self) -> None:
        """The run is over, however it ended; releases the terminal."""

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        """The storage was used this much more, by a worker or the run itself."""


class SilentListener:
    """Heeds nothing: the base of listeners that heed some events only."""

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""

    def range_started(self, worker: int, backup_range: BackupRange) -> None:
        """See Listener."""

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """See Listener."""

    def finished(self) -> None:
        """See Listener."""

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        """See Listener."""


class Listeners:
    """Passes every event on to several listeners."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.started(total_ranges, approximate_keys, jobs)

    def range_started(self, worker: int, backup_range: BackupRange) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.range_started(worker, backup_range)

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.advanced(worker, kvs, plain_bytes)

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.range_done(worker, done)

    def range_failed(self, worker: int, backup_range: BackupRange, kind: str, message: str) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.range_failed(worker, backup_range, kind, message)

    def finished(self) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.finished()

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        """See Listener."""
        for listener in self._listeners:
            listener.storage_used(counts)


@contextmanager
def counted_storage(spec: StorageSpec, listener: Listener) -> Iterator[Storage]:
    """Open a storage for the block; `listener` is told at its end what was done there.

    Raises what `open_storage` raises.
    """
    metrics = Metrics()
    try:
        with open_storage(spec, metrics) as storage:
            yield storage
    finally:
        listener.storage_used(metrics.snapshot())
