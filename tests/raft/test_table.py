"""What the log holds of a region, change by change."""

from __future__ import annotations

from array import array

import pytest

from bkctl.raft.table import HoleError, RegionTable, place_of, split_place


def table(keep: int | None = None) -> RegionTable:
    """Entries 10 to 19 in the batches 1 to 5, two in each."""
    made = RegionTable(7, keep)
    for batch in range(1, 6):
        made.append(8 + 2 * batch, 2, batch, hole_ok=False)
    return made


def held(made: RegionTable) -> dict[int, int]:
    """The place of each entry."""
    return {
        index: place
        for start, behind, place in made.runs(made.first, made.end)
        for index in range(start, behind)
    }


ALL = {10 + i: 1 + i // 2 for i in range(10)}


def test_a_place_is_a_file_and_an_offset() -> None:
    assert split_place(place_of(119, (1 << 40) - 1)) == (119, (1 << 40) - 1)


def test_entries_that_follow_are_added() -> None:
    made = table()
    assert held(made) == ALL
    assert (made.first, made.end) == (10, 20)
    assert [*made.runs(13, 17)] == [(13, 14, 2), (14, 16, 3), (16, 17, 4)]
    assert [*made.runs(13, 13)] == []


def test_items_of_one_batch_make_one_run() -> None:
    made = table()
    made.append(20, 3, 5, hole_ok=False)
    made.append(22, 1, 5, hole_ok=False)
    assert made.places == array("Q", [1, 2, 3, 4, 5])
    assert held(made) == ALL | {20: 5, 21: 5, 22: 5}


@pytest.mark.parametrize("first", range(10, 21))
def test_entries_replace_those_from_their_first_on(first: int) -> None:
    made = table()
    made.append(first, 1, 9, hole_ok=False)
    assert held(made) == {i: at for i, at in ALL.items() if i < first} | {first: 9}


def test_entries_before_all_others_replace_all() -> None:
    made = table()
    made.append(4, 2, 9, hole_ok=False)
    assert held(made) == {4: 9, 5: 9}


def test_a_hole_is_an_error_or_drops_what_is_before_it() -> None:
    made = table()
    with pytest.raises(HoleError, match="region 7 go on at 21, and the last before them is 19"):
        made.append(21, 1, 9, hole_ok=False)
    assert held(made) == ALL
    made.append(21, 1, 9, hole_ok=True)
    assert held(made) == {21: 9}


@pytest.mark.parametrize("index", range(5, 25))
def test_compacted_entries_go(index: int) -> None:
    made = table()
    made.compact(index)
    assert held(made) == {i: at for i, at in ALL.items() if i >= index}
    # Anything may follow where nothing is left.
    if index >= 20:
        made.append(50, 1, 9, hole_ok=False)
        assert held(made) == {50: 9}


def test_many_compactions_leave_little_behind() -> None:
    made = RegionTable(7)
    for index in range(10_000):
        made.append(index, 1, index, hole_ok=False)
        made.compact(index - 5)
    assert held(made) == {index: index for index in range(9_994, 10_000)}
    assert len(made.places) < 100
    made.trim()
    assert len(made.places) == len(made.starts) == len(held(made))


@pytest.mark.parametrize("index", [14, 19, 20])
def test_compacted_entries_that_are_to_be_kept_stay(index: int) -> None:
    made = table(keep=13)
    made.compact(index)
    assert held(made) == {i: at for i, at in ALL.items() if i >= 13}
    made.append(20, 1, 9, hole_ok=False)
    assert held(made) == {i: at for i, at in ALL.items() if i >= 13} | {20: 9}


def test_what_was_rewritten_is_compacted_though_it_is_to_be_kept() -> None:
    made = table(keep=13)
    made.compact(16, all_of_them=True)
    assert held(made) == {i: at for i, at in ALL.items() if i >= 16}


def test_what_is_compacted_away_beyond_the_end_is_no_part_of_the_log_any_more() -> None:
    """A snapshot came: what is before it does not lead up to what is behind."""
    made = table(keep=13)
    made.compact(30)
    assert held(made) == {}
    made = table(keep=13)
    made.compact(20)
    made.append(30, 1, 9, hole_ok=False)
    assert held(made) == {30: 9}


def test_entries_before_those_to_be_kept_go_at_once_but_for_the_newest_batch() -> None:
    assert held(table(keep=100)) == {18: 5, 19: 5}
    assert held(table(keep=18)) == {18: 5, 19: 5}
    assert held(table(keep=17)) == {17: 4, 18: 5, 19: 5}
    assert held(table(keep=1)) == ALL


def test_a_hole_is_seen_though_nothing_was_kept_before_it() -> None:
    made = table(keep=100)
    with pytest.raises(HoleError):
        made.append(21, 1, 9, hole_ok=False)


def test_values_are_put_and_deleted() -> None:
    made = RegionTable(7)
    assert made.is_empty()
    for key in (b"R", b"other", b"third"):
        assert made.get(key) is None
        made.put(key, b"one")
        made.put(key, b"two")
        assert made.get(key) == b"two"
        assert not made.is_empty()
    for key in (b"R", b"other", b"third", b"none"):
        made.delete(key)
        assert made.get(key) is None
    assert made.is_empty()


def test_the_append_queue_lies_over_the_rewrite_queue() -> None:
    made = table()
    made.put(b"R", b"old")
    made.put(b"a", b"old")
    newer = RegionTable(7)
    for index in range(10, 25):
        newer.append(index, 1, 100 + index, hole_ok=False)
    newer.compact(14)
    newer.put(b"R", b"new")
    newer.put(b"b", b"new")
    made.overlay(newer)
    wanted = {i: at for i, at in ALL.items() if i < 14} | {i: 100 + i for i in range(14, 25)}
    assert held(made) == wanted
    assert [made.get(key) for key in (b"R", b"a", b"b")] == [b"new", b"old", b"new"]


@pytest.mark.parametrize("first", [3, 25])
def test_what_does_not_meet_the_append_queue_goes(first: int) -> None:
    made, newer = table(), RegionTable(7)
    newer.append(first, 2, 9, hole_ok=False)
    made.overlay(newer)
    assert held(made) == {first: 9, first + 1: 9}


def test_an_empty_append_queue_changes_nothing() -> None:
    made = table()
    made.overlay(RegionTable(7))
    assert held(made) == ALL
