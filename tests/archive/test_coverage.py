"""Sets of keys behave as sets: against plain sets of the keys themselves."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.coverage import ALL_KEYS, NO_KEYS, KeyRange, KeySet

# Keys of one byte or none; what lies between two of them counts with the first.
POINTS = [b"", *(bytes([i]) for i in range(8))]
RANGES = st.lists(st.builds(KeyRange, st.sampled_from(POINTS), st.sampled_from(POINTS)), max_size=6)


def points(ranges: list[KeyRange]) -> set[bytes]:
    return {
        point
        for point in POINTS
        for each in ranges
        if each.start_key <= point and (not each.end_key or point < each.end_key)
    }


@given(RANGES, RANGES)
def test_sets_of_keys_are_sets(one: list[KeyRange], other: list[KeyRange]) -> None:
    ours, theirs = KeySet.of(one), KeySet.of(other)
    for found, expected in (
        (ours, points(one)),
        (ours | theirs, points(one) | points(other)),
        (ours & theirs, points(one) & points(other)),
        (ours - theirs, points(one) - points(other)),
        (ALL_KEYS - ours, set(POINTS) - points(one)),
    ):
        assert points(list(found.ranges)) == expected
        assert {point for point in POINTS if point in found} == expected
        assert bool(found) == bool(expected)
        # In order, apart from each other, so that equal sets are equal.
        ends = [each.end_key for each in found.ranges]
        assert all(ends[:-1])
        assert all(one.end_key < two.start_key for one, two in pairwise(found.ranges))
        assert KeySet.of(reversed(found.ranges)) == found


def test_texts_show_the_first_ranges() -> None:
    assert str(ALL_KEYS) == "[, )"
    assert str(NO_KEYS) == ""
    many = KeySet.of(KeyRange(bytes([2 * i]), bytes([2 * i + 1])) for i in range(5))
    assert str(many) == "[00, 01), [02, 03), [04, 05) and 2 more"
