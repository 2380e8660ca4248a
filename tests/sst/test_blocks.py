from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.sst import blocks
from bkctl.sst.blocks import data_entries, entries_end, meta_entries
from tests.sst.table_builder import encode_block, internal, varints

ONE_RESTART = struct.pack("<II", 0, 1)


def data_block(records: list[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    return encode_block([(internal(key), value) for key, value in records], interval)


@given(
    st.dictionaries(st.binary(max_size=300), st.binary(max_size=20_000), max_size=40),
    st.integers(1, 20),
)
def test_what_was_encoded_is_decoded(content: dict[bytes, bytes], interval: int) -> None:
    records = sorted(content.items())
    keys, values = data_entries(data_block(records, interval))
    assert list(zip(keys, values, strict=True)) == records


@given(st.lists(st.tuples(st.binary(max_size=4), st.integers(0, 2**56 - 1)), max_size=30))
def test_versions_of_one_key_share_parts_of_their_trailers(
    versions: list[tuple[bytes, int]],
) -> None:
    ordered = sorted(set(versions), key=lambda v: (v[0], -v[1]))
    trailers: list[int] = []
    block = encode_block([(internal(key, 1, number), b"v") for key, number in ordered])
    keys, _ = data_entries(block, trailers)
    assert keys == [key for key, _ in ordered]
    assert trailers == [number << 8 | 1 for _, number in ordered]


@pytest.mark.parametrize(("kind", "name"), [*blocks.KIND_NAMES.items(), (0x7E, "unknown kind")])
def test_records_that_are_no_values_are_told_by_their_kind(kind: int, name: str) -> None:
    block = encode_block([(internal(b"a"), b"1"), (internal(b"b", kind, 9), b"")])
    with pytest.raises(CorruptionError, match=name):
        data_entries(block)
    trailers: list[int] = []
    assert data_entries(block, trailers)[0] == [b"a", b"b"]
    assert trailers == [1, 9 << 8 | kind]


def test_a_hash_index_behind_the_restarts_is_passed_over() -> None:
    plain = data_block([(b"a", b"1"), (b"b", b"2")])
    hashed = plain[:-4] + b"\x00\xff\xfe" + struct.pack("<HI", 3, 1 << 31 | 1)
    assert data_entries(hashed) == data_entries(plain)


def test_a_hash_index_longer_than_its_block_is_corruption() -> None:
    plain = data_block([(b"a", b"1")])
    with pytest.raises(CorruptionError, match="restart points"):
        entries_end(plain[:-4] + struct.pack("<HI", 60000, 1 << 31 | 1))


@pytest.mark.parametrize("count", [0, 3, 4, 1 << 30, (1 << 31) - 1, (1 << 32) - 1])
def test_a_restart_count_that_does_not_fit_is_corruption(count: int) -> None:
    block = data_block([(b"a", b"")])
    with pytest.raises(CorruptionError):
        entries_end(block[:-4] + struct.pack("<I", count))


@pytest.mark.parametrize("size", range(8))
def test_a_block_too_short_for_its_restarts_is_corruption(size: int) -> None:
    with pytest.raises(CorruptionError, match="too short"):
        entries_end(bytes(size))


@pytest.mark.parametrize("restarts", [(1,), (0, 0), (0, 12, 12), (0, 24, 12), (0, 500), (0, 3)])
def test_restarts_that_lead_to_no_entry_are_corruption(restarts: tuple[int, ...]) -> None:
    entries = data_block([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], 1)[:-16]
    block = entries + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    with pytest.raises(CorruptionError, match="restart points"):
        entries_end(block)


def test_an_empty_block_has_no_entries() -> None:
    assert data_entries(ONE_RESTART) == ([], [])
    assert list(meta_entries(ONE_RESTART)) == []
    with pytest.raises(CorruptionError):
        entries_end(struct.pack("<II", 7, 1))


@pytest.mark.parametrize(
    "entry",
    [
        varints(0, 9, 1) + b"a" * 9,
        varints(0, 900, 1) + b"a" * 9,
        varints(0, 9, 1 << 40) + b"a" * 9,
        varints(0, 1 << 63, 0) + b"a" * 9,
        varints(0, 7, 0) + b"a" * 7,
        varints(0, 9, 0) + internal(b"a") + varints(10, 8, 0) + internal(b""),
        varints(0, 9, 0) + internal(b"a") + varints(200, 8, 0) + internal(b""),
        b"\x00" + b"\xff" * 12,
    ],
)
def test_lengths_that_do_not_fit_are_corruption(entry: bytes) -> None:
    with pytest.raises(CorruptionError):
        data_entries(entry + ONE_RESTART)
    with pytest.raises(CorruptionError):
        list(meta_entries(entry + varints(1, 0, 0) + ONE_RESTART))


def test_keys_that_unfold_without_end_are_refused() -> None:
    key = internal(b"k" * 100_000)
    block = varints(0, len(key), 0) + key + varints(len(key), 0, 0) * 60_000 + ONE_RESTART
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            data_entries(block)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_block_of_millions_of_empty_records_is_refused() -> None:
    block = varints(0, 8, 0) + internal(b"") + varints(8, 0, 0) * 5_000_000 + ONE_RESTART
    with pytest.raises(CorruptionError, match="more than 65536 records"):
        data_entries(block)


def test_names_must_ascend() -> None:
    with pytest.raises(CorruptionError, match="out of order"):
        list(meta_entries(encode_block([(b"b", b""), (b"a", b"")])))
    with pytest.raises(CorruptionError, match="out of order"):
        list(meta_entries(encode_block([(b"a", b""), (b"a", b"")])))


@given(st.binary(max_size=300))
def test_random_blocks_give_entries_or_corruption(block: bytes) -> None:
    for read in (data_entries, lambda b: list(meta_entries(b))):
        try:
            read(block)
        except CorruptionError:
            continue


@given(st.data())
def test_mutated_blocks_give_entries_or_corruption(data: st.DataObject) -> None:
    records = [(b"key%04d" % n, b"value" * (n % 60)) for n in range(40)]
    block = bytearray(data_block(records))
    for _ in range(data.draw(st.integers(1, 5))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    try:
        keys, values = data_entries(bytes(block), [])
        assert len(keys) == len(values)
    except CorruptionError:
        return


def test_a_block_of_nothing_but_restart_points_is_checked_in_little_memory() -> None:
    count = 2_000_000
    block = bytes(count) + struct.pack(f"<{count + 1}I", *range(count), count)
    tracemalloc.start()
    try:
        assert entries_end(block) == count
        with pytest.raises(CorruptionError):
            data_entries(block)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_many_restart_points_must_ascend_across_all_of_them() -> None:
    records = [(b"%06d" % n, b"") for n in range(10_000)]
    block = bytearray(data_block(records, 1))
    assert len(data_entries(bytes(block))[0]) == 10_000
    place = len(block) - 4 - 4 * (10_000 - 4096)
    block[place : place + 4] = block[place - 4 : place]
    with pytest.raises(CorruptionError, match="restart points"):
        entries_end(bytes(block))
