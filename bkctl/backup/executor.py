"""Who runs the ranges of a backup: worker processes of this machine, or those of many.

What is here is all that a backup knows of them. Stores are opened where they are, ranges are read
where their store is (`View.place`), and what is told of them comes back as events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bkctl.backup.changes import Changes
from bkctl.backup.task import BackupTask
from bkctl.cluster.stores import Stores
from bkctl.pool.pool import PoolEvent
from bkctl.raft.at_hand import StoreAtHand
from bkctl.regions.plan import BackupRange
from bkctl.store.source import SourceOptions


class Runner(Protocol):
    """Runs jobs; see `bkctl.pool.pool.WorkerPool`, which is one."""

    @property
    def busy(self) -> bool:
        """Whether any job is queued or running."""

    @property
    def free(self) -> int:
        """How many more jobs could start at once."""

    def submit(self, job: Any) -> None:
        """Queue a job; it starts when a worker is free. It ends in JobDone or JobLost."""

    def cancel(self) -> None:
        """Tell running jobs to stop soon, and forget the queued ones."""

    def wait(self, timeout: float | None = None) -> list[PoolEvent]:
        """What has happened, once something has or `timeout` seconds have passed."""


class Executor(Runner, Protocol):
    """Opens stores, and runs RangeJobs: each of ranges of one view, whose number it has."""

    def open_stores(
        self,
        options: Sequence[SourceOptions],
        is_cancelled: Callable[[], bool],
        *,
        chooses: bool,
        allow_minority: bool,
    ) -> Stores:
        """See `bkctl.cluster.stores.open_stores`; stores that forgot files are refused, too."""

    def find_changes(
        self, source: StoreAtHand, ranges: Sequence[BackupRange], start_ts: int, end_ts: int
    ) -> Changes:
        """See `bkctl.backup.changes.find_changes`."""

    def jobs_in(self, view: int) -> int:
        """How many jobs with ranges of a view can run at once, at least 1."""

    def room_in(self, view: int) -> int:
        """How many more of them could start; at least 1 where there is none at all."""

    def staff(self, parts: int) -> int:
        """Make ready for work of so many parts; how many jobs run at once then."""

    def settle_locks(
        self,
        task: BackupTask,
        ranges: Sequence[BackupRange],
        stores: Stores,
        routes: Sequence[BackupRange] | None,
    ) -> BackupTask:
        """The task with what is needed to decide the locks in ranges; or decide them now.

        `routes` say where keys count; they are given where the cluster is dead.
        """

    def dismiss(self) -> None:
        """Say that no jobs will come any more, and do not wait for what that leads to."""
