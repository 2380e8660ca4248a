"""What a backup is asked to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.names import check_backup_name
from bkctl.backup.balance import MIN_PART_SIZE
from bkctl.backup.run import DEFAULT_BATCH_SIZE
from bkctl.backup.task import DEFAULT_SST_MAX_SIZE
from bkctl.backup.wait import Patience
from bkctl.cluster.regions import RecordSource
from bkctl.codec.tso import format_ts
from bkctl.errors import UsageError
from bkctl.regions.region_map import RegionMap, Skipped
from bkctl.sst.writer import Compression
from bkctl.storage.url import StorageSpec
from bkctl.store.ident import API_V1, has_plain_keys
from bkctl.store.source import SourceOptions

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

RegionMapLoader = Callable[[RecordSource], tuple[RegionMap, list[Skipped]]]


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up, and where to; timestamps are TSOs, keys raw user keys, sizes bytes.

    `rate_limit` is in bytes a second over all workers, for what goes to the storage.

    `load_regions` gives the region map once the store is open, each time as it is then; `asks_pd`
    is whether it asks PD for it. `name` None names the backup after its end timestamp and kind;
    `store_id` None is the store's own. `read_all` reads for an incremental backup what cannot have
    changed, too.

    `resume` takes up the unfinished backup `name`; `resume_newest` the one of the same data that
    was begun last, with its end, if there is one.

    `incremental` sets `start_ts` to where the newest backup of the same data in the storage ends;
    it is a full backup if there is none, or the chain's is `full_every` seconds old. With
    `gc_safe_point` (a TSO) a window that garbage collection reaches into is refused.

    `wait_locks` tries locked ranges again for a time. `resolve_locks` decides locks by what the
    store knows of their transactions, as TiKV would. With `cipher` files are encrypted.

    `api_version` is the store's, once it is open.

    `allow_gaps` publishes what there is though keys of the window are not covered, as no region of
    the map has them, or as they are not this store's to back up.

    `others` are more stores of the same cluster. With `chooses` the regions are those of the
    stores' own records, each read where its newest log is; regions of which fewer than a majority
    of voters are at hand are refused, unless `allow_minority`.

    `part_size` is what ranges are not cut below, to be done by several workers.
    """

    source: SourceOptions
    load_regions: RegionMapLoader
    storage: StorageSpec
    start_ts: int
    end_ts: int
    name: str | None = None
    store_id: int | None = None
    start_key: bytes = b""
    end_key: bytes = b""
    is_raw: bool = False
    family: str = "default"
    compression: Compression = dataclasses.field(default_factory=Compression)
    sst_max_size: int = DEFAULT_SST_MAX_SIZE
    jobs: int = 1
    batch_size: int = DEFAULT_BATCH_SIZE
    resume: bool = False
    resume_newest: bool = False
    rate_limit: int | None = None
    read_all: bool = False
    incremental: bool = False
    full_every: int | None = None
    gc_safe_point: int | None = None
    wait_locks: Patience | None = None
    resolve_locks: bool = False
    cipher: Cipher | None = None
    allow_gaps: bool = False
    api_version: int = API_V1
    part_size: int = MIN_PART_SIZE
    others: tuple[SourceOptions, ...] = ()
    chooses: bool = False
    allow_minority: bool = False
    asks_pd: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            check_backup_name(self.name)
        if self.start_ts > self.end_ts:
            raise UsageError(
                f"--start-ts {self.start_ts} ({format_ts(self.start_ts)}) lies after --end-ts "
                f"{self.end_ts} ({format_ts(self.end_ts)})"
            )
        if self.incremental and self.start_ts:
            raise UsageError("--incremental cannot go with --start-ts; leave one of them out")

    @property
    def kind(self) -> str:
        """`raw`, `full` or `incr`, as in backup names."""
        if self.start_ts > 0:
            return "incr"
        return "raw" if self.is_raw else "full"

    @property
    def has_plain_keys(self) -> bool:
        """Whether keys are stored as they are, and not memcomparable."""
        return has_plain_keys(self.is_raw, self.api_version)
