"""What a backup's files add up to: by column family, and by the region they were made from.

    {store id}_{region id}_{epoch version}_{sha256 of raw start key}_{unix ms}_{cf}.sst

is a file's name as TiKV gives it, sometimes in a folder. Other names are no error: such files only
belong to no known region.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bkctl.archive.meta import BackupFile
from bkctl.archive.report import KeyRange

_NAME = re.compile(
    r"(?P<store>\d{1,20})_(?P<region>\d{1,20})_(?P<version>\d{1,20})_[0-9a-f]{64}_\d{1,20}"
    r"(_(?P<cf>[A-Za-z0-9_-]+))?\.sst"
)


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """Where a file says it comes from; `cf` is empty where the name has none."""

    store_id: int
    region_id: int
    epoch_version: int
    cf: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Files, records, plain bytes (raw user keys and values) and bytes as stored, added up."""

    files: int = 0
    total_kvs: int = 0
    total_bytes: int = 0
    size: int = 0

    def plus(self, file: BackupFile) -> Totals:
        """These totals and one file more."""
        return Totals(
            self.files + 1,
            self.total_kvs + file.total_kvs,
            self.total_bytes + file.total_bytes,
            self.size + file.size,
        )


@dataclass(frozen=True, slots=True)
class FamilyTotals:
    """The files of one column family."""

    cf: str
    totals: Totals


@dataclass(frozen=True, slots=True)
class RegionTotals:
    """The files of one region of one store; `keys` reaches from their first key to their last."""

    store_id: int
    region_id: int
    epoch_version: int
    keys: KeyRange
    totals: Totals


def parse_origin(file_name: str) -> FileOrigin | None:
    """Read a file's name; None for one that is not in TiKV's form."""
    match = _NAME.fullmatch(file_name.rpartition("/")[2])
    if match is None:
        return None
    return FileOrigin(
        int(match["store"]), int(match["region"]), int(match["version"]), match["cf"] or ""
    )


def family_of_file(file: BackupFile) -> str:
    """The column family a file belongs to: what backupmeta says, else its name, else `default`."""
    origin = parse_origin(file.name)
    return file.cf or (origin.cf if origin else "") or "default"


def total(files: Iterable[BackupFile]) -> Totals:
    """Add up files."""
    totals = Totals()
    for file in files:
        totals = totals.plus(file)
    return totals


def total_by_family(files: Iterable[BackupFile]) -> list[FamilyTotals]:
    """Add up files by column family, sorted by its name."""
    by_family: dict[str, Totals] = {}
    for file in files:
        cf = family_of_file(file)
        by_family[cf] = by_family.get(cf, Totals()).plus(file)
    return [FamilyTotals(cf, totals) for cf, totals in sorted(by_family.items())]


def total_by_region(files: Iterable[BackupFile]) -> list[RegionTotals]:
    """Add up files by region, in key order; files of no known region are left out."""
    by_region: dict[tuple[int, int, int], RegionTotals] = {}
    for file in files:
        origin = parse_origin(file.name)
        if origin is None:
            continue
        place = (origin.store_id, origin.region_id, origin.epoch_version)
        known = by_region.get(place)
        keys = KeyRange(file.start_key, file.end_key)
        by_region[place] = RegionTotals(
            *place,
            keys if known is None else _joined(known.keys, keys),
            (Totals() if known is None else known.totals).plus(file),
        )
    return sorted(by_region.values(), key=lambda region: (region.keys.start_key, region.region_id))


def _joined(one: KeyRange, other: KeyRange) -> KeyRange:
    """The smallest range over two; an empty end is infinity."""
    unbounded = not one.end_key or not other.end_key
    return KeyRange(
        min(one.start_key, other.start_key), b"" if unbounded else max(one.end_key, other.end_key)
    )
