import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.regions.local_state import (
    PeerState,
    encode_region_local_state,
    load_regions,
    parse_region_local_state,
    parse_region_state_key,
    region_state_key,
)
from bkctl.regions.region import ROLES, Peer, Region, RegionEpoch
from bkctl.regions.region_map import Skipped
from tests.regions.maps import ON_STORE_1, ON_STORE_4, region

# {2: {1: 6, 2: "a", 3: "b", 4: {1: 5, 2: 10}, 5: {1: 7, 2: 1}, 5: {1: 8, 2: 4, 3: 1, 4: 1}}}
WRITTEN_BY_TIKV = bytes.fromhex("121e08061201611a016222040805100a2a04080710012a080808100418012001")
REGION = Region(6, b"a", b"b", RegionEpoch(5, 10), (Peer(7, 1), Peer(8, 4, "Learner", True)))


def test_a_record_is_read_field_by_field() -> None:
    assert parse_region_local_state(WRITTEN_BY_TIKV) == (PeerState.NORMAL, REGION)
    assert encode_region_local_state(PeerState.NORMAL, REGION) == WRITTEN_BY_TIKV


U64 = st.integers(1, (1 << 64) - 1)
PEERS = st.builds(Peer, U64, U64, st.sampled_from(ROLES), st.booleans())
REGIONS = st.builds(
    Region,
    U64,
    st.binary(max_size=12).map(lambda key: b"\x01" + key),
    st.just(b"") | st.binary(max_size=12).map(lambda key: b"\x02" + key),
    st.builds(RegionEpoch, U64, U64),
    st.lists(PEERS, max_size=3).map(tuple),
)


@given(st.sampled_from(PeerState), REGIONS)
def test_what_is_encoded_parses_to_the_same(state: PeerState, encoded: Region) -> None:
    assert parse_region_local_state(encode_region_local_state(state, encoded)) == (state, encoded)


def test_unknown_fields_of_every_kind_are_skipped() -> None:
    unknown = bytes.fromhex("f80107f1010102030405060708fa0103aabbccfd0101020304")
    assert parse_region_local_state(unknown + WRITTEN_BY_TIKV) == (PeerState.NORMAL, REGION)
    inside = bytes.fromhex("12") + bytes([30 + len(unknown)]) + WRITTEN_BY_TIKV[2:] + unknown
    assert parse_region_local_state(inside) == (PeerState.NORMAL, REGION)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "no region"),
        ("0800", "no region"),
        ("1200", "no id"),
        ("12020800", "no id"),
        ("080512020806", "unknown state 5"),
        ("1001", "region is a number"),
        ("0a00", "state is no number"),
        ("12", "cut short"),
        ("1205", "cut short"),
        ("12020a00", "region id is no number"),
        ("120608061a056162", "cut short or garbled"),
        ("120408062001", "epoch is a number"),
        ("120808061201621a0161", "end_key is not after start_key"),
        ("120608062a021804", "unknown role 4"),
        ("13", "cut short or garbled"),
        ("07", "cut short or garbled"),
        ("0a", "cut short"),
        ("f101000000", "cut short"),
        ("ff" * 11, "cut short or garbled"),
    ],
)
def test_damaged_records_are_corruption(value: str, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        parse_region_local_state(bytes.fromhex(value))


@pytest.mark.parametrize("size", range(len(WRITTEN_BY_TIKV)))
def test_a_record_cut_anywhere_is_corruption(size: int) -> None:
    with pytest.raises(CorruptionError):
        parse_region_local_state(WRITTEN_BY_TIKV[:size])


@given(st.binary(max_size=40), st.integers(0, len(WRITTEN_BY_TIKV)))
def test_no_bytes_give_anything_but_a_region_or_corruption(junk: bytes, at: int) -> None:
    for value in (junk, WRITTEN_BY_TIKV[:at] + junk + WRITTEN_BY_TIKV[at:]):
        with contextlib.suppress(CorruptionError):
            parse_region_local_state(value)


def test_keys_name_their_region() -> None:
    assert region_state_key(6).hex() == "0103000000000000000601"
    assert parse_region_state_key(region_state_key((1 << 64) - 1)) == (1 << 64) - 1


@pytest.mark.parametrize(
    "key",
    [
        "",
        "0101",
        "0103",
        "0102000000000000000601",
        "0103000000000000000602",
        "01030000000000000006",
        "010300000000000000060100",
        "7a03000000000000000601",
    ],
)
def test_other_keys_name_none(key: str) -> None:
    assert parse_region_state_key(bytes.fromhex(key)) is None


def record(state: PeerState, held: Region) -> tuple[bytes, bytes]:
    return region_state_key(held.id), encode_region_local_state(state, held)


def test_a_store_lists_the_regions_it_holds_without_leaders() -> None:
    held = region(2, b"", b"k", peers=(ON_STORE_1, ON_STORE_4))
    merging = region(3, b"k", b"", peers=(ON_STORE_1,))
    local = load_regions(
        [
            record(PeerState.NORMAL, held),
            (bytes.fromhex("0102000000000000000203"), b"apply state, not ours"),
            (b"\x01\x01", b"\xff"),
            record(PeerState.MERGING, merging),
        ],
        store_id=1,
    )
    assert local.regions == [held, merging]
    assert all(one.leader is None for one in local.regions)
    assert local.skipped == []


def test_regions_without_whole_data_here_are_skipped_with_the_reason() -> None:
    witness = region(9, b"", b"", peers=(Peer(1, 1, "Voter", True), ON_STORE_4))
    records = [
        record(PeerState.TOMBSTONE, region(2, b"", b"")),
        record(PeerState.APPLYING, region(3, b"", b"")),
        record(PeerState.UNAVAILABLE, region(4, b"", b"")),
        record(PeerState.NORMAL, witness),
    ]
    local = load_regions(records, store_id=1)
    assert local.regions == []
    assert local.skipped[0] == Skipped(2, "tombstone")
    assert local.skipped[3] == Skipped(9, "witness: holds no data")
    assert [skipped.region_id for skipped in local.skipped] == [2, 3, 4, 9]
    assert load_regions(records, store_id=4).regions == [witness]
    assert load_regions(records, store_id=None).regions == [witness]


def test_a_damaged_record_is_named_by_its_region() -> None:
    with pytest.raises(CorruptionError, match=r"record of region 5 .*cut short"):
        load_regions([(region_state_key(5), b"\x12\x05")], store_id=1)


def test_a_record_under_another_regions_key_is_corruption() -> None:
    value = encode_region_local_state(PeerState.NORMAL, region(6, b"", b""))
    with pytest.raises(CorruptionError, match=r"record of region 5 .*it is of region 6"):
        load_regions([(region_state_key(5), value)], store_id=1)
