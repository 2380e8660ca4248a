"""Choosing among replicas: each case by itself."""

from __future__ import annotations

from typing import Any

from bkctl.cluster.choice import Choice, choose
from bkctl.raft.standing import Completeness, Standing

THREE = (1, 2, 3)


def standing(log: tuple[int, int] = (6, 10), **facts: Any) -> Standing:
    """A voter's standing; peers have their store's number as an id unless they are given."""
    voters = facts.pop("voters", THREE)
    values: dict[str, Any] = {
        "region_id": 2,
        "state": "normal",
        "role": "voter",
        "conf_ver": 1,
        "version": 1,
        "start_key": b"",
        "end_key": b"",
        "voters": voters,
        "outgoing": (),
        "applied": 5,
        "applied_to": 5,
        "commit": 5,
        "last_index": log[1],
        "last_term": log[0],
        "term": log[0],
        "entries": 0,
        "size": 0,
        "completeness": Completeness.UNKNOWN,
        "trouble": "",
        "peer_ids": tuple((store, store) for store in voters),
    }
    return Standing(**(values | facts))


def gone(**facts: Any) -> Standing:
    """What is left of a replica that was removed."""
    return standing((0, 5), state="tombstone", **facts)


ABSENT = standing((0, 0), state="absent", role="none", voters=(), conf_ver=0, version=0)


def choose_of(
    stores: dict[int, list[Standing]], *, allow_minority: bool = False
) -> dict[int, Choice]:
    return choose([*stores.values()], [*stores], allow_minority=allow_minority)


def chosen(stores: dict[int, list[Standing]], region_id: int = 2) -> Choice:
    return choose_of(stores)[region_id]


def store_of(choice: Choice, stores: dict[int, list[Standing]]) -> int | None:
    return None if choice.best is None else [*stores][choice.best.number]


def test_the_newest_log_of_a_majority_counts() -> None:
    stores = {1: [standing((6, 20))], 3: [standing((7, 9))]}
    choice = chosen(stores)
    assert store_of(choice, stores) == 3
    assert (choice.has_majority, choice.unfit, choice.decided) == (True, "", (1,))


def test_logs_of_one_term_are_all_decided() -> None:
    stores = {1: [standing((7, 20))], 2: [standing((7, 9))], 3: [standing((6, 30))]}
    choice = chosen(stores)
    assert store_of(choice, stores) == 1
    assert sorted(choice.decided) == [0, 1]


def test_fewer_than_a_majority_are_told() -> None:
    choice = chosen({2: [standing()]})
    assert choice.lacking == (
        "of its 3 voters 1 are at hand, fewer than a majority; missing: store 1, 3"
    )


def test_half_is_no_majority() -> None:
    assert not chosen({1: [standing(voters=(1, 2))]}).has_majority


def test_while_peers_change_jointly_both_majorities_are_needed() -> None:
    joint: dict[str, Any] = {"voters": (3, 4, 5), "outgoing": THREE}
    assert chosen({n: [standing(**joint)] for n in (1, 3, 4)}).has_majority
    assert not chosen({n: [standing(**joint)] for n in (1, 2, 3)}).has_majority
    assert not chosen({n: [standing(**joint)] for n in (3, 4, 5)}).has_majority


def test_learners_have_no_say() -> None:
    stores = {
        1: [standing((6, 10))],
        2: [standing((6, 11))],
        4: [standing((9, 99), role="learner")],
    }
    choice = chosen(stores)
    assert store_of(choice, stores) == 2
    assert not chosen({n: s for n, s in stores.items() if n != 1}).has_majority


def test_a_witness_with_the_newest_log_has_nothing_to_read() -> None:
    witness = standing((7, 11), role="witness")
    choice = chosen({1: [standing((7, 10))], 2: [witness]})
    assert "witness" in choice.unfit
    stores = {2: [witness], 1: [standing((7, 11))]}
    choice = chosen(stores)
    assert (store_of(choice, stores), choice.unfit) == (1, "")


def test_a_newest_log_that_waits_for_its_data_is_none_to_read() -> None:
    choice = chosen({1: [standing((7, 10))], 2: [standing((7, 11), state="applying")]})
    assert "waits for its data" in choice.unfit


def test_a_region_that_was_merged_away_is_gone() -> None:
    merged = gone(version=4, conf_ver=2, merge_target=(9, 3))
    stale = standing((6, 99), version=3)
    assert choose_of({1: [merged], 2: [stale], 3: [stale]}) == {}
    merging = standing(version=4, conf_ver=2, state="merging", merge_target=(9, 3))
    assert choose_of({2: [merging], 1: [merged], 3: [merging]}) == {}


def test_a_stale_replica_does_not_count_once_others_know_newer_peers() -> None:
    removed = gone(conf_ver=5, role="none", voters=(4, 5, 6))
    choice = chosen({1: [removed], 2: [removed], 3: [standing()]})
    assert choice.best is None
    assert not choice.has_majority


def test_a_replica_that_was_removed_has_taken_its_log_with_it() -> None:
    # Removed before they heard why: by their records they still vote.
    removed = gone(conf_ver=1)
    choice = chosen({1: [removed], 2: [removed], 3: [standing(version=2)]})
    assert choice.lacking == (
        "of its 3 voters 1 are at hand, fewer than a majority; missing: "
        "store 1 (its replica was removed), 2 (its replica was removed)"
    )


def test_a_peer_that_is_not_made_yet_has_an_empty_log_at_hand() -> None:
    ids = ((1, 1), (2, 22), (3, 3))
    now = standing(conf_ver=5, peer_ids=ids)
    # The one before it was removed, be it by its own log or not.
    for before in (gone(conf_ver=1), gone(conf_ver=2, role="none", voters=(1, 3))):
        assert chosen({1: [now], 2: [before]}).has_majority
    assert chosen({1: [now], 2: []}).has_majority
    assert chosen({1: [now], 2: [ABSENT]}).has_majority


def test_a_removed_replica_with_the_newest_record_does_not_end_the_region() -> None:
    removed = gone(conf_ver=6, role="learner", peer_ids=((1, 1), (2, 2), (3, 3), (4, 4)))
    stores = {1: [standing()], 2: [standing((6, 11))], 4: [removed]}
    choice = chosen(stores)
    assert store_of(choice, stores) == 2
    assert choice.has_majority


def test_a_region_that_only_logs_know_is_left_to_a_split() -> None:
    assert choose_of({1: [ABSENT], 2: [ABSENT]}) == {}


def test_of_equal_logs_one_with_data_counts_then_the_first() -> None:
    stores = {1: [standing(state="applying")], 2: [standing()], 3: [standing()]}
    assert store_of(chosen(stores), stores) == 2


def test_a_store_in_trouble_is_not_at_hand() -> None:
    trouble = standing((9, 9), trouble="may lose data")
    stores = {1: [standing()], 2: [trouble], 3: [standing((6, 11))]}
    choice = chosen(stores)
    assert (store_of(choice, stores), choice.has_majority, choice.unfit) == (3, True, "")
    assert not chosen({1: [standing()], 2: [trouble]}).has_majority
    assert chosen({1: [trouble], 2: [trouble]}).unfit == "may lose data"


MERGING: dict[str, Any] = {"state": "merging", "version": 4, "conf_ver": 2, "merge_target": (9, 3)}


def test_a_region_to_be_merged_counts_if_the_other_is_as_it_was() -> None:
    target = standing(region_id=9, version=3)
    pair = [standing(**MERGING), target]
    assert chosen({1: pair, 2: pair}).unfit == ""


def test_a_region_to_be_merged_into_an_unknown_one_may_be_merged() -> None:
    source = standing(**MERGING)
    elsewhere = standing(region_id=9, version=3, voters=(3, 4, 5))
    for others in ([], [elsewhere], [gone(region_id=9, version=3)]):
        found = chosen({1: [source, *others], 2: [source, *others]})
        assert "may have been" in found.unfit
        stores = {1: [source, *others], 2: [source, *others]}
        assert choose_of(stores, allow_minority=True)[2].unfit == ""


def test_a_region_may_be_merged_if_the_other_changed_where_it_is_not() -> None:
    moved = standing(region_id=9, version=7, voters=(4, 5, 6))
    source = standing(**MERGING)
    stores = {1: [source], 2: [source], 4: [moved], 5: [moved]}
    assert "has changed since" in chosen(stores).unfit
    # Where it is, the other's log would have merged it.
    changed = standing((9, 9), region_id=9, version=7)
    stores = {1: [source, changed], 2: [source], 3: [standing(version=3)]}
    assert chosen(stores).unfit == ""


def test_what_may_be_merged_takes_along_what_was_to_be_merged_into_it() -> None:
    first = standing(**MERGING)
    second = standing(region_id=9, state="merging", version=3, merge_target=(11, 2))
    found = choose_of({1: [first, second], 2: [first, second]})
    assert "region 11" in found[9].unfit
    assert "region 9" in found[2].unfit
