import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.memcomparable import encode
from bkctl.errors import RegionMapError, UsageError
from bkctl.regions.plan import BackupRange, Progress, make_plan, to_raw_key
from bkctl.regions.region import Peer, Region
from bkctl.regions.region_map import Gap, RegionMap, is_before_end, whole_key_space
from tests.regions.maps import ON_STORE_1, ON_STORE_4, REGION_LISTS, region, txn_region

TIKV_REGIONS = [(b"", b"1"), (b"1", b"2"), (b"3", b"4"), (b"7", b"9"), (b"9", b"")]
TIKV_CASES: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = [
    (b"", b"1", [(b"", b"1")]),
    (b"", b"2", [(b"", b"1"), (b"1", b"2")]),
    (b"1", b"2", [(b"1", b"2")]),
    (b"1", b"3", [(b"1", b"2")]),
    (b"1", b"4", [(b"1", b"2"), (b"3", b"4")]),
    (b"4", b"6", []),
    (b"4", b"5", []),
    (b"2", b"7", [(b"3", b"4")]),
    (b"7", b"8", [(b"7", b"8")]),
    (b"3", b"", [(b"3", b"4"), (b"7", b"9"), (b"9", b"")]),
    (b"5", b"", [(b"7", b"9"), (b"9", b"")]),
    (b"7", b"", [(b"7", b"9"), (b"9", b"")]),
    (b"8", b"91", [(b"8", b"9"), (b"9", b"91")]),
    (b"8", b"", [(b"8", b"9"), (b"9", b"")]),
    (b"", b"", TIKV_REGIONS),
]


def tikv_map(is_raw: bool) -> RegionMap:
    make = region if is_raw else txn_region
    return RegionMap.build(make(n, *keys) for n, keys in enumerate(TIKV_REGIONS, start=1))


def drain(progress: Progress, limit: int) -> list[BackupRange]:
    ranges: list[BackupRange] = []
    while not progress.finished:
        batch = progress.forward(limit)
        assert len(batch) <= limit
        assert batch or progress.finished
        ranges += batch
    assert progress.forward(limit) == []
    return ranges


@pytest.mark.parametrize("is_raw", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize(("start_key", "end_key", "expected"), TIKV_CASES)
def test_the_seek_cases_of_tikv(
    start_key: bytes,
    end_key: bytes,
    expected: list[tuple[bytes, bytes]],
    limit: int,
    is_raw: bool,
) -> None:
    progress = Progress(1, start_key, end_key, tikv_map(is_raw), is_raw)
    ranges = drain(progress, limit)
    assert [(r.raw_start_key, r.raw_end_key) for r in ranges] == expected


def test_progress_is_finished_with_its_last_range_not_one_call_later() -> None:
    to_the_window_end = Progress(1, b"", b"2", tikv_map(False), False)
    assert len(to_the_window_end.forward(2)) == 2
    assert to_the_window_end.finished
    to_the_last_region = Progress(1, b"9", b"", tikv_map(False), False)
    assert len(to_the_last_region.forward(1)) == 1
    assert to_the_last_region.finished


def test_progress_learns_of_a_gap_at_the_end_only_by_asking() -> None:
    progress = Progress(1, b"3", b"6", tikv_map(False), False)
    assert len(progress.forward(5)) == 1
    assert not progress.finished
    assert progress.forward(5) == []
    assert progress.finished


def test_a_range_knows_its_raw_encoded_and_data_keys() -> None:
    cut, last = make_plan(1, b"8", b"", tikv_map(False), False).ranges
    assert (cut.start_key, cut.end_key) == (encode(b"8"), encode(b"9"))
    assert (cut.data_start_key, cut.data_end_key) == (b"z" + encode(b"8"), b"z" + encode(b"9"))
    assert (last.raw_end_key, last.data_end_key) == (b"", b"{")
    (whole,) = make_plan(None, b"", b"", whole_key_space(), True).ranges
    assert (whole.data_start_key, whole.data_end_key) == (b"z", b"{")
    (raw,) = make_plan(None, b"a", b"b", whole_key_space(), True).ranges
    assert (raw.raw_start_key, raw.data_start_key, raw.data_end_key) == (b"a", b"za", b"zb")


@pytest.mark.parametrize(("start_key", "end_key"), [(b"b", b"a"), (b"a", b"a")])
def test_a_window_that_holds_nothing_is_a_usage_error(start_key: bytes, end_key: bytes) -> None:
    with pytest.raises(UsageError, match="not after the start key"):
        make_plan(1, start_key, end_key, whole_key_space(), True)


@pytest.mark.parametrize(
    ("peers", "leader", "reason"),
    [
        ((ON_STORE_1, ON_STORE_4), ON_STORE_1, None),
        ((ON_STORE_1, ON_STORE_4), ON_STORE_4, "leader is on store 4"),
        ((), ON_STORE_4, "leader is on store 4"),
        ((), ON_STORE_1, None),
        ((ON_STORE_1, ON_STORE_4), None, None),
        ((), None, None),
        ((ON_STORE_4,), None, "no peer on store 1"),
        ((ON_STORE_4, Peer(5, 1, "Voter", True)), None, "witness: holds no data"),
    ],
)
def test_only_regions_this_store_leads_or_may_lead_count(
    peers: tuple[Peer, ...], leader: Peer | None, reason: str | None
) -> None:
    regions = RegionMap.build([region(2, b"", b"", peers=peers, leader=leader)])
    plan = make_plan(1, b"", b"", regions, True)
    assert [skipped.reason for skipped in plan.skipped] == ([reason] if reason else [])
    assert len(plan.ranges) == (0 if reason else 1)
    assert plan.gaps == ()
    assert len(make_plan(None, b"", b"", regions, True).ranges) == 1


def test_what_is_skipped_and_missing_outside_the_window_is_not_told() -> None:
    regions = RegionMap.build(
        [
            region(1, b"", b"b", leader=ON_STORE_4),
            region(2, b"b", b"d", leader=ON_STORE_1),
            region(3, b"e", b"g", leader=ON_STORE_4),
            region(4, b"g", b"k", leader=ON_STORE_1, version=2),
            region(5, b"h", b"p", leader=ON_STORE_1),
            region(6, b"q", b"", leader=ON_STORE_4),
        ]
    )
    plan = make_plan(1, b"c", b"m", regions, True)
    assert [(r.region.id, r.start_key, r.end_key) for r in plan.ranges] == [
        (2, b"c", b"d"),
        (4, b"g", b"k"),
    ]
    assert [skipped.region_id for skipped in plan.skipped] == [3, 5]
    assert plan.skipped[0].reason == "leader is on store 4"
    assert plan.skipped[1].reason.startswith("overlapped by region 4")
    assert plan.gaps == (Gap(b"d", b"e"), Gap(b"k", b"m"))


@pytest.mark.parametrize("leader", [ON_STORE_1, ON_STORE_4])
@pytest.mark.parametrize(
    ("start_key", "end_key", "field"),
    [
        (b"plain", b"", "start_key"),
        (b"", b"plain", "end_key"),
        (b"", encode(b"a") + b"\x00", "end_key"),
        (b"", encode(b""), "end_key"),
    ],
)
def test_keys_of_another_mode_are_told_when_the_plan_is_made(
    start_key: bytes, end_key: bytes, field: str, leader: Peer
) -> None:
    regions = RegionMap.build([region(42, start_key, end_key, leader=leader)])
    with pytest.raises(RegionMapError, match=f"region 42: {field}"):
        make_plan(1, b"", b"", regions, False)
    assert make_plan(None, b"", b"", regions, True).ranges


def test_raw_keys_of_bounds() -> None:
    assert to_raw_key(b"", False) == b""
    assert to_raw_key(encode(b"abc"), False) == b"abc"
    assert to_raw_key(b"abc", True) == b"abc"


STORES = st.sampled_from([None, 1, 4, 9])
BOUNDS = st.binary(max_size=2)


@given(REGION_LISTS, STORES, BOUNDS, BOUNDS, st.integers(2, 5))
def test_the_limit_changes_the_batches_not_the_ranges(
    regions: list[Region], store_id: int | None, start_key: bytes, end_key: bytes, limit: int
) -> None:
    if not is_before_end(start_key, end_key):
        return
    region_map = RegionMap.build(regions)
    one_by_one = drain(Progress(store_id, start_key, end_key, region_map, True), 1)
    assert one_by_one == drain(Progress(store_id, start_key, end_key, region_map, True), limit)
    assert tuple(one_by_one) == make_plan(store_id, start_key, end_key, region_map, True).ranges


@given(REGION_LISTS, STORES, BOUNDS, BOUNDS)
def test_ranges_are_sorted_disjoint_and_inside_window_and_region(
    regions: list[Region], store_id: int | None, start_key: bytes, end_key: bytes
) -> None:
    if not is_before_end(start_key, end_key):
        return
    plan = make_plan(store_id, start_key, end_key, RegionMap.build(regions), True)
    previous_end = start_key
    for planned in plan.ranges:
        assert previous_end <= planned.start_key
        assert is_before_end(planned.start_key, planned.end_key)
        assert planned.start_key >= planned.region.start_key
        for bound in (planned.region.end_key, end_key):
            assert not bound or b"" < planned.end_key <= bound
        previous_end = planned.end_key or b"\xff" * 8


@given(REGION_LISTS, BOUNDS, BOUNDS, st.binary(max_size=3))
def test_ranges_and_gaps_of_all_stores_cover_the_window_once(
    regions: list[Region], start_key: bytes, end_key: bytes, key: bytes
) -> None:
    if not is_before_end(start_key, end_key):
        return
    plan = make_plan(None, start_key, end_key, RegionMap.build(regions), True)
    spans = [(r.start_key, r.end_key) for r in plan.ranges]
    spans += [(g.start_key, g.end_key) for g in plan.gaps]
    covered = sum(start <= key and is_before_end(key, end) for start, end in spans)
    assert covered == (start_key <= key and is_before_end(key, end_key))
