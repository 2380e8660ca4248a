"""The election among stores that are not all at hand: by the states that their parts recorded.

It is that of `bkctl.cluster.election`, held by files: each part applies its own log as far as what
is recorded decides, and records what came of it. It has ended once nothing that is recorded
decides more than its store has applied. A log that was recorded later than others is as good:
raft's rules hold for logs as of any moments, and so for all that was acknowledged before the first
of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from bkctl.archive.checkpoint import FinishedRange
from bkctl.archive.meta import BackupFile
from bkctl.cluster.choice import Choice, Replica, choose
from bkctl.cluster.regions import ClusterRegions, cluster_regions
from bkctl.fleet.state import State
from bkctl.repository.contents import parse_origin


@dataclass(frozen=True)
class Council:
    """States by their stores' ids, each store once, and what they choose.

    With `allow_minority`, the newest log decides even where fewer than a majority of the voters
    have recorded theirs.
    """

    states: tuple[State, ...]
    allow_minority: bool

    @classmethod
    def of(cls, states: Iterable[State], *, allow_minority: bool) -> Council:
        """The council of these states; of a store that comes twice, the last one counts."""
        by_store = {state.store_id: state for state in states}
        return cls(tuple(by_store[store_id] for store_id in sorted(by_store)), allow_minority)

    @cached_property
    def choices(self) -> dict[int, Choice]:
        """Which replica counts of each region, by the numbers of states."""
        surveys = [state.standings for state in self.states]
        ids = [state.store_id for state in self.states]
        found = choose(surveys, ids, allow_minority=self.allow_minority)
        return {region_id: self._spread(choice) for region_id, choice in found.items()}

    def _spread(self, choice: Choice) -> Choice:
        """The same, by another replica that is as good: so that each store gets its share."""
        best = choice.best
        if best is None or choice.unfit or best.number not in choice.decided:
            return choice
        as_of = self.states[best.number].as_of(choice.region_id)
        alike = [
            Replica(number, standing)
            for number in choice.decided
            if self.states[number].as_of(choice.region_id) == as_of
            and (standing := self.states[number].by_region[choice.region_id]).has_data
            and (standing.state, standing.trouble) == (best.standing.state, "")
        ]
        return replace(choice, best=alike[choice.region_id % len(alike)]) if alike else choice

    @cached_property
    def regions(self) -> ClusterRegions:
        """What the choices come to; CorruptionError for a region that is none."""
        return cluster_regions(self.choices, self.states, allow_minority=self.allow_minority)

    @property
    def is_dead(self) -> bool:
        """Whether no store runs: nothing can be written to these regions any more."""
        return not any(state.is_live for state in self.states)

    @cached_property
    def mark(self) -> int:
        """What tells this outcome from any other: of which state each region is to be read.

        Transactions without an end are presumed to have one by what all of these hold.
        """
        digest = hashlib.sha256()
        for region_id, choice in sorted(self.choices.items()):
            best = None if choice.best is None else self.states[choice.best.number].as_of(region_id)
            digest.update(f"{region_id} {best} {choice.lacking} {choice.unfit}\n".encode())
        return int.from_bytes(digest.digest()[:8], "big")

    def accepts(self, record: FinishedRange, state: State, region_id: int) -> bool:
        """Whether a range was finished as of that state, and what is presumed in it holds still."""
        as_of = state.as_of(region_id)
        if any(_store_of(file) != state.store_id for file in record.files):
            return False
        if not as_of or record.as_of[: len(as_of)] != as_of:
            return False
        if not any(lock.is_presumed for lock in record.decided_locks):
            return True
        return self.is_dead and record.as_of[len(as_of) :] == (self.mark,)

    def home_of(self, store_id: int) -> ClusterRegions:
        """The regions that a store has as those have them that count, by the number 0."""
        own = self.states[self.number_of(store_id)]
        alike = {
            region_id: 0
            for region_id, number in self.regions.numbers.items()
            if own.as_of(region_id) == self.states[number].as_of(region_id)
            and (standing := own.by_region[region_id]).has_data
            and not standing.trouble
        }
        return replace(self.regions, numbers=alike)

    def number_of(self, store_id: int) -> int:
        """The number of a store's state."""
        return [state.store_id for state in self.states].index(store_id)

    def decided_of(self, store_id: int) -> dict[int, int]:
        """Of which regions all of a store's log counts, under which conf_ver; more than it knows.

        What the store has applied to its end, or knows to be decided, is left out.
        """
        return self._open.get(store_id, {})

    @cached_property
    def _open(self) -> dict[int, dict[int, int]]:
        found: dict[int, dict[int, int]] = {}
        for choice in self.choices.values():
            if not (choice.has_majority or self.allow_minority):
                continue
            for number in choice.decided:
                state, region_id = self.states[number], choice.region_id
                standing = state.by_region[region_id]
                is_known = state.decided.get(region_id, -1) >= choice.config.conf_ver
                if not is_known and standing.applied_to < standing.last_index:
                    found.setdefault(state.store_id, {})[region_id] = choice.config.conf_ver
        return found

    @property
    def unsettled(self) -> tuple[int, ...]:
        """The stores that have to apply more of their logs."""
        return tuple(sorted(self._open))

    def is_settled_for(self, store_id: int) -> bool:
        """Whether of each region that a store holds is known which replica counts, for good."""
        held = {
            standing.region_id
            for standing in self.states[self.number_of(store_id)].standings
            if not standing.is_gone
        }
        is_open = any(not held.isdisjoint(regions) for regions in self._open.values())
        lacks = any(
            choice.lacking and not self.allow_minority
            for region_id, choice in self.choices.items()
            if region_id in held
        )
        return not is_open and not lacks

    def is_complete_for(self, store_id: int) -> bool:
        """Whether all voters of each region that a store holds have recorded their states."""
        there = {state.store_id for state in self.states}
        own = self.states[self.number_of(store_id)].by_region
        return all(
            there.issuperset((*choice.config.voters, *choice.config.outgoing))
            for region_id, choice in self.choices.items()
            if region_id in own
        )

    def missing(self) -> tuple[int, ...]:
        """The stores of which no state is recorded and whose voters some region lacks."""
        there = {state.store_id for state in self.states}
        return tuple(
            sorted(
                {
                    store_id
                    for choice in self.choices.values()
                    if choice.lacking
                    for store_id in (*choice.config.voters, *choice.config.outgoing)
                    if store_id not in there
                }
            )
        )


def _store_of(file: BackupFile) -> int | None:
    """After which store a file is named."""
    origin = parse_origin(file.name)
    return None if origin is None else origin.store_id
