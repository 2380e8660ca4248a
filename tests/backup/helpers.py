"""Taking backups in tests, as a library would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile
from bkctl.archive.report import Report
from bkctl.backup.backup import take_backup
from bkctl.backup.request import BackupRequest, RegionMapLoader
from bkctl.backup.workers import backup_workers
from bkctl.pool.events import DoneRange, JobRange, OperationCounts
from bkctl.regions import pd
from bkctl.regions.region_map import RegionMap, whole_key_space
from bkctl.storage.url import open_storage, parse_storage
from bkctl.store.source import SourceOptions


class Quiet:
    """A listener that only counts; `on_advance` is called for what workers tell of a range."""

    def __init__(self, on_event: Callable[[str], None] = lambda name: None) -> None:
        self.on_event = on_event
        self.failed: list[str] = []

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        self.on_event("started")

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        self.on_event("range_started")

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        self.on_event("advanced")

    def range_done(self, worker: int, done: DoneRange) -> None:
        self.on_event("range_done")

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        self.failed.append(message)
        self.on_event("range_failed")

    def finished(self) -> None:
        self.on_event("finished")

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        self.on_event("storage_used")


def regions_from(path: Path) -> RegionMapLoader:
    return lambda source: (RegionMap.build(pd.load(path)), [])


def whole(source: object) -> tuple[RegionMap, list[Any]]:
    return whole_key_space(), []


def request(store: Path, repository: Path, **options: Any) -> BackupRequest:
    map_file = store.parent / f"{store.name}.regions.json"
    options.setdefault("load_regions", regions_from(map_file) if map_file.exists() else whole)
    options.setdefault("start_ts", 0)
    return BackupRequest(
        source=SourceOptions(store), storage=parse_storage(str(repository)), **options
    )


def backup(store: Path, repository: Path, **options: Any) -> Report:
    return take_backup(request(store, repository, **options), Quiet())


def cut_short(store: Path, repository: Path, **options: Any) -> Report:
    """A backup with two workers, of which one begins only once it is cancelled: not all is done."""
    seen: list[str] = []
    with backup_workers(2) as executor:
        held = executor.pool.process_ids[1]
        os.kill(held, signal.SIGSTOP)

        def one_is_done() -> bool:
            if "range_done" in seen:
                os.kill(held, signal.SIGCONT)
            return "range_done" in seen

        begun = request(store, repository, jobs=2, **options)
        return take_backup(begun, Quiet(seen.append), one_is_done, executor)


def files_of(repository: Path, name: str) -> tuple[BackupFile, ...]:
    with open_storage(parse_storage(str(repository))) as storage:
        return BackupDir(storage, name).read_meta().files
