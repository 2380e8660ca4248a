from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.sst.format import BLOCK_TRAILER_SIZE, BlockHandle
from bkctl.sst.index import (
    BINARY_SEARCH,
    TWO_LEVEL,
    WITH_FIRST_KEY,
    IndexEntry,
    IndexShape,
    index_entries,
)
from tests.sst.table_builder import delta_index, encode_block, internal, varints

PLAIN = IndexShape(BINARY_SEARCH, user_keys=True, delta_values=False)
DELTA = IndexShape(BINARY_SEARCH, user_keys=True, delta_values=True)


def tiled(sizes: list[int]) -> list[BlockHandle]:
    handles = []
    offset = 0
    for size in sizes:
        handles.append(BlockHandle(offset, size))
        offset += size + BLOCK_TRAILER_SIZE
    return handles


def keyed(handles: list[BlockHandle]) -> list[tuple[bytes, BlockHandle]]:
    return [(b"key%04d" % number, handle) for number, handle in enumerate(handles)]


@given(st.lists(st.integers(0, 1 << 40), max_size=40), st.integers(1, 16))
def test_whole_and_delta_values_lead_to_the_same_blocks(sizes: list[int], interval: int) -> None:
    handles = keyed(tiled(sizes))
    expected = [IndexEntry(key, handle) for key, handle in handles]
    whole = encode_block([(k, varints(h.offset, h.size)) for k, h in handles], interval)
    assert list(index_entries(whole, PLAIN)) == expected
    assert list(index_entries(delta_index(handles, interval), DELTA)) == expected


def test_internal_keys_lose_their_sequence_number() -> None:
    shape = IndexShape(BINARY_SEARCH, user_keys=False, delta_values=False)
    block = encode_block([(internal(b"key", 1, 77), varints(0, 10))])
    assert list(index_entries(block, shape)) == [IndexEntry(b"key", BlockHandle(0, 10))]
    with pytest.raises(CorruptionError, match="too short"):
        list(index_entries(encode_block([(b"key", varints(0, 10))]), shape))


def test_first_keys_are_read_but_not_in_an_upper_level() -> None:
    shape = IndexShape(WITH_FIRST_KEY, user_keys=True, delta_values=False)
    first = internal(b"aa")
    block = encode_block([(b"b", varints(0, 10) + varints(len(first)) + first)])
    assert list(index_entries(block, shape)) == [IndexEntry(b"b", BlockHandle(0, 10), b"aa")]
    with pytest.raises(CorruptionError):
        list(index_entries(block, shape, top=True))
    two_level = IndexShape(TWO_LEVEL, user_keys=True, delta_values=False)
    upper = encode_block([(b"b", varints(0, 10))])
    assert list(index_entries(upper, two_level, top=True)) == [IndexEntry(b"b", BlockHandle(0, 10))]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        varints(0),
        varints(0, 10) + b"x",
        varints(0, 10) + varints(5),
        b"\xff" * 12,
    ],
)
def test_values_that_are_no_handle_are_corruption(value: bytes) -> None:
    with pytest.raises(CorruptionError):
        list(index_entries(encode_block([(b"k", value)]), PLAIN))


def test_an_index_that_leads_back_is_corruption() -> None:
    for second in (BlockHandle(0, 10), BlockHandle(14, 10)):
        block = encode_block([(b"a", varints(0, 10)), (b"b", varints(second.offset, second.size))])
        entries = index_entries(block, PLAIN)
        assert next(entries).handle == BlockHandle(0, 10)
        with pytest.raises(CorruptionError, match="leads back"):
            next(entries)


def test_a_size_below_zero_is_corruption() -> None:
    handles = [(b"ka", BlockHandle(0, 10)), (b"kb", BlockHandle(15, -7))]
    with pytest.raises(CorruptionError):
        list(index_entries(delta_index(handles, 16), DELTA))


@given(st.binary(max_size=200), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2, 3]))
def test_random_blocks_give_entries_or_corruption(
    block: bytes, user_keys: bool, delta_values: bool, index_type: int
) -> None:
    try:
        list(index_entries(block, IndexShape(index_type, user_keys, delta_values)))
    except CorruptionError:
        return


@given(st.data())
def test_mutated_blocks_give_ascending_entries_or_corruption(data: st.DataObject) -> None:
    block = bytearray(delta_index(keyed(tiled([100] * 30)), 4))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    end = 0
    try:
        for entry in index_entries(bytes(block), DELTA):
            assert entry.handle.offset >= end
            end = entry.handle.end
    except CorruptionError:
        return
