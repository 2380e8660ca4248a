"""What the steps of one backup hand on to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FOLDER, FinishedRange
from bkctl.archive.report import ReplicaNote
from bkctl.backup.cover import Cover
from bkctl.backup.executor import Executor
from bkctl.backup.follow import Base
from bkctl.backup.parts import Span, finished_span, span_of
from bkctl.backup.request import BackupRequest
from bkctl.backup.run import RangeFailure
from bkctl.backup.task import View
from bkctl.cluster.regions import ClusterRegions
from bkctl.cluster.stores import Stores
from bkctl.pool.events import Listener
from bkctl.regions.plan import BackupRange, Plan
from bkctl.storage.base import Storage
from bkctl.store.manifest import LiveFile
from bkctl.titan.manifest import BlobFileMeta


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work, whom it is told, and who may call it off."""

    executor: Executor
    listener: Listener
    is_cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Job:
    """A backup whose window and name are settled; `begun` is in unix seconds.

    `store_id` is the store's own, or the one asked for; `base` is what it builds on. `records` is
    the folder of the backup's that finished ranges are recorded in. `home` are the regions of a
    dead cluster that can be looked up here, if others than those chosen among `stores`.
    """

    request: BackupRequest
    stores: Stores
    store_id: int
    storage: Storage
    name: str
    base: Base
    begun: float
    records: str = FOLDER
    home: ClusterRegions | None = None

    @property
    def staging_name(self) -> str:
        """Whose staging folder is used: the parts of a backup have one each."""
        return self.name if self.records == FOLDER else f"{self.name}/{self.records}"


@dataclass(frozen=True, slots=True)
class StoreReads:
    """What is read of one store: the view to open, and the SST files of it that are read.

    `blobs` are the files of values beside those.
    """

    view: View
    files: list[LiveFile]
    blobs: tuple[BlobFileMeta, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The ranges to read, and the stores that they are read from, by number.

    `cover` is what that covers of the request, `refused` are ranges of the plan that the store is
    not to be read for, `minority` the regions of the plan of which fewer than a majority of voters
    are at hand.
    """

    plan: Plan
    reads: tuple[StoreReads, ...]
    cover: Cover
    refused: tuple[RangeFailure, ...] = ()
    replicas: tuple[ReplicaNote, ...] = ()
    notes: tuple[str, ...] = ()
    minority: tuple[int, ...] = ()

    @property
    def ranges(self) -> list[BackupRange]:
        """The ranges to read."""
        refused = {span_of(failure.backup_range) for failure in self.refused}
        return [brange for brange in self.plan.ranges if span_of(brange) not in refused]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The backup's name, taken for this run, and what earlier runs finished under it."""

    backup_dir: BackupDir
    finished: list[FinishedRange]

    def spans(self, has_plain_keys: bool) -> list[Span]:
        """The data keys of what is finished."""
        return [finished_span(record, has_plain_keys) for record in self.finished]
