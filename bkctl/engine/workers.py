"""Pools of worker processes, started ahead of their work, before there are threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bkctl.engine.pool import Rest, Target, WorkerPool


def run_range_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> Rest:
    """Run a RangeJob in a worker; what a worker needs is loaded in workers only."""
    from bkctl.engine.worker import begin_job

    return begin_job(job, emit, cancelled)


def run_merge_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Run a merge's RangeJob in a worker, as above."""
    from bkctl.engine.merge_worker import run_portion

    run_portion(job, emit, cancelled)


def backup_workers(count: int) -> contextlib.AbstractContextManager[WorkerPool]:
    """A backup's pool of `count` workers that start now; none is left at the end of the block."""
    return _workers(count, run_range_job, "bkctl.engine.worker")


def merge_workers(count: int) -> contextlib.AbstractContextManager[WorkerPool]:
    """A merge's pool, as a backup's."""
    return _workers(count, run_merge_job, "bkctl.engine.merge_worker")


@contextlib.contextmanager
def _workers(count: int, target: Target, preload: str) -> Iterator[WorkerPool]:
    pool = WorkerPool(target, preload=preload)
    try:
        pool.warm_up(count)
        yield pool
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.close()
