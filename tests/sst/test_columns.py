"""Blocks read as columns hold what they hold when read one record at a time."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.strings import ByteStrings
from bkctl.codec.varint import encode_zigzag
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import data_entries
from bkctl.sst.columns import decode_blocks, index_columns, row_counts, user_keys
from bkctl.sst.encode import encode_blocks
from bkctl.sst.format import BLOCK_TRAILER_SIZE
from bkctl.sst.index import IndexShape, index_entries
from tests.sst.table_builder import encode_block, internal, varints

Record = tuple[bytes, int, int, bytes]
user_key = st.binary(max_size=6) | st.builds(
    lambda count, tail: b"row" * count + tail, st.integers(0, 60), st.binary(max_size=3)
)
value = st.binary(max_size=5) | st.sampled_from([127, 128, 300, 16_383, 16_384, 70_000]).map(bytes)
records = st.lists(
    st.tuples(user_key, st.integers(0, 2**56 - 1), st.sampled_from([0, 1, 7]), value),
    min_size=1,
    max_size=40,
)


def block_of(content: list[Record], interval: int) -> bytes:
    ordered = sorted(content, key=lambda record: (record[0], -record[1]))
    return encode_block(
        [(internal(key, kind, number), value) for key, number, kind, value in ordered], interval
    )


def one_by_one(blocks: list[bytes]) -> tuple[list[bytes], list[int], list[bytes]]:
    keys: list[bytes] = []
    trailers: list[int] = []
    values: list[bytes] = []
    for block in blocks:
        more_keys, more_values = data_entries(block, trailers)
        keys += more_keys
        values += more_values
    return keys, trailers, values


def by_columns(blocks: list[bytes]) -> tuple[list[bytes], list[int], list[bytes]]:
    columns = decode_blocks(blocks)
    return columns.keys.tolist(), columns.trailers.tolist(), columns.values.tolist()


@given(st.lists(st.tuples(records, st.integers(1, 20)), min_size=1, max_size=5))
def test_columns_hold_what_the_blocks_hold(contents: list[tuple[list[Record], int]]) -> None:
    blocks = [block_of(content, interval) for content, interval in contents]
    assert by_columns(blocks) == one_by_one(blocks)
    counts = row_counts(decode_blocks(blocks), blocks)
    assert counts.tolist() == [len(content) for content, _ in contents]


def prefix(left: bytes, right: bytes) -> int:
    return next((i for i in range(len(left)) if left[i] != right[i]), len(left))


numbered = st.sampled_from([0, 1, 2, 255, 256, 257, 65_535]).map(lambda n: b"k%05d" % n)


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(numbered, st.integers(0, 3), st.just(1), value), min_size=1, max_size=40
            ),
            st.integers(1, 20),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_what_keys_of_one_width_have_in_common(
    contents: list[tuple[list[Record], int]], shares_less: bool
) -> None:
    blocks = [block_of(content, 1 if shares_less else step) for content, step in contents]
    columns = decode_blocks(blocks)
    keys = columns.keys.tolist()
    pairs = list(itertools.pairwise(keys))
    assert columns.is_distinct == all(a < b for a, b in pairs)
    assert columns.keys.common is not None
    assert columns.keys.common[1:].tolist() == [prefix(*pair) for pair in pairs]
    assert columns.keys.differs().tolist() == [a != b for a, b in pairs]
    heads, middle = columns.keys.trimmed(0, 3), columns.keys.slice(1, len(keys))
    assert heads.differs().tolist() == [a[:-3] != b[:-3] for a, b in pairs]
    assert middle.differs().tolist() == [a != b for a, b in pairs[1:]]
    assert columns.keys.trimmed(1, 0).common is None
    if columns.is_distinct:
        encoded = encode_blocks(columns.keys, columns.values, 100)
        plain = encode_blocks(ByteStrings.of(keys), columns.values, 100)
        assert encoded.data.tobytes() == plain.data.tobytes()
    else:
        with pytest.raises(CorruptionError, match="out of order"):
            encode_blocks(columns.keys, columns.values, 100)


@given(st.lists(st.tuples(records, st.integers(1, 20)), min_size=1, max_size=3), st.data())
def test_a_changed_byte_is_read_alike_or_refused(
    contents: list[tuple[list[Record], int]], data: st.DataObject
) -> None:
    blocks = [block_of(content, interval) for content, interval in contents]
    number = data.draw(st.integers(0, len(blocks) - 1))
    changed = bytearray(blocks[number])
    for _ in range(data.draw(st.integers(1, 3))):
        where = st.integers(0, len(changed) - 1) | st.integers(1, min(len(changed), 12)).map(
            lambda n: len(changed) - n
        )
        changed[data.draw(where)] = data.draw(st.integers(0, 255))
    blocks[number] = bytes(changed)
    with contextlib.suppress(CorruptionError):
        assert by_columns(blocks) == one_by_one(blocks)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_garbage_is_refused_or_read_alike(blocks: list[bytes]) -> None:
    with contextlib.suppress(CorruptionError):
        assert by_columns(blocks) == one_by_one(blocks)


def test_a_hash_index_is_passed_over() -> None:
    plain = block_of([(b"a", 1, 1, b"1"), (b"b", 1, 1, b"2")], 16)
    hashed = plain[:-4] + b"\x00\xff\xfe" + struct.pack("<HI", 3, 1 << 31 | 1)
    assert by_columns([plain, hashed]) == one_by_one([plain, hashed])


@pytest.mark.parametrize("key", [b"k" * 4096, b"k" * 70_000])
def test_keys_too_long_for_a_matrix_are_refused(key: bytes) -> None:
    with pytest.raises(CorruptionError, match="keys of"):
        decode_blocks([block_of([(key, 1, 1, b"")], 16)])


def numbered_block(first: int, count: int) -> bytes:
    return block_of([(b"%08d" % (first + n), 1, 1, b"v") for n in range(count)], 2000)


def test_a_run_may_be_long() -> None:
    blocks = [numbered_block(0, 1024), numbered_block(1024, 1), numbered_block(1025, 130)]
    assert by_columns(blocks) == one_by_one(blocks)


def test_a_run_that_is_too_long_is_refused() -> None:
    with pytest.raises(CorruptionError, match="a run of more than 1024 entries"):
        decode_blocks([numbered_block(0, 1025)])


def test_a_long_run_among_many_short_ones_is_refused() -> None:
    short = [numbered_block(1000 + n, 1) for n in range(300)]
    assert by_columns(short) == one_by_one(short)
    with pytest.raises(CorruptionError, match="of very different lengths"):
        decode_blocks([numbered_block(0, 1000), *short])


handles = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 1 << 40)), min_size=1, max_size=30
)


@given(handles, st.booleans(), st.integers(1, 3), st.booleans())
def test_an_index_by_columns_is_the_index(
    steps: list[tuple[int, int]], delta_values: bool, interval: int, is_user_key: bool
) -> None:
    entries, start = [], 0
    for number, (gap, size) in enumerate(steps):
        start += gap
        key = b"key%08d" % number
        entries.append((key if is_user_key else internal(key), (start, size)))
        start += size + BLOCK_TRAILER_SIZE
    shape = IndexShape(0, user_keys=is_user_key, delta_values=delta_values)
    if delta_values:
        block = delta_index([(key, handle) for key, handle in entries])
    else:
        block = encode_block([(key, varints(*handle)) for key, handle in entries], interval)
    expected = list(index_entries(block, shape))
    columns = index_columns(block, delta_values=delta_values)
    if interval > 1 and len(entries) > 1 and not delta_values:
        assert columns is None
        return
    assert columns is not None
    keys, offsets, sizes = columns
    assert (keys if is_user_key else user_keys(keys)).tolist() == [e.separator for e in expected]
    assert offsets.tolist() == [entry.handle.offset for entry in expected]
    assert sizes.tolist() == [entry.handle.size for entry in expected]


def delta_index(entries: list[tuple[bytes, tuple[int, int]]]) -> bytes:
    """An index block with values as deltas, each entry a restart point."""
    out, restarts = b"", []
    for key, handle in entries:
        restarts.append(len(out))
        out += varints(0, len(key)) + key + varints(*handle)
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def test_an_index_that_shares_or_leads_back_is_left_to_the_slow_way() -> None:
    backwards = delta_index([(b"a", (500, 10)), (b"b", (0, 10))])
    assert index_columns(backwards, delta_values=True) is None
    shared = varints(0, 1) + b"a" + varints(0, 10) + varints(1, 1) + b"b" + encode_zigzag(5)
    assert index_columns(shared + struct.pack("<II", 0, 1), delta_values=True) is None
    assert index_columns(b"", delta_values=True) is None
