"""Judges by the model what bkctl made of its stores; knows nothing of how bkctl chooses.

What is taken must have all that was decided; what is refused must be so with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.cluster.commands import Change, Compact, Region, Write, changed
from tests.cluster.simulator import Cluster
from tests.cluster.stores import Left
from tests.cluster.writes import KEYS

_Records = Mapping[tuple[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Taken:
    """A region that is read: its encoded bounds, and what the view that it is read of holds."""

    id: int
    start: bytes
    end: bytes
    records: _Records

    def has(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


@dataclass(slots=True)
class Verdict:
    """What is wrong, and why regions were refused, by how many keys."""

    wrong: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    unjust: list[int] = field(default_factory=list)
    taken_keys: int = 0


def judge(cluster: Cluster, lefts: Sequence[Left], taken: Sequence[Taken]) -> Verdict:
    """Look at each key: who has it, and whether that is right."""
    verdict = Verdict()
    stores = {left.store.id for left in lefts}
    tails = _tails(cluster, lefts)
    for key in KEYS:
        own = [each for each in taken if each.has(key)]
        region = next(
            r.region for r in cluster.truth.replicas.values() if r.is_there and r.region.has(key)
        )
        if len(own) > 1:
            verdict.wrong.append(f"key {key!r} is taken twice: {own[0].id}, {own[1].id}")
        elif own:
            verdict.taken_keys += 1
            if not region.has_quorum(stores):
                verdict.wrong.append(f"region {region.id} is taken, as {own[0].id}, of a minority")
            verdict.wrong += _differences(cluster, key, own[0], tails)
        else:
            reason = _reason(cluster, region, lefts)
            verdict.reasons[reason or "none"] += 1
            if not reason and region.id not in verdict.unjust:
                verdict.unjust.append(region.id)
    return verdict


def _tails(cluster: Cluster, lefts: Sequence[Left]) -> dict[tuple[str, bytes], set[bytes | None]]:
    """What logs at hand would write that was not decided."""
    found: dict[tuple[str, bytes], set[bytes | None]] = {}
    for left in lefts:
        for region_id, replica in left.store.replicas.items():
            applied = (
                cluster.truth.replicas[region_id].applied
                if (region_id in cluster.truth.replicas)
                else 0
            )
            for at, entry in replica.entries.items():
                if at > applied and isinstance(entry.command, Write):
                    write = entry.command
                    record = write.family, b"z" + write.key
                    found.setdefault(record, set()).add(write.value)
    return found


def _differences(
    cluster: Cluster, key: bytes, own: Taken, tails: Mapping[tuple[str, bytes], set[bytes | None]]
) -> list[str]:
    def of_key(records: _Records) -> dict[tuple[str, bytes], bytes]:
        return {each: value for each, value in records.items() if each[1][1:-8] == key}

    truth, view = of_key(cluster.truth.data), of_key(own.records)
    return [
        f"region {own.id}: {record} is {view.get(record)!r}, decided was {truth.get(record)!r}"
        for record in truth.keys() | view.keys()
        if view.get(record) != truth.get(record)
        and view.get(record) not in tails.get(record, set())
    ]


def _reason(
    cluster: Cluster, region: Region, lefts: Sequence[Left], seen: tuple[int, ...] = ()
) -> str:
    """Why a region need not be taken; empty if it ought to be."""
    if region.id in seen:
        return ""
    truth = cluster.truth.replicas[region.id]
    stores = {left.store.id for left in lefts}
    if not region.has_quorum(stores):
        return "no majority"
    there = [
        (left, replica)
        for left in lefts
        if (replica := left.store.replicas.get(region.id)) and replica.is_there
    ]
    known = max((left.known.get(region.id, 0) for left, _ in there), default=0)
    told = [each for at, each in cluster.history[region.id] if at <= known]
    if told and not told[-1].has_quorum(stores):
        return "a change of peers is not known to be committed"
    for peers in (*told[-1:], region):
        every = set().union(*peers.voters)
        voters = [replica for left, replica in there if left.store.id in every]
        newest = max((replica.log for replica in voters), default=(0, 0))
        if voters and not any(r.has_data for r in voters if r.log == newest):
            return "waits for a snapshot"
    tail = [
        entry
        for _, replica in there
        for at, entry in replica.entries.items()
        if at > truth.applied and entry.fits(region)
    ]
    for entry in tail:
        if isinstance(entry.command, Change):
            after = changed(region, entry.command)
            if after is not None and not after.has_quorum(stores):
                return "a change of peers may have been made"
    if any(entry.is_admin and not isinstance(entry.command, Compact) for entry in tail):
        return "undecided changes"
    return _reason_of_others(cluster, region, lefts, (*seen, region.id))


def _reason_of_others(
    cluster: Cluster, region: Region, lefts: Sequence[Left], seen: tuple[int, ...]
) -> str:
    """Why the region that this one was made of, or is to be merged into, need not be taken."""
    truth = cluster.truth.replicas
    if not any(("raft", _state_key(region.id)) in left.records for left in lefts):
        parent = cluster.parents.get(region.id)
        why = "" if parent is None else _reason(cluster, truth[parent].region, lefts, seen)
        return why and "was not made at hand by its parent's log"
    target = truth[region.id].merge
    if target is None:
        return ""
    into = truth[target[1].id]
    why = "gone" if not into.is_there else _reason(cluster, into.region, lefts, seen)
    return why and "may be merged"


def _state_key(region_id: int) -> bytes:
    return b"\x01\x03" + region_id.to_bytes(8, "big") + b"\x01"
