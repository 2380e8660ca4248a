"""Elections among stores that were made for one case each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.cluster.commands import Change, Command, Entry, Peer, Region, Split, Write
from tests.cluster.machine import Replica, Store
from tests.cluster.stores import Left, elect, lose_power
from tests.cluster.writes import KEYS

VOTERS = tuple(Peer(number, number) for number in (1, 2, 3))
BEHIND = Write("write", KEYS[3] + bytes(8), b"P\x01v\x01x")


def region_of(*peers: Peer) -> Region:
    return Region(2, b"", b"", 1, 1, peers)


def left_of(
    folder: Path,
    number: int,
    region: Region,
    entries: Sequence[tuple[int, Command | None]],
    *,
    commit: int = 5,
    state: str = "normal",
    begins: tuple[int, int] = (5, 5),
) -> Left:
    """A store whose log of the region has these (term, command), of which none is applied."""
    store = Store(number)
    peer = region.peer_on(number)
    assert peer is not None
    replica = store.replicas[2] = Replica(region, peer.id, state, truncated=begins, last=begins[0])
    replica.applied, replica.commit, replica.floor = begins[0], max(commit, begins[0]), begins[0]
    told = region
    for term, command in entries:
        replica.term = term
        if isinstance(command, Change):
            replica.add(Entry(term, replica.last + 1, command, told))
            told = replace(told, conf_ver=told.conf_ver + 1)
        else:
            replica.add(Entry(term, replica.last + 1, command, told))
    store.put_record(replica)
    replica.floor = replica.commit  # so that the commit index is written down
    return lose_power(store, folder / str(number), random.Random(1))


def promote(peer: Peer) -> Change:
    return Change((("add", peer),))


def test_a_replica_that_waits_for_its_data_has_a_log_to_the_end(tmp_path: Path) -> None:
    learner = Peer(4, 4, "learner")
    region = region_of(Peer(1, 1), Peer(2, 2), learner)
    lefts = [
        left_of(tmp_path, 2, region, [(6, None), (6, promote(learner))], commit=7),
        left_of(
            tmp_path,
            4,
            region,
            [(6, promote(learner)), (7, None), (7, BEHIND)],
            state="applying",
            begins=(6, 6),
        ),
    ]
    choices, regions, _ = elect(lefts)
    assert "waits for its data" in choices[2].unfit
    assert regions.region_map.regions == ()


def test_a_log_decides_only_up_to_a_change_of_peers(tmp_path: Path) -> None:
    fourth, fifth = Peer(4, 4, "learner"), Peer(5, 5, "learner")
    region = region_of(*VOTERS, fourth, fifth)
    common = [(6, None), (6, promote(fourth)), (6, promote(fifth))]
    split = Split(KEYS[12], 9, (11, 12, 13, 14, 15), False)
    lefts = [
        left_of(tmp_path, 2, region, common),
        left_of(tmp_path, 3, region, [*common, (6, split)]),
        left_of(tmp_path, 4, region, [*common, (7, BEHIND)]),
        left_of(tmp_path, 5, region, [*common, (7, BEHIND)]),
    ]
    _, regions, views = elect(lefts)
    (taken,) = regions.region_map.regions
    assert (taken.id, taken.start_key, taken.end_key, regions.refused) == (2, b"", b"", {})
    assert views[regions.numbers[2]]["write", b"z" + BEHIND.key] == BEHIND.value
    assert not any(region_id == 9 for region_id in regions.numbers)


def test_a_replica_that_its_own_log_removes_is_no_contradiction(tmp_path: Path) -> None:
    learner = Peer(4, 4, "learner")
    region = region_of(*VOTERS, learner)
    common = [(6, None), (6, promote(learner)), (6, Change((("remove", VOTERS[0]),)))]
    lefts = [
        left_of(tmp_path, 1, region, common),
        left_of(tmp_path, 3, region, common),
        left_of(tmp_path, 4, region, [*common, (6, BEHIND)]),
    ]
    _, regions, views = elect(lefts)
    assert regions.refused == {}
    assert views[regions.numbers[2]]["write", b"z" + BEHIND.key] == BEHIND.value
    _, regions, _ = elect(lefts[:2])
    assert [(each, why.kind) for each, why in regions.refused.items()] == [(2, "not_leader")]
    assert "missing: store 2, 4" in regions.refused[2].message
    _, regions, _ = elect(lefts[:2], allow_minority=True)
    assert (regions.minority, regions.refused) == ((2,), {})
