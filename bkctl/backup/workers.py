"""A backup's pool of worker processes, started ahead of its work, before there are threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bkctl.pool.pool import WorkerPool, started_pool
from bkctl.pool.worker import Rest


def run_range_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> Rest:
    """Run a RangeJob in a worker; what a worker needs is loaded in workers only."""
    from bkctl.backup.worker import begin_job

    return begin_job(job, emit, cancelled)


def backup_workers(count: int) -> contextlib.AbstractContextManager[WorkerPool]:
    """A pool of `count` workers that start now; none is left at the end of the block."""
    return started_pool(count, run_range_job, "bkctl.backup.worker")
