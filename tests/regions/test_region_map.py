import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.regions.region import Region
from bkctl.regions.region_map import Gap, RegionMap, Skipped, is_before_end, whole_key_space
from tests.regions.maps import ON_STORE_1, ON_STORE_4, REGION_LISTS, region


def overlap(one: Region, other: Region) -> bool:
    return is_before_end(one.start_key, other.end_key) and is_before_end(
        other.start_key, one.end_key
    )


def ids(regions: RegionMap) -> list[int]:
    return [kept.id for kept in regions.regions]


def test_regions_are_sorted_by_start_key() -> None:
    built = RegionMap.build([region(3, b"m", b""), region(1, b"", b"c"), region(2, b"c", b"m")])
    assert ids(built) == [1, 2, 3]
    assert built.skipped == ()


def test_of_two_that_overlap_the_higher_version_stays_and_the_reason_names_it() -> None:
    before_split = region(2, b"", b"", version=4, conf_ver=5)
    after_split = region(9, b"k", b"", version=5, conf_ver=5)
    built = RegionMap.build([before_split, after_split])
    assert ids(built) == [9]
    assert built.skipped == (
        Skipped(
            2,
            "overlapped by region 9 (epoch version 5, conf_ver 5); "
            "its own epoch is version 4, conf_ver 5",
        ),
    )


@pytest.mark.parametrize(
    ("one", "other", "winner"),
    [
        (region(1, b"", b"k", version=2), region(2, b"a", b"m", version=1, conf_ver=9), 1),
        (region(1, b"", b"k", conf_ver=2), region(2, b"a", b"m", conf_ver=1), 1),
        (region(1, b"", b"k"), region(2, b"a", b"m"), 2),
        (region(1, b"a", b"b"), region(2, b"a", b"m"), 2),
        (region(1, b"a", b"b", version=2), region(2, b"a", b"m"), 1),
        (region(1, b"a", b"", version=2), region(2, b"b", b"c"), 1),
    ],
)
def test_precedence_is_version_then_conf_ver_then_id(
    one: Region, other: Region, winner: int
) -> None:
    assert ids(RegionMap.build([one, other])) == [winner]
    assert ids(RegionMap.build([other, one])) == [winner]


def test_a_region_dropped_itself_drops_no_other() -> None:
    newest = region(1, b"", b"c", version=3)
    middle = region(2, b"b", b"m", version=2)
    oldest = region(3, b"k", b"", version=1)
    assert ids(RegionMap.build([oldest, middle, newest])) == [1, 3]


def test_of_two_entries_of_one_region_the_newer_counts() -> None:
    older, newer = region(7, b"", b"m", version=3), region(7, b"", b"f", version=4)
    built = RegionMap.build([older, newer])
    assert built.regions == (newer,)
    assert [skipped.region_id for skipped in built.skipped] == [7]
    assert "listed twice: region 7 counts with epoch version 4" in built.skipped[0].reason


def test_an_old_entry_does_not_come_back_when_its_newer_one_is_overlapped() -> None:
    older, newer = region(7, b"x", b"", version=3), region(7, b"a", b"f", version=4)
    assert ids(RegionMap.build([older, newer, region(8, b"b", b"c", version=5)])) == [8]


def test_the_very_same_entry_twice_counts_once() -> None:
    entry = region(7, b"", b"")
    built = RegionMap.build([entry, entry])
    assert built.regions == (entry,)
    assert "listed twice" in built.skipped[0].reason


def test_a_region_whose_end_is_not_after_its_start_is_dropped() -> None:
    built = RegionMap.build([region(1, b"b", b"a", version=9), region(2, b"", b"")])
    assert ids(built) == [2]
    assert built.skipped == (Skipped(1, "its end key is not after its start key"),)


@given(REGION_LISTS, st.randoms(use_true_random=False))
def test_the_map_does_not_depend_on_the_order_of_the_listing(
    regions: list[Region], rng: random.Random
) -> None:
    shuffled = list(regions)
    rng.shuffle(shuffled)
    assert RegionMap.build(regions) == RegionMap.build(shuffled)


@given(REGION_LISTS)
def test_what_stays_is_disjoint_and_what_goes_lost_against_what_stays(
    regions: list[Region],
) -> None:
    built = RegionMap.build(regions)
    assert len(built.regions) + len(built.dropped) == len(regions)
    for before, after in zip(built.regions, built.regions[1:], strict=False):
        assert before.end_key
        assert before.end_key <= after.start_key
    newest = {
        r.id: max((s.epoch.version, s.epoch.conf_ver) for s in regions if s.id == r.id)
        for r in regions
    }
    for dropped in built.dropped:
        lost = dropped.region
        rank = (lost.epoch.version, lost.epoch.conf_ver, lost.id)
        meets = [kept for kept in built.regions if overlap(kept, lost)]
        beaten = any((kept.epoch.version, kept.epoch.conf_ver, kept.id) >= rank for kept in meets)
        assert beaten or newest[lost.id] >= rank[:2]


@given(REGION_LISTS, st.binary(max_size=3))
def test_seek_gives_the_regions_that_end_after_the_key(
    regions: list[Region], encoded_key: bytes
) -> None:
    built = RegionMap.build(regions)
    expected = [r for r in built.regions if is_before_end(encoded_key, r.end_key)]
    assert list(built.seek(encoded_key)) == expected


@given(REGION_LISTS, st.binary(max_size=2), st.binary(max_size=2), st.binary(max_size=3))
def test_a_key_of_the_window_lies_in_one_region_or_one_gap(
    regions: list[Region], start_key: bytes, end_key: bytes, encoded_key: bytes
) -> None:
    if not is_before_end(start_key, end_key):
        return
    built = RegionMap.build(regions)
    gaps = built.gaps(start_key, end_key)
    in_gaps = sum(
        g.start_key <= encoded_key and is_before_end(encoded_key, g.end_key) for g in gaps
    )
    in_regions = sum(
        r.start_key <= encoded_key and is_before_end(encoded_key, r.end_key) for r in built.regions
    )
    in_window = start_key <= encoded_key and is_before_end(encoded_key, end_key)
    assert in_gaps == (1 if in_window and not in_regions else 0)


def test_gaps_are_those_of_the_window() -> None:
    built = RegionMap.build([region(1, b"b", b"d"), region(2, b"d", b"f"), region(3, b"h", b"m")])
    assert built.gaps(b"", b"") == [Gap(b"", b"b"), Gap(b"f", b"h"), Gap(b"m", b"")]
    assert built.gaps(b"c", b"g") == [Gap(b"f", b"g")]
    assert built.gaps(b"b", b"f") == []
    assert built.gaps(b"f", b"h") == [Gap(b"f", b"h")]
    assert built.gaps(b"x", b"y") == [Gap(b"x", b"y")]
    assert RegionMap.build([]).gaps(b"", b"") == [Gap(b"", b"")]


def test_problems_are_what_was_dropped_and_what_is_not_covered() -> None:
    built = RegionMap.build([region(1, b"", b"k", version=2), region(2, b"a", b"")])
    problems = built.problems()
    assert [skipped.region_id for skipped in problems.overlaps] == [2]
    assert problems.gaps == (Gap(b"k", b""),)


def test_the_whole_key_space_is_one_region_without_peers() -> None:
    everything = whole_key_space()
    assert [(r.id, r.start_key, r.end_key, r.leader) for r in everything.regions] == [
        (1, b"", b"", None)
    ]
    assert everything.problems().gaps == ()


def test_one_stale_region_over_many_costs_only_itself() -> None:
    many = [
        region(n + 1, n.to_bytes(3, "big") if n else b"", (n + 1).to_bytes(3, "big"), version=2)
        for n in range(3000)
    ]
    stale = region(99_999, b"", b"", peers=(ON_STORE_1,), leader=ON_STORE_4)
    built = RegionMap.build([stale, *reversed(many)])
    assert built.regions == tuple(many)
    assert [skipped.region_id for skipped in built.skipped] == [99_999]
