"""Measures what Dask costs a range: many small ranges to noop://, by both executors in one run.

python -m tests.executor.overhead [RANGES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bkctl.backup.backup import take_backup
from bkctl.backup.executor import Executor
from bkctl.backup.request import BackupRequest
from bkctl.backup.workers import backup_workers
from bkctl.commands.options import load_region_map
from bkctl.executor.cluster_file import ClusterStore, Place
from bkctl.executor.dask import dask_executor
from bkctl.pool.events import SilentListener
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions
from examples.tikv_store import TikvStore
from tests.executor.machines import dask_cluster

STORE = 4


class Stopwatch(SilentListener):
    """The seconds from the workers' start to the last range's end."""

    seconds = 0.0

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        self.seconds = -time.monotonic()

    def finished(self) -> None:
        self.seconds += time.monotonic()


def make_store(path: Path, count: int) -> None:
    """A store of so many regions, each with one row."""
    keys = [f"t{number:06d}".encode() for number in range(count)]
    ends = [*keys[1:], b""]
    with TikvStore(path, store_id=STORE) as store:
        with store.batched():
            for key in keys:
                store.must_prewrite_put(key, b"v", key, 10)
                store.must_commit(key, 10, 11)
        starts = [b"", *keys[1:]]
        store.set_regions(
            [(10 + n * 10, starts[n], ends[n], 5) for n in range(count)],
        )


def measure(store: Path, executor: Executor) -> tuple[float, int]:
    """(seconds, ranges) of one backup."""
    watch = Stopwatch()
    request = BackupRequest(
        source=SourceOptions(store),
        load_regions=lambda source: load_region_map("store", source),
        chooses=True,
        storage=parse_storage("noop://"),
        start_ts=0,
        end_ts=100,
        jobs=2,
    )
    report = take_backup(request, watch, executor=executor)
    assert report.status == "ok", report.errors
    return watch.seconds, report.ranges.done


def main(count: int) -> None:
    """Print what each executor took, twice, and what Dask cost a range."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        make_store(store, count)
        with dask_cluster(Path(folder) / "dask") as cluster:
            cluster.start_worker("w", f"store-{STORE}=2")
            address = cluster.executor.replace("dask://", "tcp://")
            place = ClusterStore(STORE, (Place("*", {"path": store}),))
            for _ in range(2):
                with backup_workers(2) as local:
                    here, ranges = measure(store, local)
                with dask_executor(address, [place]) as remote:
                    there, _ = measure(store, remote)
                show(here, there, ranges)


def show(here: float, there: float, ranges: int, say: Callable[[str], None] = print) -> None:
    """Print one comparison."""
    per_range = (there - here) / ranges * 1000
    say(
        f"{ranges} ranges: local {here:.2f} s ({here / ranges * 1000:.2f} ms each), "
        f"dask {there:.2f} s ({there / ranges * 1000:.2f} ms each): {per_range:+.2f} ms a range"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
