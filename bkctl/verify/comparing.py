"""Plans how a backup is compared with stores: which keys, each with the view that counts for it.

Of several stores an election decides whose view that is, region by region, as for a backup of them
(`bkctl.cluster`). Keys of which no view counts cannot be compared: that is told, and is no
difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.coverage import KeyRange, KeySet
from bkctl.archive.meta import BackupMeta
from bkctl.archive.report import Report
from bkctl.backup.request import RegionMapLoader
from bkctl.cluster.regions import ClusterRegions
from bkctl.cluster.stores import Stores, open_stores
from bkctl.codec.json_text import loads
from bkctl.codec.memcomparable import encode
from bkctl.errors import CorruptionError
from bkctl.raft.standing import refuse_troubled
from bkctl.regions.plan import make_plan, to_raw_key
from bkctl.regions.region_map import is_before_end
from bkctl.store.ident import has_plain_keys
from bkctl.store.source import SourceOptions
from bkctl.verify.against import Segment, Snapshot, segments_of
from bkctl.verify.backup import Description
from bkctl.verify.file import DEFAULT, WRITE

_Keys = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Against:
    """The store to compare a backup with, and `others` of the same cluster.

    With `load_regions`, the ranges that a backup of this store would take are compared too, where
    the backup has no file; without, only what its files cover. With `chooses`, and of several
    stores, the regions are those of the stores' own records, each compared where a backup of these
    stores would read it; see `BackupRequest` for `allow_minority`.
    """

    source: SourceOptions
    load_regions: RegionMapLoader | None = None
    others: tuple[SourceOptions, ...] = ()
    chooses: bool = False
    allow_minority: bool = False


@dataclass(frozen=True, slots=True)
class Comparable:
    """A segment of a backup, and the number of the store whose view it is to be compared with.

    Where none counts, `trouble` says why.
    """

    segment: Segment
    number: int
    snapshot: Snapshot
    trouble: str = ""


def open_against(against: Against, meta: BackupMeta) -> Stores:
    """The stores, pinned; raises what `open_stores` does, and CorruptionError for raft logs.

    A raft log that cannot be applied ends it unless there is a choice: then only its region is not
    compared.
    """
    stores = open_stores(
        (against.source, *against.others),
        chooses=against.chooses,
        allow_minority=against.allow_minority,
    )
    try:
        if stores.regions is None:
            refuse_troubled(stores.standings)
        stores.require(*(() if meta.is_raw_kv else ("lock",)), *chain(*_family_groups(meta)))
    except BaseException:
        stores.close()
        raise
    return stores


def plan_comparison(
    stores: Stores,
    against: Against,
    backup_dir: BackupDir,
    meta: BackupMeta,
    description: Description,
) -> Iterator[Comparable]:
    """The segments to compare, in key order for each family."""
    report = description.report
    plain = has_plain_keys(meta.is_raw_kv, meta.api_version)
    for families in _family_groups(meta):
        windows = list(_windows(backup_dir, meta, families[0]))
        planned = _planned(stores, against, windows, report, plain)
        if not meta.is_raw_kv:
            planned += _late_spans(report)
        snapshot = Snapshot(
            *(meta.start_version, meta.end_version, meta.is_raw_kv),
            *(families[0], meta.api_version),
        )
        for segment in segments_of(planned, meta.files, families):
            own = replace(snapshot, start_ts=_start_of(segment, meta, report))
            if stores.regions is None:
                yield Comparable(segment, 0, own)
                continue
            for part, number, trouble in place_segment(segment, stores.regions, plain):
                yield Comparable(part, number, own, trouble)


def place_segment(
    segment: Segment, chosen: ClusterRegions, is_raw: bool
) -> Iterator[tuple[Segment, int, str]]:
    """The parts of a segment, each with the number of the store to read it from, or why of none.

    The parts are the whole segment, in key order; neighbours of one store are one part.
    """
    waiting: tuple[Segment, int, str] | None = None
    for (start_key, end_key), number, trouble in _pieces(segment, chosen, is_raw):
        part = replace(segment, start_key=start_key, end_key=end_key)
        if waiting is not None and waiting[1:] == (number, trouble):
            waiting = replace(waiting[0], end_key=end_key), number, trouble
            continue
        if waiting is not None:
            yield waiting
        waiting = part, number, trouble
    if waiting is not None:
        yield waiting


def _pieces(
    segment: Segment, chosen: ClusterRegions, is_raw: bool
) -> Iterator[tuple[_Keys, int, str]]:
    """The segment, cut where regions begin and end."""
    at = segment.start_key
    start, end = (
        key if is_raw or not key else encode(key) for key in (segment.start_key, segment.end_key)
    )
    for region in chosen.region_map.within(start, end):
        first = max(at, to_raw_key(region.start_key, is_raw))
        if first > at:
            yield (at, first), 0, _why_none(chosen, at, first, is_raw)
        is_last = is_before_end(end, region.end_key) if end else not region.end_key
        behind = segment.end_key if is_last else to_raw_key(region.end_key, is_raw)
        refusal = chosen.refused.get(region.id)
        trouble = "" if refusal is None else f"region {region.id}: {refusal.message}"
        yield (first, behind), chosen.numbers.get(region.id, 0), trouble
        if is_last or behind == segment.end_key:
            return
        at = behind
    yield (at, segment.end_key), 0, _why_none(chosen, at, segment.end_key, is_raw)


def _why_none(chosen: ClusterRegions, start_key: bytes, end_key: bytes, is_raw: bool) -> str:
    for each in chosen.skipped:
        if each.keys is None:
            continue
        first, behind = (to_raw_key(key, is_raw) for key in each.keys)
        if is_before_end(start_key, behind) and is_before_end(first, end_key):
            return f"region {each.region_id}: {each.reason}"
    return "no store at hand has a region of them"


def trouble_of(part: Comparable) -> str:
    """That a part cannot be compared, and why."""
    keys = KeySet((KeyRange(part.segment.start_key, part.segment.end_key),))
    return f"keys {keys} were not compared: {part.trouble}"


def _planned(
    stores: Stores,
    against: Against,
    windows: Sequence[_Keys],
    report: Report | None,
    is_raw: bool,
) -> list[_Keys]:
    """The ranges, in raw user keys, that the backup was to cover; none without a region map."""
    if against.load_regions is None:
        return []
    covered = [
        (each.keys.start_key, each.keys.end_key)
        for each in (report.covered or () if report is not None else ())
    ]
    store_id: int | None = 0 if report is None else report.store_id
    if stores.regions is None:
        region_map, _ = against.load_regions(stores.first)
        store_id = stores.ident.store_id if report is None else store_id
        covered = []
    else:
        if len(stores.sources) > 1 and store_id:
            # Of one store's regions, as PD's map had them: what the report says is what there is.
            return covered
        region_map, store_id = stores.regions.region_map, None
    planned = covered
    for start_key, end_key in windows:
        plan = make_plan(store_id or None, start_key, end_key, region_map, is_raw)
        planned += [(brange.raw_start_key, brange.raw_end_key) for brange in plan.ranges]
    return planned


def _late_spans(report: Report | None) -> list[_Keys]:
    """What of an incremental begins at a timestamp of its own, in raw user keys."""
    if report is None or not report.start_ts:
        return []
    return [
        (each.keys.start_key, each.keys.end_key)
        for each in report.covered or ()
        if each.start_ts != report.start_ts
    ]


def _start_of(segment: Segment, meta: BackupMeta, report: Report | None) -> int:
    """The timestamp after which a backup has the commits of a segment; 0 for all of them."""
    if segment.files:
        return segment.files[0].start_version
    for each in report.covered or () if report is not None else ():
        if segment.start_key in KeySet((each.keys,)):
            return each.start_ts
    return meta.start_version


def _family_groups(meta: BackupMeta) -> list[tuple[str, ...]]:
    """The column families that a backup is of; those that are read together, together."""
    if not meta.is_raw_kv:
        return [(WRITE, DEFAULT)]
    named = {raw_range.cf for raw_range in meta.raw_ranges} | {file.cf for file in meta.files}
    return [(family,) for family in sorted(named) or (DEFAULT,)]


def _windows(backup_dir: BackupDir, meta: BackupMeta, family: str) -> list[_Keys]:
    """The raw user keys that the backup was asked for; all keys where nobody wrote it down."""
    if meta.raw_ranges:
        return [
            (raw_range.start_key, raw_range.end_key)
            for raw_range in meta.raw_ranges
            if raw_range.cf == family
        ]
    try:
        claim: Any = loads(backup_dir.read_claim() or b"")
        settings = claim["settings"]
        return [(bytes.fromhex(settings["start_key"]), bytes.fromhex(settings["end_key"]))]
    except (ValueError, KeyError, TypeError, CorruptionError):
        return [(b"", b"")]
