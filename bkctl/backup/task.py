"""What a worker is told: the task all ranges share, the ranges, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.archive.checkpoint import FOLDER
from bkctl.archive.meta import BackupFile
from bkctl.mvcc.lock import DecidedLock
from bkctl.mvcc.raw import RawLayout
from bkctl.pool import signs
from bkctl.pool.events import OperationCounts, PhaseSeconds
from bkctl.regions.plan import BackupRange
from bkctl.sst.writer import Compression
from bkctl.storage.url import StorageSpec
from bkctl.store.database import Database
from bkctl.store.ident import API_V1
from bkctl.store.open_view import open_database

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

DEFAULT_SST_MAX_SIZE = 144 << 20


@dataclass(frozen=True, slots=True)
class View:
    """A store's pinned view: `db_dir` is to be opened, `source` is the store's for messages.

    Locks are decided by the view `deciding_dir`, which leaves no file out. `place` is where all
    this is, if not on this machine.
    """

    db_dir: Path
    source: Path
    store_id: int
    deciding_dir: Path
    place: str = ""


@dataclass(frozen=True, slots=True)
class BackupTask:
    """One backup's settings, the same for all its ranges; timestamps are TSOs, sizes bytes.

    A range is read in the one of `views` whose number it has. `family` is the column family of raw
    mode. Files are made in `staging` and saved under `name`/. With `decides_locks`, locks whose
    transactions' ends the views tell do not block; `routes` (`bkctl.backup.routes`) are given where
    the cluster is dead, so that all have an end. With `cipher` files are encrypted; without, they
    are in `staging` alone if there is a `seal`.
    `api_version` tells how raw pairs are laid out. Finished ranges are recorded in `records`, a
    folder of the backup's. `writer` is in the names of files, so that those of several machines
    differ.
    """

    views: tuple[View, ...]
    start_ts: int
    end_ts: int
    is_raw: bool
    family: str
    compression: Compression
    sst_max_size: int
    storage: StorageSpec
    name: str
    staging: Path
    decides_locks: bool = False
    routes: Path | None = None
    cipher: Cipher | None = None
    api_version: int = API_V1
    seal: Cipher | None = None
    records: str = FOLDER
    writer: int = 0

    @property
    def raw_layout(self) -> RawLayout:
        """How raw pairs are laid out, and which of them count."""
        return RawLayout(self.api_version, self.start_ts, self.end_ts)

    def note_at_hand(self, view: int) -> None:
        """Say what RocksDB is about to be given, for the message if it crashes on it."""
        signs.note(str(self.views[view].source))

    def open_view(self, view: int) -> Database:
        """Open one of the views; raises CorruptionError where it is damaged."""
        return open_database(self.views[view].db_dir, self.views[view].source)


@dataclass(frozen=True, slots=True)
class RangeJob:
    """A batch of ranges for one worker, by their numbers in the run.

    `decided` are the locks in them that were decided before, if they were.
    """

    task: BackupTask
    ranges: tuple[tuple[int, BackupRange], ...]
    decided: tuple[DecidedLock, ...] | None = None


@dataclass(frozen=True, slots=True)
class RangeStarted:
    """A worker begins a range."""

    number: int


@dataclass(frozen=True, slots=True)
class RangeAdvanced:
    """Records and plain bytes emitted so far for a range in work."""

    number: int
    kvs: int
    plain_bytes: int


@dataclass(frozen=True, slots=True)
class RangeDone:
    """A range is saved, in these files (none where nothing was visible)."""

    number: int
    files: tuple[BackupFile, ...]
    decided_locks: tuple[DecidedLock, ...] = ()
    seconds: PhaseSeconds | None = None


@dataclass(frozen=True, slots=True)
class RangeFailed:
    """A range could not be backed up; `kind` is one of `bkctl.errors.KINDS`."""

    number: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class StorageUsed:
    """What a worker did at the storage since it last told."""

    counts: tuple[OperationCounts, ...]


RangeEvent = RangeStarted | RangeAdvanced | RangeDone | RangeFailed | StorageUsed
