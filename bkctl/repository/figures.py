"""What a backupmeta adds up to, found out without holding it: one may name millions of files."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.names import META_NAME
from bkctl.archive.report import KeyRange
from bkctl.errors import CorruptionError
from bkctl.proto import backup_pb2
from bkctl.repository.contents import Totals, parse_origin

_MAX_FAMILIES = 64
_BUCKETS = 256


@dataclass(frozen=True, slots=True)
class MetaFigures:
    """A backup's figures; timestamps are TSOs, sizes bytes.

    `families` are those of the raw ranges; `window` is the raw range, if it is one. `store_id` is
    that which all files are named after, None if there is no such.
    """

    cluster_id: int
    start_version: int
    end_version: int
    is_raw_kv: bool
    backup_size: int
    totals: Totals
    families: tuple[str, ...]
    window: KeyRange | None
    store_id: int | None


def read_figures(backup_dir: BackupDir) -> MetaFigures:
    """Read a backup's figures; raises as `BackupDir.load_meta` does."""
    sums = _Sums()
    head = backup_dir.walk_meta(sums)
    if sums.has_twins():
        raise CorruptionError(f"{backup_dir.where}: {META_NAME}: names a file twice")
    return MetaFigures(
        cluster_id=head.cluster_id,
        start_version=head.start_version,
        end_version=head.end_version,
        is_raw_kv=head.is_raw_kv,
        backup_size=head.backup_size,
        totals=Totals(sums.files, sums.total_kvs, sums.total_bytes, sums.size),
        families=tuple(sorted(sums.families)),
        window=sums.window if sums.raw_ranges == 1 else None,
        store_id=sums.stores.pop() if len(sums.stores) == 1 else None,
    )


class _Sums:
    """See `meta_walk.Sink`. Of a name only its hash is kept: eight bytes, as they are so many."""

    def __init__(self) -> None:
        self.files = self.total_kvs = self.total_bytes = self.size = self.raw_ranges = 0
        self.stores: set[int | None] = set()
        self.families: set[str] = set()
        self.window: KeyRange | None = None
        self._hashes = [array("Q") for _ in range(_BUCKETS)]

    def is_new(self, name: str) -> bool:
        """See Sink; that a name has come before is told by `has_twins`, in the end."""
        number = hash(name) & 0xFFFFFFFFFFFFFFFF
        self._hashes[number % _BUCKETS].append(number)
        return True

    def has_twins(self) -> bool:
        """Whether a name came twice; among a million, two seem so by chance once in 10^7 times."""
        return any(
            first == second for bucket in self._hashes for first, second in pairwise(sorted(bucket))
        )

    def add_file(self, file: backup_pb2.File) -> None:
        """See Sink."""
        self.files += 1
        self.total_kvs += file.total_kvs
        self.total_bytes += file.total_bytes
        self.size += file.size
        if len(self.stores) < 2:
            origin = parse_origin(file.name)
            self.stores.add(origin.store_id if origin else None)

    def add_raw_range(self, raw_range: backup_pb2.RawRange) -> None:
        """See Sink."""
        self.raw_ranges += 1
        self.families.add(raw_range.cf)
        if len(self.families) > _MAX_FAMILIES:
            raise CorruptionError(f"names more than {_MAX_FAMILIES} column families")
        if self.raw_ranges == 1:
            self.window = KeyRange(raw_range.start_key, raw_range.end_key)
