"""Reads the log batches of raft-engine: what is written, and synced, at one go.

A file holds one behind the other (`log_file`):

    | size << 8 | compression (8, BE) | where the items begin (8, BE) |      from the batch's start
    | the entries' bytes | crc32 (4, LE) |          both absent where items begin right here, at 16
    | count | item | item | … | crc32 (4, LE) |                        the numbers here are varints

The entries' bytes are protobuf Entry messages (bkctl/proto/eraftpb.proto) of all regions in the
batch. compression 0: as they are; 1: | plain size (4, LE) | LZ4 block |. The checksum is over what
is stored. In files of version 2 that of the items is XORed with the file's number, so that what an
earlier use of a recycled file left does not count. An item:

    region id | 01 | count | index of the first | where each ends in the plain bytes …     entries
    region id | 02 01                                              the region goes, all that it has
    region id | 02 02 | index                                      its entries below the index go
    region id | 03 01 | key size | key | value size | value        a value of the region's
    region id | 03 02 | key size | key                             that value goes

Ends run on over all items of the batch: an entry begins where the one before it ends.
Source: raft-engine's src/log_batch.rs.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import lz4.block

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

HEADER = struct.Struct(">QQ")
CHECKSUM_SIZE = 4
NONE, LZ4 = 0, 1

# What is behind a region's id in an item.
ENTRIES_ITEM, COMMAND_ITEM, VALUE_ITEM = 1, 2, 3
_FIRST, _SECOND = 1, 2
_MAX_INDEX = (1 << 64) - 1
_LZ4_SIZE = 4
# No LZ4 block unfolds a byte to more.
_LZ4_RATIO = 255
# TiKV ends batches at 1 MiB, and an entry is 8 MiB at most by default.
_MAX_PLAIN = 256 << 20

ENTRIES, CLEAN, COMPACT, PUT, DELETE = range(5)


class Item(NamedTuple):
    """One item of a batch; what its `kind` has no use for is 0 or empty.

    ENTRIES are `entry_count` entries from `log_index` on, `value` says where each ends; COMPACT
    drops those below `log_index`, CLEAN the region; PUT sets `key` to `value`, DELETE drops it.
    """

    kind: int
    region_id: int
    log_index: int
    entry_count: int
    key: bytes
    value: bytes


# Makes an Item of a tuple, at a third of the price.
_new: Callable[[tuple[int, int, int, int, bytes, bytes]], Item] = partial(tuple.__new__, Item)


class Header(NamedTuple):
    """A batch's header; sizes in bytes, from the batch's start."""

    size: int
    compression: int
    items_at: int


class Span(NamedTuple):
    """Where a region's entries from the index `first` on lie: entry i in `bounds[i : i + 2]`."""

    first: int
    bounds: array[int]


def read_header(data: bytes | memoryview) -> Header:
    """Read 16 bytes as a header; CorruptionError for what cannot be one."""
    if len(data) < HEADER.size:
        raise CorruptionError("its header is cut short")
    lead, items_at = HEADER.unpack_from(data)
    header = Header(lead >> 8, lead & 0xFF, items_at)
    stored = items_at - HEADER.size
    if (
        header.compression > LZ4
        or not (stored == 0 or stored > CHECKSUM_SIZE)
        or header.size <= items_at + CHECKSUM_SIZE
    ):
        raise CorruptionError("its header makes no sense")
    return header


def read_items(block: bytes) -> list[Item]:
    """Read the items, without their checksum; CorruptionError for what makes no sense."""
    items: list[Item] = []
    try:
        count, pos = decode_uvarint(block, 0)
        # Half the time of opening a log goes into this: numbers of one byte are read in place.
        for _ in range(count):
            region_id, pos = block[pos], pos + 1
            if region_id >= 0x80:
                region_id, pos = _long(block, pos, region_id)
            kind = block[pos]
            if kind == ENTRIES_ITEM:
                item, pos = _entries(block, pos + 1, region_id)
            elif kind == VALUE_ITEM:
                item, pos = _value(block, pos + 1, region_id)
            elif kind == COMMAND_ITEM:
                item, pos = _command(block, pos + 1, region_id)
            else:
                raise CorruptionError(f"it has an unknown item, {kind}")
            items.append(item)
    except IndexError:
        raise CorruptionError("its items are cut short") from None
    if pos != len(block):
        raise CorruptionError("bytes are left behind its items, or cut off")
    return items


def _entries(block: bytes, pos: int, region_id: int) -> tuple[Item, int]:
    count, pos = block[pos], pos + 1
    if count >= 0x80:
        count, pos = _long(block, pos, count)
    if count == 0:
        return _new((ENTRIES, region_id, 0, 0, b"", b"")), pos
    index, pos = block[pos], pos + 1
    if index >= 0x80:
        index, pos = _long(block, pos, index)
    if index + count > _MAX_INDEX:
        raise CorruptionError("it has an entry whose index is over 64 bits")
    start = pos
    for _ in range(count):
        while block[pos] >= 0x80:
            pos += 1
        pos += 1
    return _new((ENTRIES, region_id, index, count, b"", block[start:pos])), pos


def _value(block: bytes, pos: int, region_id: int) -> tuple[Item, int]:
    operation, size = block[pos], block[pos + 1]
    if size == 1:  # as most are: the raft state's
        key, pos = block[pos + 2 : pos + 3], pos + 3
    else:
        key, pos = _string(block, pos + 1)
    if operation == _FIRST:
        value, pos = _string(block, pos)
        return _new((PUT, region_id, 0, 0, key, value)), pos
    if operation == _SECOND:
        return _new((DELETE, region_id, 0, 0, key, b"")), pos
    raise CorruptionError(f"it has an unknown operation, {operation}")


def _command(block: bytes, pos: int, region_id: int) -> tuple[Item, int]:
    command, pos = block[pos], pos + 1
    if command == _FIRST:
        return _new((CLEAN, region_id, 0, 0, b"", b"")), pos
    if command == _SECOND:
        index, pos = decode_uvarint(block, pos)
        return _new((COMPACT, region_id, index, 0, b"", b"")), pos
    raise CorruptionError(f"it has an unknown command, {command}")


def _long(block: bytes, pos: int, low: int) -> tuple[int, int]:
    """The varint whose first byte, `low`, is before `pos`, and the position behind it."""
    byte = block[pos]
    number = (low & 0x7F) | (byte & 0x7F) << 7
    if byte < 0x80:
        return number, pos + 1
    byte = block[pos + 1]
    if byte < 0x80:
        return number | byte << 14, pos + 2
    return decode_uvarint(block, pos - 1)


def _string(block: bytes, pos: int) -> tuple[bytes, int]:
    size, pos = block[pos], pos + 1
    if size >= 0x80:
        size, pos = _long(block, pos, size)
    end = pos + size
    if end > len(block):
        raise CorruptionError("its items are cut short")
    return block[pos:end], end


def read_spans(items: Iterable[Item], region_id: int, plain_size: int) -> list[Span]:
    """Where the entries of a region lie among the plain bytes; later spans take precedence.

    CorruptionError where an entry ends before it begins, or behind `plain_size`.
    """
    spans: list[Span] = []
    end = 0
    for item in items:
        if item.kind != ENTRIES or not item.entry_count:
            continue
        if item.region_id != region_id:
            end = _last_number(item.value)
            continue
        bounds, ends, pos = [end], item.value, 0
        while pos < len(ends):
            end, pos = ends[pos], pos + 1
            if end >= 0x80:
                end, pos = _long(ends, pos, end)
            bounds.append(end)
        if sorted(bounds) != bounds or end > plain_size:
            raise CorruptionError(
                f"entries of region {region_id} are said to be at {bounds[:9]}…, of {plain_size} "
                "bytes"
            )
        spans.append(Span(item.log_index, array("Q", bounds)))
    return spans


def _last_number(numbers: bytes) -> int:
    """The last of some varints."""
    start = len(numbers) - 1
    while start and numbers[start - 1] >= 0x80:
        start -= 1
    return decode_uvarint(numbers, start)[0]


def plain_entries(stored: memoryview, header: Header) -> bytes:
    """The plain bytes of a whole batch's entries; CorruptionError if they cannot be had."""
    entries = stored[HEADER.size : max(HEADER.size, header.items_at - CHECKSUM_SIZE)]
    if header.compression == NONE or not entries:
        return bytes(entries)
    size = int.from_bytes(entries[:_LZ4_SIZE], "little")
    if size > min(_MAX_PLAIN, _LZ4_RATIO * len(entries)):
        raise CorruptionError(f"its LZ4 block declares {size} bytes, more than it can hold")
    try:
        plain: bytes = lz4.block.decompress(entries[_LZ4_SIZE:], uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError) as e:
        raise CorruptionError(f"its LZ4 block cannot be decompressed: {e}") from None
    if len(plain) != size:
        raise CorruptionError(f"its LZ4 block declares {size} bytes and holds {len(plain)}")
    return plain


def check_sums(stored: memoryview, header: Header, signature: int) -> None:
    """Check a whole batch against its checksums; CorruptionError where one does not fit."""
    items_at, items_end = header.items_at, header.size - CHECKSUM_SIZE
    crc = zlib.crc32(stored[items_at:items_end]) ^ signature
    if crc != int.from_bytes(stored[items_end:], "little"):
        raise CorruptionError("its items do not fit their checksum")
    entries_end = items_at - CHECKSUM_SIZE
    if entries_end > HEADER.size:
        crc = zlib.crc32(stored[HEADER.size : entries_end])
        if crc != int.from_bytes(stored[entries_end:items_at], "little"):
            raise CorruptionError("its entries do not fit their checksum")
