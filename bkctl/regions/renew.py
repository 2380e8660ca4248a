"""Brings a region map up to date by a store's own records, as far as those prove what became of it.

A map says which regions the store led. Where such a region has split since, the store's records
have the parts, and whoever led it leads them at first: the split is an entry of its log, and its
leader has the parts elect it at once. Where two such regions have merged, the store's record has
the one that took the other in, by an entry of its own log. So these records are to be read here as
the map's regions were: for all the keys that were to be read here, and no others.

What must hold, or the region stays as the map has it, and is refused:

- All regions of the map that a record shares keys with are led here, contradicted by the records,
  and older (by version): a record that is older than the map is of no use. They leave no gap in it.
- They are replaced as a whole: records for all of their keys.
- No peer has come, gone or changed since (conf_ver, and the stores): that leads away, too.
- A region that the map does not know has split off one that it knows. Had a third region taken
  these keys in before, its leader would lead it: the store has a tombstone of what was merged then.

Source: TiKV's fsm/apply.rs (exec_batch_split, exec_prepare_merge, exec_commit_merge) and
fsm/peer.rs (on_ready_split_region).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from bkctl.errors import CorruptionError
from bkctl.regions.check import contradiction
from bkctl.regions.local_state import PeerState, parse_region_record, parse_region_state_key
from bkctl.regions.region import Region
from bkctl.regions.region_map import RegionMap, is_before_end


@dataclass(frozen=True, slots=True)
class Renewed:
    """A map in which `taken`, of the store's records, stand for the regions `replaced`."""

    region_map: RegionMap
    replaced: tuple[Region, ...] = ()
    taken: tuple[Region, ...] = ()


def renew(region_map: RegionMap, records: Iterable[tuple[bytes, bytes]], store_id: int) -> Renewed:
    """Replace what can be of the map's regions that the store leads and its records contradict.

    `records` are (key, value) of the store's `raft` family, with its raft log applied. Where one of
    them is damaged, nothing is proved.
    """
    values = {
        region_id: value
        for key, value in records
        if (region_id := parse_region_state_key(key)) is not None
    }
    old = {
        region.id: region
        for region in region_map.regions
        if region.leader is not None
        and region.leader.store_id == store_id
        and _is_contradicted(region, values.get(region.id), store_id)
    }
    if not old:
        return Renewed(region_map)
    try:
        states = [parse_region_record(region_id, value) for region_id, value in values.items()]
    except CorruptionError:
        return Renewed(region_map)  # the check names it where it is asked for
    own = RegionMap.build(_whole(states, store_id), "store")
    if own.dropped:
        return Renewed(region_map)
    gone = [region for state, region in states if state is PeerState.TOMBSTONE]
    usable: dict[int, tuple[Region, list[Region]]] = {}
    for record in own.regions:
        told = list(region_map.within(record.start_key, record.end_key))
        if _follows(record, told, old, gone):
            usable[record.id] = record, told
    _settle(old, usable)
    if not usable:
        return Renewed(region_map)
    kept = [region for region in region_map.regions if region.id not in old]
    taken = [
        structs.replace(record, leader=record.peer_on(store_id)) for record, _ in usable.values()
    ]
    renewed = RegionMap.build([*kept, *taken], region_map.origin)
    if renewed.dropped:
        # An id that the map has elsewhere, too: then nothing is known of either.
        return Renewed(region_map)
    renewed = replace(renewed, dropped=region_map.dropped)
    return Renewed(renewed, tuple(old.values()), tuple(taken))


def _is_contradicted(region: Region, value: bytes | None, store_id: int) -> bool:
    return value is None or contradiction(region, value, store_id) is not None


def _whole(states: Iterable[tuple[PeerState, Region]], store_id: int) -> Iterable[Region]:
    """The regions whose data is whole here, and not about to be merged."""
    for state, region in states:
        peer = region.peer_on(store_id)
        is_voter = peer is not None and peer.role == "Voter" and not peer.is_witness
        if state is PeerState.NORMAL and is_voter:
            yield region


def _follows(
    record: Region, told: Sequence[Region], old: Mapping[int, Region], gone: Sequence[Region]
) -> bool:
    """Whether a record is what splits and merges alone made of these regions, all of them ours."""
    if not told or any(each.id not in old for each in told):
        return False
    if any(each.epoch.version >= record.epoch.version for each in told):
        return False
    if not _is_covered(record, told):
        return False
    same = [each for each in told if each.id == record.id]
    if any(each.epoch.conf_ver != record.epoch.conf_ver for each in same or told):
        return False
    if any(_stores(each) not in ((), _stores(record)) for each in told):
        return False
    oldest = min(each.epoch.version for each in told)
    return bool(same) or not any(
        each.epoch.version > oldest and _overlap(each, record) for each in gone
    )


def _overlap(one: Region, other: Region) -> bool:
    return is_before_end(one.start_key, other.end_key) and is_before_end(
        other.start_key, one.end_key
    )


def _stores(region: Region) -> tuple[tuple[int, str], ...]:
    return tuple(sorted((peer.store_id, peer.role) for peer in region.peers))


def _is_covered(region: Region, by: Sequence[Region]) -> bool:
    """Whether regions in key order, none overlapping another, have all keys of a region."""
    at = region.start_key
    for each in by:
        if each.start_key > at:
            return False
        if not each.end_key:
            return True
        at = each.end_key
    return bool(region.end_key) and at >= region.end_key


def _settle(old: dict[int, Region], usable: dict[int, tuple[Region, list[Region]]]) -> None:
    """Leave what replaces, and is replaced, as a whole."""
    is_less = True
    while is_less:
        ordered = sorted((record for record, _ in usable.values()), key=lambda e: e.start_key)
        records = RegionMap(tuple(ordered))
        lost = [
            region
            for region in old.values()
            if not _is_covered(region, list(records.within(region.start_key, region.end_key)))
        ]
        for region in lost:
            del old[region.id]
        lost_too = [
            record_id
            for record_id, (_, told) in usable.items()
            if any(each.id not in old for each in told)
        ]
        for record_id in lost_too:
            del usable[record_id]
        is_less = bool(lost_too)
