"""What a run tells whoever watches it: the listener that displays, logs and metrics implement.

All counts are cumulative for one range unless said otherwise; bytes are plain bytes (raw user key
plus value), not compressed ones. Calls come from the parent process's main thread, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class JobRegion(Protocol):
    """The region of a range in work, as far as whoever watches needs it."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def approximate_keys(self) -> int | None:
        """The region map's estimate of its keys, if there is one."""


class JobRange(Protocol):
    """A range in work; keys are raw user keys, an empty one being no bound."""

    @property
    def region(self) -> JobRegion:
        """The region it is a part of."""

    @property
    def raw_start_key(self) -> bytes:
        """Where it begins."""

    @property
    def raw_end_key(self) -> bytes:
        """Where it ends."""


class JobFile(Protocol):
    """A file that was made of a range: its column family, records, plain and stored bytes."""

    @property
    def cf(self) -> str:
        """The column family."""

    @property
    def total_kvs(self) -> int:
        """The records that count in it."""

    @property
    def total_bytes(self) -> int:
        """Their plain bytes."""

    @property
    def size(self) -> int:
        """Its bytes as stored."""


@dataclass(frozen=True, slots=True)
class OperationCounts:
    """The counts of one operation, named as the method of Storage or RandomReader.

    `seconds` is the time spent in calls, their retries and pauses included; bytes are those of
    objects, counted once however often they were sent. NotFoundError counts as an answer.
    """

    operation: str
    calls: int = 0
    failures: int = 0
    retries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0

    def plus(self, other: OperationCounts) -> OperationCounts:
        """Add up two counts of the same operation."""
        return OperationCounts(
            self.operation,
            self.calls + other.calls,
            self.failures + other.failures,
            self.retries + other.retries,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.seconds + other.seconds,
        )


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

    backup_range: JobRange
    kvs: int
    plain_bytes: int
    size: int
    files: tuple[JobFile, ...] = ()
    seconds: PhaseSeconds | None = None


class Listener(Protocol):
    """Receives a run's events; every method returns at once and raises nothing."""

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """The plan is known and workers start; keys are the region map's estimate, if any."""

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        """Worker number `worker` (from 0) begins a range."""

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """The range in work at `worker` has emitted this many records and plain bytes so far."""

    def range_done(self, worker: int, done: DoneRange) -> None:
        """A range that was in work at `worker` is saved."""

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        """A range failed; `kind` is one of `bkctl.errors.KINDS`."""

    def finished(self) -> None:
        """The run is over, however it ended; releases the terminal."""

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        """The storage was used this much more, by a worker or the run itself."""


class SilentListener:
    """Heeds nothing: the base of listeners that heed some events only."""

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        """See Listener."""

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
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

    def range_started(self, worker: int, backup_range: JobRange) -> None:
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

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
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
