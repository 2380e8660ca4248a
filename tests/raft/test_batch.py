"""Log batches: vectors written down by hand, and all that makes no sense is told."""

from __future__ import annotations

import zlib
from array import array

import lz4.block
import pytest

from bkctl.errors import CorruptionError
from bkctl.raft.batch import (
    CLEAN,
    COMPACT,
    DELETE,
    ENTRIES,
    PUT,
    Header,
    Item,
    Span,
    check_sums,
    plain_entries,
    read_header,
    read_items,
    read_spans,
)
from tests.raft.writer import Batch, varint

# Two entries of region 300, "ab" and "c", from index 7 on; region 5 is compacted up to 9.
ITEMS = bytes.fromhex("02 ac02 01 02 07 02 03  05 02 02 09")
WHOLE = (
    (16 + 7 + len(ITEMS) + 4 << 8).to_bytes(8, "big")
    + (16 + 7).to_bytes(8, "big")
    + b"abc"
    + zlib.crc32(b"abc").to_bytes(4, "little")
    + ITEMS
    + (zlib.crc32(ITEMS) ^ 11).to_bytes(4, "little")
)


def test_a_batch_written_by_hand_is_read() -> None:
    header = read_header(WHOLE)
    assert header == Header(len(WHOLE), 0, 23)
    check_sums(memoryview(WHOLE), header, 11)
    items = read_items(WHOLE[23:-4])
    assert items == [
        Item(ENTRIES, 300, 7, 2, b"", b"\x02\x03"),
        Item(COMPACT, 5, 9, 0, b"", b""),
    ]
    assert plain_entries(memoryview(WHOLE), header) == b"abc"
    assert read_spans(items, 300, 3) == [Span(7, array("Q", [0, 2, 3]))]
    assert read_spans(items, 5, 3) == []


def test_the_tests_writer_writes_the_same() -> None:
    batch = Batch().entries(300, 7, [b"ab", b"c"]).compact(5, 9)
    assert batch.encode(11) == WHOLE


def test_all_kinds_of_items_are_read() -> None:
    large = 1 << 40
    batch = Batch().entries(large, large, [b"x"] * 200).entries(3, 0, []).clean(large)
    batch.put(200, b"k" * 300, b"v" * 20_000).put(0, b"", b"").delete(1, b"key").compact(9, large)
    encoded = batch.encode()
    items = read_items(encoded[read_header(encoded).items_at : -4])
    assert [item._replace(value=b"") for item in items if item.kind == ENTRIES] == [
        Item(ENTRIES, large, large, 200, b"", b""),
        Item(ENTRIES, 3, 0, 0, b"", b""),
    ]
    assert [item for item in items if item.kind != ENTRIES] == [
        Item(CLEAN, large, 0, 0, b"", b""),
        Item(PUT, 200, 0, 0, b"k" * 300, b"v" * 20_000),
        Item(PUT, 0, 0, 0, b"", b""),
        Item(DELETE, 1, 0, 0, b"key", b""),
        Item(COMPACT, 9, large, 0, b"", b""),
    ]


def test_compressed_entries_are_read() -> None:
    encoded = Batch().entries(1, 1, [b"x" * 5000]).encode(compress=True)
    header = read_header(encoded)
    assert header.compression == 1
    assert header.size < 200
    assert plain_entries(memoryview(encoded), header) == b"x" * 5000


@pytest.mark.parametrize(
    "items",
    [
        "",  # no count
        "01",  # one item, and none is there
        "01 05 04",  # an unknown item
        "01 05 02 03",  # an unknown command
        "01 05 02",  # a command that is not there
        "01 05 03 00 01 6b",  # an unknown operation
        "01 05 03 01 02 6b",  # a key cut short
        "01 05 03 01 01 6b 05 76",  # a value cut short
        "01 05 01 03 07 01 02",  # three entries, two ends
        "01 05 01 ffffffffffffffffff01 07 01",  # more entries than there are bytes
        "01 05 01 01 ffffffffffffffffff01 01",  # an index at the end of what 64 bits hold
        "01 ffffffffffffffffffff01 02 01",  # a region id of more than 64 bits
        "01 05 02 01 00",  # a byte too many
        "ffffffffffffffffff01 05 02 01",  # more items than there are
    ],
)
def test_items_that_make_no_sense_are_told(items: str) -> None:
    with pytest.raises(CorruptionError):
        read_items(bytes.fromhex(items))


@pytest.mark.parametrize(
    ("size", "compression", "items_at"),
    [
        (0, 0, 0),
        (100, 2, 16),  # an unknown compression
        (100, 0, 15),  # items in the header
        (100, 0, 18),  # entries of no more than half a checksum
        (20, 0, 16),  # items of no more than their checksum
        (100, 0, 97),  # items behind the end
    ],
)
def test_headers_that_make_no_sense_are_told(size: int, compression: int, items_at: int) -> None:
    data = (size << 8 | compression).to_bytes(8, "big") + items_at.to_bytes(8, "big")
    with pytest.raises(CorruptionError, match=r"header|compression"):
        read_header(data)


def test_entries_begin_where_those_of_other_regions_end() -> None:
    batch = Batch().entries(1, 10, [b"x" * 1000] * 3).entries(2, 20, [b"y" * 9])
    batch.put(3, b"R", b"").entries(1, 13, [b"z"]).entries(2, 20, [b"", b"last"])
    encoded = batch.encode()
    header = read_header(encoded)
    items = read_items(encoded[header.items_at : -4])
    plain = plain_entries(memoryview(encoded), header)
    found = {
        (region_id, first + i): plain[bounds[i] : bounds[i + 1]]
        for region_id in (1, 2, 3)
        for first, bounds in read_spans(items, region_id, len(plain))
        for i in range(len(bounds) - 1)
    }
    first = {(1, index): b"x" * 1000 for index in (10, 11, 12)}
    assert found == first | {(1, 13): b"z", (2, 20): b"", (2, 21): b"last"}


@pytest.mark.parametrize("ends", [(5, 3), (2, 9)])
def test_entries_that_overlap_or_pass_the_end_are_told(ends: tuple[int, int]) -> None:
    item = Item(ENTRIES, 1, 1, 2, b"", varint(ends[0]) + varint(ends[1]))
    with pytest.raises(CorruptionError, match="entries of region 1"):
        read_spans([item], 1, 8)


@pytest.mark.parametrize("declared", [0, 4999, 5001, 1 << 28, 0xFFFFFFFF])
def test_a_wrong_plain_size_is_told_before_memory_is_taken(declared: int) -> None:
    packed = declared.to_bytes(4, "little") + lz4.block.compress(b"x" * 5000, store_size=False)
    whole = bytes(16) + packed + bytes(4)
    with pytest.raises(CorruptionError, match="LZ4"):
        plain_entries(memoryview(whole), Header(len(whole) + 9, 1, len(whole)))


@pytest.mark.parametrize("place", [*range(len(WHOLE))])
def test_a_flipped_byte_is_told(place: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= 0x10
    with pytest.raises(CorruptionError):
        check_sums(memoryview(damaged), read_header(bytes(damaged)), 11)
