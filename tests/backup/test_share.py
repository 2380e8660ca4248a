import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.coverage import ALL_KEYS, KeyRange, KeySet
from bkctl.backup.cover import cover_of
from bkctl.backup.share import share_out
from bkctl.regions.plan import make_plan
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap

_KEYS = st.sampled_from([b"", b"a", b"b", b"c", b"d", b"e", b"f"])
_RANGES = st.lists(st.builds(KeyRange, _KEYS, _KEYS), max_size=8)


def one_by_one(keys: KeySet, ranges: list[KeyRange]) -> list[tuple[KeyRange, int]]:
    """What the ranges get if each takes in its turn what is left for it."""
    shares = []
    for number, each in enumerate(ranges):
        own = keys & KeySet.of([each])
        keys = keys - own
        shares += [(part, number) for part in own.ranges]
    return sorted(shares, key=lambda share: share[0].start_key)


@given(_RANGES, _RANGES)
def test_each_key_goes_to_the_first_range_that_has_it(
    known: list[KeyRange], ranges: list[KeyRange]
) -> None:
    keys = KeySet.of(known)
    assert list(share_out(keys, ranges)) == one_by_one(keys, ranges)


def test_a_range_gets_what_others_leave_of_it_on_both_sides() -> None:
    ranges = [KeyRange(b"c", b"d"), KeyRange(b"a", b""), KeyRange(b"", b"b")]
    assert list(share_out(ALL_KEYS, ranges)) == [
        (KeyRange(b"", b"a"), 2),
        (KeyRange(b"a", b"c"), 1),
        (KeyRange(b"c", b"d"), 0),
        (KeyRange(b"d", b""), 1),
    ]


def test_the_work_does_not_grow_with_the_square_of_the_ranges() -> None:
    bounds = [number.to_bytes(4, "big") for number in range(40_001)]
    ranges = [KeyRange(bounds[n], bounds[n + 1]) for n in range(40_000)]
    keys = KeySet(tuple(ranges[::2]))
    steps = 0

    class Counted(bytes):
        def __lt__(self, other: bytes) -> bool:
            nonlocal steps
            steps += 1
            return bytes.__lt__(self, other)

    shares = list(share_out(keys, [KeyRange(Counted(r.start_key), r.end_key) for r in ranges]))
    assert [number for _, number in shares] == list(range(0, 40_000, 2))
    assert steps < 40_000 * 40


def test_what_many_regions_leave_uncovered_takes_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = Peer(1, 1), Peer(2, 2)
    bounds = [b"", *(b"%04d" % number for number in range(1, 200)), b""]
    regions = [
        Region(
            n + 1, bounds[n], bounds[n + 1], RegionEpoch(1, 1), (here, there), (here, there)[n % 2]
        )
        for n in range(200)
    ]
    plan = make_plan(1, b"", b"", RegionMap.build(regions), is_raw=True)
    subtractions = 0
    subtract = KeySet.__sub__

    def counted(one: KeySet, other: KeySet) -> KeySet:
        nonlocal subtractions
        subtractions += 1
        return subtract(one, other)

    monkeypatch.setattr(KeySet, "__sub__", counted)
    cover = cover_of(plan, KeyRange(b"", b""), 0, is_raw=True)
    assert [each.region_id for each in cover.uncovered] == list(range(2, 201, 2))
    assert {each.reason for each in cover.uncovered} == {"leader is on store 2"}
    assert subtractions < 10
