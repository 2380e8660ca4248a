"""What has been done so far in a run, and how long the rest may take: figures, no display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bkctl.pool.events import JobRange
from bkctl.ui.human import format_count, format_duration, format_size


@dataclass(slots=True)
class RangeInWork:
    """The range that a worker has, with what it has emitted of it so far."""

    backup_range: JobRange
    kvs: int = 0
    plain_bytes: int = 0


class Tally:
    """Adds up a run's events; takes the same calls as a listener, in the same order.

    `clock` gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.workers: dict[int, RangeInWork] = {}
        self.started(0, None)

    def started(self, total_ranges: int, approximate_keys: int | None) -> None:
        """A run of so many ranges begins; the clock starts now, and all counts at 0."""
        self._begun = self._clock()
        self._passed_keys = 0
        self._done_kvs = self._done_bytes = 0
        self.done = self.failed = 0
        self.total, self._approximate_keys = total_ranges, approximate_keys

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        """A worker begins a range."""
        self.workers[worker] = RangeInWork(backup_range)

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """A worker has emitted so much of its range."""
        if (work := self.workers.get(worker)) is not None:
            work.kvs, work.plain_bytes = kvs, plain_bytes

    def range_done(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """A worker's range is saved, with so much in it."""
        self.done += 1
        self._done_kvs += kvs
        self._done_bytes += plain_bytes
        self._pass(self.workers.pop(worker, None))

    def range_failed(self, worker: int, backup_range: JobRange) -> None:
        """A range failed; what was emitted of it counts no more."""
        self.failed += 1
        self._pass(RangeInWork(backup_range))
        work = self.workers.get(worker)
        if work is not None and work.backup_range == backup_range:
            del self.workers[worker]

    @property
    def kvs(self) -> int:
        """Records emitted, of ranges that are done or in work."""
        return self._done_kvs + sum(work.kvs for work in self._in_work())

    @property
    def plain_bytes(self) -> int:
        """Bytes of keys and values emitted, of ranges that are done or in work."""
        return self._done_bytes + sum(work.plain_bytes for work in self._in_work())

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return max(0.0, self._clock() - self._begun)

    @property
    def bytes_per_second(self) -> float:
        """The mean rate of plain bytes since the run began."""
        return self.plain_bytes / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest would take at the mean speed so far; None while that is unknown.

        Measured in keys where the region map has estimates of them, otherwise in ranges.
        """
        finished = self.done + self.failed
        if finished >= self.total:
            return 0.0
        fraction = finished / self.total
        if self._approximate_keys:
            # A range's own estimate stands for it, not what was found in it: an incremental
            # backup emits few of the keys it passes.
            passed = self._passed_keys + sum(_keys_passed(work) for work in self._in_work())
            fraction = min(1.0, passed / self._approximate_keys)
        return self.elapsed * (1 - fraction) / fraction if fraction > 0 else None

    def in_words(self, *, finished: bool = False) -> str:
        """All figures on one line: of a run under way, or of one that is over."""
        parts = [
            f"{format_count(self.done)}/{format_count(self.total, 'range')}",
            format_count(self.kvs, "key"),
            format_size(self.plain_bytes),
            f"{format_size(self.bytes_per_second)}/s",
            f"{format_count(self.failed)} failed",
        ]
        left = self.seconds_left
        if finished:
            parts.append(f"took {format_duration(self.elapsed)}")
        elif left is not None:
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)

    def _in_work(self) -> list[RangeInWork]:
        # A copy: a display may read from another thread than the one that adds up.
        return list(self.workers.values())

    def _pass(self, work: RangeInWork | None) -> None:
        if work is not None:
            self._passed_keys += work.backup_range.region.approximate_keys or 0


def _keys_passed(work: RangeInWork) -> int:
    return min(work.kvs, work.backup_range.region.approximate_keys or 0)
