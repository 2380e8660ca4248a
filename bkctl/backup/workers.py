"""Runs a backup's ranges in processes of this machine, which start ahead of their work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bkctl.backup.changes import Changes, find_changes_here
from bkctl.backup.orphans import refuse_forgotten_files
from bkctl.backup.routes import NAME as ROUTES
from bkctl.backup.routes import encode_routes
from bkctl.backup.task import BackupTask
from bkctl.cluster.stores import Elect, Stores, open_stores
from bkctl.pool.pool import PoolEvent, WorkerPool, started_pool
from bkctl.pool.worker import Rest
from bkctl.raft.at_hand import StoreAtHand
from bkctl.regions.plan import BackupRange
from bkctl.store.source import SourceOptions


def run_range_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> Rest:
    """Run a RangeJob in a worker; what a worker needs is loaded in workers only."""
    from bkctl.backup.worker import begin_job

    return begin_job(job, emit, cancelled)


def range_workers(count: int) -> contextlib.AbstractContextManager[WorkerPool]:
    """A pool of `count` workers that start now; none is left at the end of the block."""
    return started_pool(count, run_range_job, "bkctl.backup.worker")


class LocalExecutor:
    """An Executor: stores are those of this machine, any worker reads any of them."""

    def __init__(self, pool: WorkerPool, jobs: int, elect: Elect | None = None) -> None:
        """`jobs` is how many are to run at once; see LocalStores for `elect`."""
        self.pool = pool
        self._jobs = jobs
        self._elect = elect

    def electing(self, elect: Elect) -> LocalExecutor:
        """The same workers, for a store that takes part in an election held elsewhere."""
        return LocalExecutor(self.pool, self._jobs, elect)

    @property
    def busy(self) -> bool:
        """See Runner."""
        return self.pool.busy

    @property
    def free(self) -> int:
        """See Runner."""
        return self.pool.free

    def submit(self, job: Any) -> None:
        """See Runner."""
        self.pool.submit(job)

    def cancel(self) -> None:
        """See Runner."""
        self.pool.cancel()

    def wait(self, timeout: float | None = None) -> list[PoolEvent]:
        """See Runner."""
        return self.pool.wait(timeout)

    def open_stores(
        self,
        options: Sequence[SourceOptions],
        is_cancelled: Callable[[], bool],
        *,
        chooses: bool,
        allow_minority: bool,
    ) -> Stores:
        """See Executor."""
        stores = open_stores(
            options,
            is_cancelled,
            chooses=chooses,
            allow_minority=allow_minority,
            elect=self._elect,
        )
        try:
            for source in stores.own:
                if not source.options.point_in_time:
                    refuse_forgotten_files(source)
        except BaseException:
            stores.close()
            raise
        return stores

    def find_changes(
        self, source: StoreAtHand, ranges: Sequence[BackupRange], start_ts: int, end_ts: int
    ) -> Changes:
        """See Executor."""
        return find_changes_here(source, ranges, start_ts, end_ts)

    def jobs_in(self, view: int) -> int:
        """See Executor."""
        return self._jobs

    def room_in(self, view: int) -> int:
        """See Executor."""
        return self.pool.free

    def staff(self, parts: int) -> int:
        """See Executor."""
        jobs = max(1, min(self._jobs, parts))
        self.pool.adjust_with(jobs)
        return jobs

    def settle_locks(
        self,
        task: BackupTask,
        ranges: Sequence[BackupRange],
        stores: Stores,
        routes: Sequence[BackupRange] | None,
    ) -> BackupTask:
        """See Executor: workers decide them, by all views."""
        if routes is None:
            return task
        # Keys of an encrypted store are in no plain file.
        keeper = next((source for source in stores.sources if source.is_encrypted), stores.first)
        return replace(task, routes=keeper.add_file(ROUTES, encode_routes(routes)))

    def dismiss(self) -> None:
        """See Executor."""
        self.pool.dismiss()


@contextlib.contextmanager
def backup_workers(count: int) -> Iterator[LocalExecutor]:
    """Processes that start now; none is left at the end of the block."""
    with range_workers(count) as pool:
        yield LocalExecutor(pool, count)
