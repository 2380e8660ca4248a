"""What the raft log says of a plan's regions: which cannot be read, and what each may lack."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bkctl.archive.report import ReplicaNote
from bkctl.cluster.choice import Choice
from bkctl.cluster.regions import RecordSource
from bkctl.errors import CorruptionError
from bkctl.raft.standing import Completeness, Standing
from bkctl.regions.check import Mismatch, learners
from bkctl.regions.plan import BackupRange, Plan


def find_troubles(plan: Plan, standings: Iterable[Standing]) -> list[Mismatch]:
    """The ranges in which a region's raft log could not be applied as TiKV would, in key order."""
    troubled = [standing for standing in standings if standing.trouble]
    return [
        Mismatch(brange, CorruptionError.kind, found[0].trouble)
        for brange in plan.ranges
        if (found := [each for each in troubled if _overlap(brange, each)])
    ]


def replica_notes(
    plan: Plan, standings: Sequence[Standing], store_id: int | None
) -> tuple[ReplicaNote, ...]:
    """What is known of each replica that the plan reads, by where it begins; each region once.

    Without standings, nothing is known but that a learner may lag behind.
    """
    if not standings:
        return tuple(
            ReplicaNote(region_id, Completeness.UNKNOWN.value, "learner")
            for region_id in learners(plan.ranges, store_id)
        )
    return tuple(_note(standing) for standing in _of_plan(plan, standings))


def _of_plan(plan: Plan, standings: Sequence[Standing]) -> Iterator[Standing]:
    # Those that overlap one another are in trouble, or gone: their keys are another's.
    there = sorted(
        (each for each in standings if not each.is_gone), key=lambda each: each.start_key
    )
    starts = [each.start_key for each in there]
    told = -1
    for brange in plan.ranges:
        number = max(told + 1, bisect_left(starts, brange.start_key) - 1)
        while number < len(there) and _begins_before(there[number], brange.end_key):
            if _overlap(brange, there[number]):
                told = number
                yield there[number]
            number += 1


def _begins_before(standing: Standing, end_key: bytes) -> bool:
    return not end_key or standing.start_key < end_key


def _overlap(brange: BackupRange, standing: Standing) -> bool:
    return _begins_before(standing, brange.end_key) and (
        not standing.end_key or brange.start_key < standing.end_key
    )


def _note(standing: Standing) -> ReplicaNote:
    return ReplicaNote(
        *(standing.region_id, standing.completeness.value, standing.role),
        *(standing.applied_to, standing.commit, standing.last_index, standing.above),
    )


def chosen_notes(
    plan: Plan, choices: Mapping[int, Choice], sources: Sequence[RecordSource]
) -> tuple[ReplicaNote, ...]:
    """What is known of each replica that was chosen and that the plan reads."""
    notes: dict[int, ReplicaNote] = {}
    for brange in plan.ranges:
        choice = choices.get(brange.region.id)
        if choice is None or choice.best is None or brange.region.id in notes:
            continue
        standing, best = choice.best.standing, choice.best
        is_complete = choice.has_majority and not standing.above
        replica = Completeness.COMPLETE if is_complete else Completeness.UNKNOWN
        notes[brange.region.id] = dataclasses.replace(
            _note(standing),
            replica=replica.value,
            store_id=sources[best.number].ident.store_id,
            why=choice.why,
        )
    return tuple(notes.values())
