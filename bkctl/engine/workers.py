"""A backup's worker processes, started ahead of their work, before there are threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bkctl.engine.pool import WorkerPool

_WORKER = "bkctl.engine.worker"


def run_range_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Run a RangeJob in a worker; what a worker needs is loaded in workers only."""
    from bkctl.engine.worker import run_job

    run_job(job, emit, cancelled)


@contextlib.contextmanager
def backup_workers(count: int) -> Iterator[WorkerPool]:
    """A pool of `count` workers that start now; none is left at the end of the block."""
    pool = WorkerPool(run_range_job, preload=_WORKER)
    try:
        pool.warm_up(count)
        yield pool
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.close()
