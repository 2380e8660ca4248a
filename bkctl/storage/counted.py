"""A storage that is opened for a job, and whoever watches told what was done there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bkctl.pool.events import OperationCounts
from bkctl.storage.base import Storage
from bkctl.storage.metrics import Metrics
from bkctl.storage.url import StorageSpec, open_storage


@contextmanager
def counted_storage(
    spec: StorageSpec, tell: Callable[[Sequence[OperationCounts]], None]
) -> Iterator[Storage]:
    """Open a storage for the block; `tell` is told at its end what was done there.

    Raises what `open_storage` raises.
    """
    metrics = Metrics()
    try:
        with open_storage(spec, metrics) as storage:
            yield storage
    finally:
        tell(metrics.snapshot())
