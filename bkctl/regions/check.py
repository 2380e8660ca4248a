"""Holds a plan against what the store itself says of its regions, as TiKV does at each request.

A region map is what PD last heard. A store that has, meanwhile or after all, another region there,
an older or newer one, or none with its data, must not be read for it. The kinds are those of TiKV's
errors; which one comes when is its `check_region_epoch`'s and its peers' rule: for reading, the
epoch's version counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bkctl.errors import CorruptionError
from bkctl.regions.local_state import PeerState, parse_region_record, parse_region_state_key
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region

REGION_NOT_FOUND, EPOCH_NOT_MATCH, NOT_LEADER = "region_not_found", "epoch_not_match", "not_leader"

_STATES = {
    PeerState.APPLYING: "is applying a snapshot, and its data is not whole",
    PeerState.UNAVAILABLE: "is unavailable, and waits for its data",
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A range that the store is not to be read for; `kind` is one of `bkctl.errors.KINDS`."""

    backup_range: BackupRange
    kind: str
    message: str


def find_mismatches(
    ranges: Sequence[BackupRange], records: Iterable[tuple[bytes, bytes]], store_id: int | None
) -> list[Mismatch]:
    """What of a plan made from PD's map the store's own records contradict, in key order.

    `records` are (key, value) of the store's `raft` family. Nothing is told of a store that has
    no record of any region. `store_id` None is not known.
    """
    waiting: dict[int, list[BackupRange]] = {}
    for brange in ranges:
        waiting.setdefault(brange.region.id, []).append(brange)
    found: list[Mismatch] = []
    has_records = False
    for key, value in records:
        region_id = parse_region_state_key(key)
        if region_id is None:
            continue
        has_records = True
        told = waiting.pop(region_id, None)
        if told is not None and (what := contradiction(told[0].region, value, store_id)):
            found += (Mismatch(brange, *what) for brange in told)
    if has_records:
        message = "this store has no such region; fetch the region map again from PD"
        for missing in waiting.values():
            found += (Mismatch(brange, REGION_NOT_FOUND, message) for brange in missing)
    return sorted(found, key=lambda mismatch: mismatch.backup_range.start_key)


def contradiction(told: Region, value: bytes, store_id: int | None) -> tuple[str, str] | None:
    """What a store's record, `value`, contradicts of a region that it is to be read for.

    The error's kind and message; None where it contradicts nothing.
    """
    try:
        state, own = parse_region_record(told.id, value)
    except CorruptionError as e:
        return CorruptionError.kind, str(e)
    advice = "fetch the region map again from PD"
    if state is PeerState.TOMBSTONE:
        return REGION_NOT_FOUND, f"this store has removed its replica; {advice}"
    if own.epoch.version != told.epoch.version:
        return EPOCH_NOT_MATCH, (
            f"the region map has epoch {told.epoch}, this store epoch {own.epoch}; {advice}"
        )
    if (own.start_key, own.end_key) != (told.start_key, told.end_key):
        return EPOCH_NOT_MATCH, f"the region map has other bounds than this store; {advice}"
    if state in _STATES:
        return NOT_LEADER, f"the replica here {_STATES[state]}; back up the leader's store"
    peer = None if store_id is None else own.peer_on(store_id)
    if store_id is not None and own.peers and (peer is None or peer.role == "Learner"):
        what = "no replica" if peer is None else "only a learner"
        return NOT_LEADER, f"this store has {what} of the region, no leader; {advice}"
    if peer is not None and peer.is_witness:
        return NOT_LEADER, f"the replica here is a witness, which holds no data; {advice}"
    return None


def learners(ranges: Iterable[BackupRange], store_id: int | None) -> list[int]:
    """The regions among a plan's of which the store has a learner: it may lag behind."""
    if store_id is None:
        return []
    found: dict[int, None] = {}
    for brange in ranges:
        peer = brange.region.peer_on(store_id)
        if peer is not None and peer.role == "Learner":
            found[brange.region.id] = None
    return list(found)
