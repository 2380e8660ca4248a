"""Applying a raft log: merges in every order, and logs that nobody's TiKV would have written."""

from __future__ import annotations

from typing import Any

import pytest

from bkctl.proto import raft_serverpb_pb2
from tests.raft.apply_model import Peer, Region, encode
from tests.raft.logged import Logged, admin, merging, peers, put, region

MAX = (1 << 64) - 1
DEPTH = 3000
LEFT, RIGHT = region(1, b"", b"m"), region(2, b"m", b"")


def two_regions() -> Logged:
    store = Logged()
    store.region(LEFT)
    store.region(RIGHT)
    return store


def test_a_merge_may_carry_less_than_is_not_known_to_be_committed() -> None:
    store = two_regions()
    whole = store.entries(2, put(b"n", b"1"), put(b"o", b"2"), put(b"p", b"3"), admin("prepare", 8))
    # Its leader knew that entries up to 7 were here; that they are committed was not known here.
    del store.log.regions[2][1][8], store.log.regions[2][1][9]
    store.log.regions[2] = (5, store.log.regions[2][1])
    store.entries(1, merging(RIGHT, 9, *whole[2:]))
    store.apply()
    assert store.trouble(1) == store.trouble(2) == ""
    assert store.values() == {b"n": b"1", b"o": b"2", b"p": b"3"}
    assert store.progress[1].replica.region.end_key == b""


@pytest.mark.parametrize("mode", ["committed", "all"])
def test_what_a_merge_carries_counts_more_than_what_was_not_committed(mode: str) -> None:
    store = two_regions()
    true = store.entries(2, put(b"n", b"1"), put(b"o", b"2"), admin("prepare", 7), term=8)
    stale = store.entries(2, put(b"n", b"1"), put(b"o", b"never"), put(b"p", b"never"), commit=6)
    assert stale[1].index == true[1].index
    store.entries(1, merging(RIGHT, 8, *true[1:]))
    store.apply(mode)
    assert store.trouble(1) == store.trouble(2) == ""
    assert store.values() == {b"n": b"1", b"o": b"2"}


def test_what_was_applied_and_never_was_committed_is_told() -> None:
    store = two_regions()
    true = store.entries(1, put(b"a", b"1"), admin("prepare", 6), term=8)
    store.entries(1, put(b"a", b"never"), put(b"b", b"never"), commit=5)
    # That the merge is committed is not known here, either: the order of regions decides.
    store.entries(2, put(b"n", b"2"), merging(LEFT, 7, *true), commit=5)
    store.apply("all")
    assert "another was applied, which never was committed" in store.trouble(2)
    assert store.progress[2].replica.region.start_key == b"m"


def test_a_source_that_lacks_what_was_committed_is_told_of_with_its_target() -> None:
    store = two_regions()
    store.entries(2, put(b"n", b"1"))
    store.entries(1, merging(RIGHT, 9))
    store.apply()
    for region_id in (1, 2):
        assert "[region 2] its entries up to 9 are committed" in store.trouble(region_id)
        assert "lacks those from 7 on" in store.trouble(region_id)


def test_a_region_that_a_split_makes_can_be_merged_at_once() -> None:
    store = two_regions()
    child = Region(90, b"m", b"t", 1, 2, peers(90))
    store.entries(2, admin("split", ([(b"t", 90, [901, 902])], True)))
    store.entries(90, put(b"n", b"1", version=2), admin("prepare", 6, (1, 2)))
    told = Region(90, child.start, child.end, 2, 3, child.peers)
    store.entries(1, admin("merge", {"source": told, "commit": 7, "entries": []}))
    progress = store.apply()
    assert [store.trouble(region_id) for region_id in (1, 2, 90)] == ["", "", ""]
    assert progress[1].replica.region.end_key == b"t"
    assert progress[90].replica.local_state().state == raft_serverpb_pb2.Tombstone
    assert store.values() == {b"n": b"1"}


def test_a_merge_that_had_to_wait_goes_on_where_it_was() -> None:
    store = Logged()
    middle = region(3, b"h", b"m")
    for each in (region(1, b"", b"h"), RIGHT, middle):
        store.region(each)
    store.entries(2, admin("split", ([(b"t", 90, [901, 902])], True)))
    store.entries(90, admin("prepare", 6, (1, 2)))
    child = Region(90, b"m", b"t", 2, 3, peers(90))
    inner = admin("merge", {"source": child, "commit": 6, "entries": []})
    carried = store.entries(3, put(b"i", b"1"), inner, admin("prepare", 6, (1, 4)))
    store.entries(3)
    told = Region(3, b"h", b"t", 2, 5, middle.peers)
    store.entries(1, admin("merge", {"source": told, "commit": 8, "entries": carried}))
    progress = store.apply()
    assert {store.trouble(region_id) for region_id in progress} == {""}
    assert progress[1].replica.region.end_key == b"t"
    assert store.values() == {b"i": b"1"}


def test_a_split_makes_regions_that_are_in_no_flashback() -> None:
    store = Logged()
    store.region(region(1, b"", b"", flashback=7))
    command = admin("split", ([(b"t", 90, [901, 902])], True)) | {"flashback": True}
    store.entries(1, command)
    progress = store.apply()
    assert progress[1].replica.region.is_in_flashback
    assert not progress[90].replica.region.is_in_flashback
    assert progress[90].replica.region.flashback_start_ts == 0


def test_merges_that_wait_for_one_another_are_refused() -> None:
    store = two_regions()
    store.entries(1, merging(RIGHT, 9))
    store.entries(2, merging(LEFT, 9))
    store.apply()
    assert "it merges region 1, which waits for it" in store.trouble(1)
    assert "it merges region 1, which waits for it" in store.trouble(2)


def test_a_region_that_merges_itself_is_refused() -> None:
    store = two_regions()
    store.entries(1, merging(LEFT, 9))
    store.apply()
    assert "it merges region 1, which waits for it" in store.trouble(1)


def test_merges_of_merges_may_be_as_deep_as_they_like() -> None:
    store = Logged()
    for number in range(DEPTH):
        key = b"" if number == 0 else b"%06d" % number
        start, version = (b"", 1) if number == 0 else (b"", 3)
        own = region(DEPTH - number, key, b"%06d" % (number + 1))
        store.region(own)
        commands: list[Any] = []
        if number:
            source = Region(
                own.id + 1, start, key, 2, 2 if number == 1 else 4 + 2 * (number - 2), []
            )
            source.peers = peers(own.id + 1)
            told: Any = {"source": source, "commit": 6 if number == 1 else 7, "entries": []}
            commands.append(admin("merge", told))
            version = 3 + 2 * (number - 1)
        commands.append(admin("prepare", 6, (1, version)))
        store.entries(own.id, *commands)
    store.apply()
    assert {store.trouble(region_id) for region_id in range(1, DEPTH + 1)} == {""}
    assert store.progress[1].replica.region.start_key == b""
    assert store.progress[1].replica.region.end_key == b"%06d" % DEPTH


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", "garbled"),
        (b"\x00simple", "a partitioned store"),
        (b"\x12\x02\x20\x05", "put is a number"),
        (b"\x12\x06\x22\x04\x0a\x02\xff\xfe", "garbled"),
        (admin("changes", []), "leaves a joint state"),
        (admin("rollback", 7), "ends a merge that the region is not in"),
        (admin("prepare", 5), "entries which are compacted"),
        (admin("merge", {"source": RIGHT, "commit": 5, "entries": []}), "not ready for it here"),
        (put(b"a", b"1") | {"writes": [("put", "nosuch", b"a", b"1")]}, "column family nosuch"),
    ],
)
def test_what_tikv_does_not_survive_is_told(command: Any, why: str) -> None:
    store = two_regions()
    store.entries(1, put(b"a", b"1"), command, put(b"a", b"2"))
    store.apply()
    assert why in store.trouble(1)
    assert store.trouble(1).startswith("[region 1] the raft log's entry 7 cannot be applied: ")
    assert store.values() == {b"a": b"1"}
    assert store.trouble(2) == ""


@pytest.mark.parametrize("field", ["change_peer", "change_peer_v2", "switch_witnesses"])
def test_an_admin_command_without_its_request_is_told(field: str) -> None:
    kind = {"change_peer": "change", "change_peer_v2": "changes", "switch_witnesses": "witness"}
    store = two_regions()
    message = encode(6, 6, admin("hash", None))
    store.entries(1, message.data.replace(b"\x08\x05", b"\x08" + bytes([CODES[kind[field]]])))
    store.apply()
    assert f"it has no {field}" in store.trouble(1)


CODES = {"change": 1, "changes": 11, "witness": 14}


def test_an_epoch_that_cannot_grow_is_told() -> None:
    for kind, what in (
        ("split", ([(b"c", 90, [901, 902])], True)),
        ("change", ("add", Peer(99, 9))),
        ("prepare", 6),
    ):
        store = Logged()
        store.region(Region(1, b"", b"", MAX, MAX, peers(1)))
        store.entries(1, admin(kind, what, (MAX, MAX)))
        store.apply()
        assert "epoch larger than 64 bits hold" in store.trouble(1)


@pytest.mark.parametrize("key", [b"", b"zz"])
def test_splits_at_no_key_of_the_region_have_no_effect(key: bytes) -> None:
    store = two_regions()
    store.entries(1, admin("split", ([(key, 0, [901, 902])], True)), put(b"a", b"1"))
    progress = store.apply()
    assert progress.keys() == {1, 2}
    assert store.values() == {b"a": b"1"}


def test_a_region_whose_id_is_0_is_one_like_others() -> None:
    store = two_regions()
    store.entries(1, admin("split", ([(b"c", 0, [901, 902])], True)))
    assert store.apply()[0].trouble is None


def test_a_region_without_a_peer_here_is_told() -> None:
    store = Logged()
    store.region(region(1, b"", b"", peers=peers(1, 2, 3)))
    store.entries(1, put(b"a", b"1"))
    store.apply()
    assert "the store's record of it has no peer on store 1" in store.trouble(1)


@pytest.mark.parametrize(
    ("applied", "commit", "trouble"),
    [
        (7, 7, ""),
        (9, 7, ""),  # the kv store may be ahead of what the log has synced
        (7, 9, "commit index 9 > last index 7"),
        (MAX, 7, ""),
    ],
)
def test_a_kv_store_ahead_of_its_log(applied: int, commit: int, trouble: str) -> None:
    store = Logged()
    store.region(region(1, b"", b""), applied)
    store.entries(1, put(b"a", b"1"), put(b"b", b"2"), commit=commit)
    store.apply()
    assert trouble in store.trouble(1)
    assert bool(trouble) == bool(store.trouble(1))
    assert store.values() == {}


def test_a_commit_index_without_a_log_is_a_loss() -> None:
    store = two_regions()
    state = raft_serverpb_pb2.RaftApplyState(applied_index=5, commit_index=9, commit_term=6)
    key = b"\x01\x02" + (1).to_bytes(8, "big") + b"\x03"
    store.kv.put("raft", key, state.SerializeToString())
    store.apply()
    assert "raft state doesn't exist" in store.trouble(1)


def test_ranges_are_deleted_even_if_the_rest_of_their_command_is_not_for_the_region() -> None:
    store = two_regions()
    writes = [("range", "default", b"a", b"c", False), ("put", "default", b"z", b"outside")]
    both = {"epoch": (1, 1), "writes": writes}
    store.entries(1, put(b"b", b"1"), put(b"d", b"2"), both)
    store.apply()
    assert store.values() == {b"d": b"2"}
