"""Plans that are made again: a model of a cluster that changes, its PD, and one store of it.

`BKCTL_REPLAN_ROUNDS` says how many are played.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from bkctl.archive.coverage import KeyRange, KeySet
from bkctl.backup.cover import cover_of
from bkctl.backup.planning import Settled
from bkctl.backup.replan import Wanted, settle
from bkctl.regions.local_state import PeerState, encode_region_local_state, region_state_key
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap

ROUNDS = int(os.environ.get("BKCTL_REPLAN_ROUNDS", "3000"))
KEYS = [b"%02d" % number for number in range(1, 16)]
OWN = 1

Snapshot = tuple[tuple[Region, ...], tuple[Region, ...]]
"""The regions, with their leaders, and the last records of those that store 1 has no more."""


@dataclass
class World:
    """A cluster whose leaders change where peers do, and nowhere else."""

    rng: random.Random
    regions: dict[int, Region] = field(default_factory=dict)
    gone: dict[int, Region] = field(default_factory=dict)
    history: list[Snapshot] = field(default_factory=list)
    next_id: int = 1

    def __post_init__(self) -> None:
        cuts = [b"", *sorted(self.rng.sample(KEYS, self.rng.randint(1, 4))), b""]
        for start, end in pairwise(cuts):
            self._add(start, end, RegionEpoch(self.rng.randint(1, 2), 1), self._peers())
        self.history.append(self.snapshot())

    def snapshot(self) -> Snapshot:
        ordered = sorted(self.regions.values(), key=lambda each: each.start_key)
        return tuple(ordered), tuple(self.gone.values())

    def step(self) -> None:
        self.rng.choice((self.split, self.split, self.merge, self.merge, self.move))()
        self.history.append(self.snapshot())

    def split(self) -> None:
        region = self._any()
        inside = [
            k for k in KEYS if region.start_key < k and (not region.end_key or k < region.end_key)
        ]
        if not inside:
            return
        key, epoch = (
            self.rng.choice(inside),
            replace(region.epoch, version=region.epoch.version + 1),
        )
        parts = [(region.start_key, key), (key, region.end_key)]
        self.rng.shuffle(parts)
        self.regions[region.id] = replace(
            region, start_key=parts[0][0], end_key=parts[0][1], epoch=epoch
        )
        self._add(*parts[1], epoch, region.peers, region.leader)

    def merge(self) -> None:
        one = self._any()
        near = [
            each
            for each in self.regions.values()
            if (each.start_key == one.end_key != b"" or each.end_key == one.start_key != b"")
            and _stores(each) == _stores(one)
        ]
        if not near:
            return
        other = self.rng.choice(near)
        first, last = sorted((one, other), key=lambda each: each.start_key)
        before = replace(
            other.epoch, version=other.epoch.version + 1, conf_ver=other.epoch.conf_ver + 1
        )
        version = max(one.epoch.version, before.version) + 1
        del self.regions[other.id]
        if other.peer_on(OWN):
            self.gone[other.id] = replace(other, epoch=before)
        self.regions[one.id] = replace(
            one,
            start_key=first.start_key,
            end_key=last.end_key,
            epoch=replace(one.epoch, version=version),
        )

    def move(self) -> None:
        region, peers = self._any(), self._peers()
        conf_ver = region.epoch.conf_ver + self.rng.randint(1, 2)
        moved = replace(
            region,
            epoch=replace(region.epoch, conf_ver=conf_ver),
            peers=peers,
            leader=self.rng.choice(peers),
        )
        self.regions[region.id] = moved
        if moved.peer_on(OWN):
            self.gone.pop(region.id, None)
        elif region.peer_on(OWN):
            self.gone[region.id] = replace(moved, leader=None)

    def _any(self) -> Region:
        return self.rng.choice(list(self.regions.values()))

    def _peers(self) -> tuple[Peer, ...]:
        stores = self.rng.choice(((1, 2), (1, 2), (1, 2), (1, 3), (2, 3)))
        return tuple(Peer(100 + store, store) for store in stores)

    def _add(
        self,
        start: bytes,
        end: bytes,
        epoch: RegionEpoch,
        peers: Any,
        leader: Peer | None = None,
    ) -> None:
        self.regions[self.next_id] = Region(
            self.next_id, start, end, epoch, peers, leader or self.rng.choice(peers)
        )
        self.next_id += 1


def _stores(region: Region) -> list[int]:
    return [peer.store_id for peer in region.peers]


class Store:
    """Store 1 at a moment, as `settle` sees it."""

    def __init__(self, snapshot: Snapshot, *, is_live: bool) -> None:
        self.ident = SimpleNamespace(store_id=OWN)
        self.is_live = is_live
        self.records = {
            each.id: encode_region_local_state(PeerState.TOMBSTONE, each) for each in snapshot[1]
        }
        self.regions = {each.id: each for each in snapshot[0] if each.peer_on(OWN)}
        for each in self.regions.values():
            self.records[each.id] = encode_region_local_state(PeerState.NORMAL, each)
        self.standings: tuple[Any, ...] = (
            SimpleNamespace(trouble="", start_key=b"", end_key=b"", is_gone=True),
        )

    def has_region_records(self) -> bool:
        return True

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(region_state_key(each), value) for each, value in self.records.items()])


class Moving:
    """Stands in for `Opened`: each time that it is pinned anew, the store has gone on."""

    def __init__(self, stores: list[Store]) -> None:
        self._later = stores[1:]
        self._take(stores[0])

    def _take(self, store: Store) -> None:
        self.stores = SimpleNamespace(first=store, regions=None, sources=(store,))

    def renew(self) -> bool:
        if not self.stores.first.is_live:
            return False
        if self._later:
            self._take(self._later.pop(0))
        return True


def in_turn(maps: list[RegionMap]) -> Any:
    """A loader that serves the maps one after the other, the last one again and again."""
    left = list(maps)
    return lambda source: ((left.pop(0) if len(left) > 1 else left[0]), [])


def settled(opened: Any, maps: list[RegionMap], *, asks_pd: bool = True) -> Settled:
    wanted = Wanted(in_turn(maps), (b"", b""), OWN, True, asks_pd, pause=lambda seconds: None)
    return settle(opened, wanted)


def _listed(world: World, first: int, last: int) -> RegionMap:
    """A map of one moment, or the pieces of two."""
    rng, key = world.rng, world.rng.choice(KEYS)
    one, two = world.history[first][0], world.history[last][0]
    if rng.random() < 0.6:
        return RegionMap.build(one)
    return RegionMap.build(
        [*(e for e in one if e.start_key < key), *(e for e in two if e.start_key >= key)]
    )


def test_each_key_is_planned_once_or_reported() -> None:
    seen: Counter[str] = Counter()
    for seed in range(ROUNDS):
        world = World(random.Random(seed))
        rng = world.rng
        for _ in range(rng.randint(1, 12)):
            world.step()
        end = len(world.history) - 1
        times = sorted(rng.randint(0, end) for _ in range(rng.randint(1, 5)))
        maps = [_listed(world, at, min(end, at + rng.randint(0, 2))) for at in times]
        pins = sorted(rng.randint(0, end) for _ in range(rng.randint(1, 4)))
        is_live = rng.random() < 0.6
        stores = [Store(world.history[at], is_live=is_live) for at in pins]
        opened: Any = Moving(stores)
        found = settled(opened, maps, asks_pd=rng.random() < 0.5)
        _check(seed, found, maps, opened.stores.first, seen)
    print(dict(seen))
    assert seen["renewed"] > ROUNDS / 10
    assert seen["read"] > ROUNDS
    assert seen["refused"] > ROUNDS / 4


def _check(
    seed: int,
    found: Settled,
    maps: list[RegionMap],
    store: Store,
    seen: Counter[str],
) -> None:
    refused = {each.backup_range.start_key for each in found.refused}
    cover = cover_of(found.plan, KeyRange(b"", b""), 0, True)
    for key in (b"", *KEYS):
        own = [
            each
            for each in found.plan.ranges
            if each.start_key <= key and (not each.end_key or key < each.end_key)
        ]
        told = [each for each in cover.uncovered if key in KeySet((each.keys,))]
        assert len(own) + len(told) == 1, f"seed {seed}, {key!r}: {own} {told}"
        if told:
            seen["uncovered"] += 1
        elif own[0].start_key in refused:
            seen["refused"] += 1
        else:
            seen["read"] += 1
            _check_read(f"seed {seed}, {key!r}", own[0].region, maps, store, seen)


def _check_read(
    where: str,
    region: Region,
    maps: list[RegionMap],
    store: Store,
    seen: Counter[str],
) -> None:
    """What is read is what the pinned store has, and this store leads it by all that is known."""
    own = store.regions[region.id]
    assert (own.start_key, own.end_key) == (region.start_key, region.end_key), where
    assert own.epoch.version == region.epoch.version, where
    if any(region in each.regions for each in maps):
        return
    seen["renewed"] += 1
    assert own.leader is not None, where
    assert own.leader.store_id == OWN, where


def region(region_id: int, start: bytes, end: bytes, version: int, **facts: Any) -> Region:
    peers = facts.get("peers", (Peer(101, 1), Peer(102, 2)))
    epoch = RegionEpoch(facts.get("conf_ver", 1), version)
    return Region(region_id, start, end, epoch, peers, facts.get("leader", peers[0]))


OLD = region(1, b"", b"", 1)
LEFT, RIGHT = region(1, b"", b"05", 2), region(2, b"05", b"", 2)
MOVED = replace(RIGHT, leader=Peer(102, 2))


def maps_of(*listings: list[Region]) -> list[RegionMap]:
    return [RegionMap.build(each) for each in listings]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("newest", [[LEFT, RIGHT], [LEFT, MOVED]])
def test_pd_may_tell_of_a_change_at_the_last_try(count: int, newest: list[Region]) -> None:
    opened = Moving([Store(((LEFT, RIGHT), ()), is_live=False)])
    found = settled(opened, maps_of(*[[OLD]] * count, newest))
    assert found.refused == ()
    read = [each.region.id for each in found.plan.ranges]
    assert read == [each.id for each in newest if each.leader == Peer(101, 1)]
    assert [each.reason for each in found.plan.skipped] == ["leader is on store 2"][: 2 - len(read)]
    times = {1: "once", 2: "2 times", 3: "3 times"}[count]
    assert found.notes == (
        f"planned again {times}, as regions had changed since the region map was made",
    )


def test_after_three_tries_what_is_proved_is_read_and_the_rest_reported() -> None:
    opened = Moving([Store(((LEFT, RIGHT), ()), is_live=False)])
    found = settled(opened, maps_of(*[[OLD]] * 4, [LEFT, RIGHT]))
    assert found.refused == ()
    assert [each.region for each in found.plan.ranges] == [LEFT, RIGHT]
    assert "planned again 3 times" in found.notes[0]
    assert "regions 1 of the region map had split or merged since" in found.notes[1]
    # One part has moved away, and no map says where to.
    gone = Moving([Store(((LEFT,), (replace(RIGHT, epoch=RegionEpoch(2, 2)),)), is_live=False)])
    found = settled(gone, maps_of([OLD]))
    assert [(each.kind, each.backup_range.region) for each in found.refused] == [
        ("epoch_not_match", OLD)
    ]


def test_a_static_map_is_read_once_more_and_then_the_records_count() -> None:
    reads = []

    def load(source: object) -> Any:
        reads.append(source)
        return RegionMap.build([OLD]), []

    opened: Any = Moving([Store(((LEFT, RIGHT), ()), is_live=False)])
    found = settle(opened, Wanted(load, (b"", b""), OWN, True))
    assert (len(reads), found.refused, len(found.plan.ranges)) == (2, (), 2)
    assert len(found.notes) == 1


def test_a_merge_of_what_is_led_here_is_read_and_of_others_is_not() -> None:
    merged = region(1, b"", b"", 4)
    store = Store(((merged,), (replace(RIGHT, epoch=RegionEpoch(2, 3)),)), is_live=False)
    found = settled(Moving([store]), maps_of([LEFT, RIGHT]))
    assert (found.refused, [each.region for each in found.plan.ranges]) == ((), [merged])
    found = settled(Moving([store]), maps_of([LEFT, MOVED]))
    assert [each.kind for each in found.refused] == ["epoch_not_match"]
    assert [each.region_id for each in found.plan.skipped] == [2]


def test_a_store_that_has_not_split_yet_is_not_read_by_its_old_record() -> None:
    behind = Store(((OLD,), ()), is_live=False)
    found = settled(Moving([behind]), maps_of([LEFT, RIGHT]))
    assert [each.kind for each in found.refused] == ["epoch_not_match", "region_not_found"]
    # A running one has applied it by the third time.
    stores = [replace_live(each) for each in ((OLD,), (OLD,), (LEFT, RIGHT))]
    found = settled(Moving(stores), maps_of([LEFT, RIGHT]), asks_pd=False)
    assert (found.refused, len(found.plan.ranges)) == ((), 2)
    assert "planned again 2 times" in found.notes[0]


def replace_live(regions: tuple[Region, ...]) -> Store:
    return Store((regions, ()), is_live=True)


def test_without_a_raft_log_or_a_leader_or_with_other_peers_nothing_is_proved() -> None:
    bare = Store(((LEFT, RIGHT), ()), is_live=False)
    bare.standings = ()
    assert settled(Moving([bare]), maps_of([OLD])).refused
    store = Store(((LEFT, RIGHT), ()), is_live=False)
    for told in (
        replace(OLD, leader=None),
        replace(OLD, epoch=RegionEpoch(2, 1)),
        replace(OLD, peers=(Peer(101, 1), Peer(103, 3))),
    ):
        assert settled(Moving([store]), maps_of([told])).refused, told


def test_what_a_region_that_is_led_elsewhere_took_in_and_split_off_is_not_read() -> None:
    """Region 2 was merged into region 3, which then split these keys off again as region 4."""
    third = replace(region(3, b"10", b"", 2), leader=Peer(102, 2))
    told = [LEFT, region(2, b"05", b"10", 2), third]
    split_off = region(4, b"05", b"10", 5)
    records = (LEFT, split_off, replace(third, epoch=RegionEpoch(1, 5)))
    store = Store((records, (region(2, b"05", b"10", 3, conf_ver=2),)), is_live=False)
    found = settled(Moving([store]), maps_of(told))
    assert [(each.kind, each.backup_range.region.id) for each in found.refused] == [
        ("region_not_found", 2)
    ]
