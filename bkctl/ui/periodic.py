"""What displays of lines have in common: a tally of the run, told now and then and at its end."""

from __future__ import annotations

from collections.abc import Callable

from bkctl.pool.events import DoneRange, JobRange, SilentListener
from bkctl.ui.tally import Tally

PERIOD_SECONDS = 10.0


class PeriodicListener(SilentListener):
    """Keeps the tally; a subclass says how it is told, and what else is."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that never go back."""
        self._clock = clock
        self.tally = Tally(clock)
        self._last = clock()
        self._is_running = False

    def tell(self, *, finished: bool = False) -> None:
        """Tell of the tally: every ten seconds at most, and once the run has `finished`."""
        raise NotImplementedError

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        self.tally.started(total_ranges, approximate_keys)
        self._last = self._clock()
        self._is_running = True

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        """See Listener."""
        self.tally.range_started(worker, backup_range)
        self._tell_if_due()

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""
        self.tally.advanced(worker, kvs, plain_bytes)
        self._tell_if_due()

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        self.tally.range_done(worker, done.kvs, done.plain_bytes)
        self._tell_if_due()

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        """See Listener."""
        self.tally.range_failed(worker, backup_range)
        self._tell_if_due()

    def finished(self) -> None:
        """See Listener."""
        if self._is_running:
            self._is_running = False
            self.tell(finished=True)

    def _tell_if_due(self) -> None:
        if self._clock() - self._last >= PERIOD_SECONDS:
            self._last = self._clock()
            self.tell()
