"""A merge's pool of worker processes, started ahead of its work, before there are threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bkctl.pool.pool import WorkerPool, started_pool


def run_merge_job(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Run a merge's RangeJob in a worker; what a worker needs is loaded in workers only."""
    from bkctl.merge.worker import run_portion

    run_portion(job, emit, cancelled)


def merge_workers(count: int) -> contextlib.AbstractContextManager[WorkerPool]:
    """A pool of `count` workers that start now; none is left at the end of the block."""
    return started_pool(count, run_merge_job, "bkctl.merge.worker")
