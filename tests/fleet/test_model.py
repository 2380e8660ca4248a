"""Parts of clusters that were cut off at any moment, run in any order: sealed is exact, or refused.

`BKCTL_FLEET_ROUNDS` says how many clusters are played; the verdicts are the model's own.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bkctl.fleet.council import Council
from bkctl.fleet.election import Waiting, hold
from bkctl.fleet.state import AsOf, State, read_state
from bkctl.raft.standing import Standing
from bkctl.storage.stored import StoredObject
from tests.cluster.judge import Taken, judge
from tests.cluster.stores import Led, Left, elect
from tests.cluster.test_simulated import play

ROUNDS = int(os.environ.get("BKCTL_FLEET_ROUNDS", "48"))
PARTS = 6

_View = dict[tuple[str, bytes], bytes]


class Folder:
    """The states that parts have recorded, as they are stored, and what they have done."""

    def __init__(self) -> None:
        self.states: dict[int, bytes] = {}
        self.done: dict[tuple[int, int], tuple[AsOf, _View]] = {}
        self.own = 0

    def others(self) -> Sequence[State]:
        return [self.read(store) for store in self.states if store != self.own]

    def others_signature(self) -> object:
        return None

    def record(self, state: State) -> None:
        self.states[state.store_id] = state.encode()

    def read(self, store: int) -> State:
        return read_state(StoredObject.of_bytes(self.states[store]), "state")

    def council(self) -> Council:
        return Council.of(map(self.read, self.states), allow_minority=False)


def in_any_order(stores: list[int], rng: random.Random) -> list[int]:
    """Which store's machine runs when: some never, some again."""
    runs = [store for store in stores if rng.random() < 0.9] or stores[:1]
    runs += rng.choices(runs, k=rng.choice((0, 0, 1, 3)))
    rng.shuffle(runs)
    return runs


def take_part(folder: Folder, left: Left) -> None:
    """What a part does: its share in the election, and the regions that it counts for."""
    voice: Any = Led(left)
    ident, _ = voice.read()
    folder.own = ident.store_id

    def make(standings: tuple[Standing, ...], decided: Mapping[int, int]) -> State:
        return State(ident, standings, decided, False, 1, "settings")

    council = hold(voice, make, folder, Waiting(None), allow_minority=False)
    voice.finish()
    own = council.number_of(ident.store_id)
    for region_id in read_of(council, own):
        as_of = council.states[own].as_of(region_id)
        folder.done[ident.store_id, region_id] = as_of, dict(voice.kv.data)


def read_of(council: Council, number: int) -> list[int]:
    """The regions that are to be read from a store."""
    regions = council.regions
    return [
        region.id
        for region in regions.region_map.regions
        if region.id not in regions.refused and regions.numbers.get(region.id) == number
    ]


def to_run(folder: Folder) -> set[int]:
    """The stores that have to run before the backup can be sealed."""
    council = folder.council()
    found = set(council.unsettled)
    for number, state in enumerate(council.states):
        for region_id in read_of(council, number):
            as_of = folder.done.get((state.store_id, region_id), ((), {}))[0]
            if as_of != state.as_of(region_id):
                found.add(state.store_id)
    return found


def taken_of(folder: Folder) -> list[Taken]:
    council = folder.council()
    return [
        Taken(
            *(region.id, region.start_key, region.end_key),
            folder.done[state.store_id, region.id][1],
        )
        for number, state in enumerate(council.states)
        for region in council.regions.region_map.regions
        if region.id in read_of(council, number)
    ]


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_sealed_has_all_that_was_decided(tmp_path: Path, part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part, ROUNDS, PARTS):
        played = play(seed, tmp_path / str(seed))
        rng = random.Random(seed)
        lefts = {left.store.id: left for left in played.lefts}
        folder = Folder()
        for store in in_any_order(sorted(lefts), rng):
            take_part(folder, lefts[store])
        there = [lefts[store] for store in folder.states]
        runs = 0
        while asked := to_run(folder):
            seen["asked"] += 1
            take_part(folder, lefts[rng.choice(sorted(asked))])
            assert (runs := runs + 1) < 8 * len(there), f"seed {seed}: no end of it"
        taken = taken_of(folder)
        verdict = judge(played.cluster, there, taken)
        assert not verdict.wrong, f"seed {seed}: {verdict.wrong}"
        assert not verdict.unjust, f"seed {seed}: {verdict.unjust} refused without a reason"
        _compare(folder, there, taken, seed)
        seen["taken"] += verdict.taken_keys
        seen["refused"] += sum(verdict.reasons.values())
        shutil.rmtree(tmp_path / str(seed))
    print(dict(seen))
    assert seen["taken"] > (seen["taken"] + seen["refused"]) / 5
    assert seen["asked"] > 0 or ROUNDS < 200


def _compare(folder: Folder, lefts: Sequence[Left], taken: Sequence[Taken], seed: int) -> None:
    """The stores together, at one place, come to the same regions, and to the same data."""
    _, regions, views = elect(lefts)
    together = [
        Taken(region.id, region.start_key, region.end_key, views[regions.numbers[region.id]])
        for region in regions.region_map.regions
        if region.id not in regions.refused
    ]
    assert set(folder.council().regions.refused) == set(regions.refused), seed

    def in_short(found: Sequence[Taken]) -> list[tuple[int, bytes, bytes, _View]]:
        return sorted((each.id, each.start, each.end, _data(each)) for each in found)

    assert in_short(taken) == in_short(together), seed


def _data(taken: Taken) -> _View:
    return {
        (family, key): value
        for (family, key), value in taken.records.items()
        if key[:1] == b"z" and taken.has(key[1:])
    }
