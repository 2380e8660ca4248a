"""The records inside a plain block of an SST file.

    block    entry ... | restart offset (4, LE) ... | [hash buckets, their count (2, LE)]
             | restart count (4, LE; its top bit says that hash buckets are there)
    entry    varint shared, varint unshared, varint value length, key tail, value
    key      the first `shared` bytes of the key before, then the tail; `shared` is 0 at a restart
    data key user key, then 8 bytes LE: sequence number << 8 | kind

A block that describes others has the same shape with plain names for keys; index blocks are in
`index`. Source: RocksDB's table/block_based/block.cc, data_block_footer.cc and db/dbformat.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from operator import lt

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

KIND_VALUE = 1
TRAILER_SIZE = 8

# A block of a few megabytes can unfold into gigabytes of keys that share their beginnings, or into
# millions of objects without content; these are the bounds of what one block may unfold into.
MAX_BLOCK_ENTRIES = 1 << 16
MAX_SHARED_BYTES = 16 << 20
_RESTARTS_AT_A_TIME = 4096

KIND_NAMES: dict[int, str] = {
    0x00: "a deletion",
    0x02: "a merge operand",
    0x07: "a single deletion",
    0x0F: "a range deletion",
    0x11: "a reference into a blob file",
    0x14: "a deletion with a timestamp",
    0x16: "a wide-column entity",
    0x18: "a value with a preferred sequence number",
}

# The trailer of every record in a file made to be ingested: sequence number 0, kind 1.
_PLAIN_TRAILER = b"\x01" + bytes(7)
_HASH_INDEX_BIT = 1 << 31
# Larger blocks have no hash index, and RocksDB reads all 32 bits as the count.
_MAX_HASH_INDEXED = 1 << 16


def entries_end(block: bytes) -> int:
    """Return where the entries of `block` end, having checked the restart array behind them."""
    size = len(block)
    if size < 8:
        raise CorruptionError(f"a block of {size} bytes is too short to be one")
    end = size - 4
    count = int.from_bytes(block[end:], "little")
    if count & _HASH_INDEX_BIT and size <= _MAX_HASH_INDEXED:
        count &= ~_HASH_INDEX_BIT
        end -= 2 + int.from_bytes(block[end - 2 : end], "little")
    end -= 4 * count
    if end < 0 or count == 0:
        raise CorruptionError(f"{count} restart points do not fit in a block of {size} bytes")
    _check_restarts(block, end, count)
    return end


def _check_restarts(block: bytes, end: int, count: int) -> None:
    """Restart points ascend from 0 and lead to entries that share nothing with the key before."""
    if end == 0:
        if count != 1 or block[0:4] != bytes(4):
            raise CorruptionError("a block without entries has restart points")
        return
    last = -1
    # In pieces, because a large block may be nothing but restart points.
    for first in range(0, count, _RESTARTS_AT_A_TIME):
        size = min(_RESTARTS_AT_A_TIME, count - first)
        restarts = struct.unpack_from(f"<{size}I", block, end + 4 * first)
        if (
            restarts[0] <= last
            or (first == 0 and restarts[0] != 0)
            or restarts[-1] >= end
            or not all(map(lt, restarts, restarts[1:]))
            or any(map(block.__getitem__, restarts))
        ):
            raise CorruptionError("the block's restart points do not match its entries")
        last = restarts[-1]


def meta_entries(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, value's start, value's end) of the entries of a metaindex or properties block.

    Raises CorruptionError where an entry does not fit, names do not ascend or are too many.
    """
    end = entries_end(block)
    pos = unfolded = entries = 0
    name = b""
    while pos < end:
        shared, unshared, value_size, pos = _entry_header(block, pos)
        value_start = pos + unshared
        value_end = value_start + value_size
        if value_end > end or shared > len(name):
            raise CorruptionError("an entry's lengths run past its block")
        before, name = name, name[:shared] + block[pos:value_start]
        if entries and name <= before:
            raise CorruptionError(f"the name {name!r:.80} is out of order")
        unfolded += shared
        entries += 1
        if unfolded > MAX_SHARED_BYTES or entries > MAX_BLOCK_ENTRIES:
            raise CorruptionError("the block unfolds into more names than any file has")
        yield name, value_start, value_end
        pos = value_end


def data_entries(
    block: bytes, trailers: list[int] | None = None
) -> tuple[list[bytes], list[bytes]]:
    """Return (user keys, values) of a data block, in its order.

    With `trailers`, each record's `sequence number << 8 | kind` is appended to it, and records of
    all kinds are taken; without, a record that is no plain value is a CorruptionError, as are
    lengths that do not fit and more records than a block may hold.
    """
    end = entries_end(block)
    # This loop is what reading costs: names are local, the usual header (three one-byte numbers,
    # or a longer value) is read in place, and a key is cut from its trailer while it is put
    # together. `usual` is the trailer that needs no look; none is when all are asked for.
    usual = _PLAIN_TRAILER if trailers is None else b""
    keys: list[bytes] = []
    values: list[bytes] = []
    add_key = keys.append
    add_value = values.append
    key = trailer = b""
    pos = 0
    shared_left = MAX_SHARED_BYTES
    for _ in range(MAX_BLOCK_ENTRIES):
        if pos >= end:
            break
        shared = block[pos]
        unshared = block[pos + 1]
        value_size = block[pos + 2]
        if shared | unshared < 128 and (value_size < 128 or block[pos + 3] < 128):
            if value_size < 128:
                pos += 3
            else:
                value_size += (block[pos + 3] - 1) << 7
                pos += 4
        else:
            shared, unshared, value_size, pos = _entry_header(block, pos)
            shared_left -= shared
        tail_end = pos + unshared
        value_end = tail_end + value_size
        if value_end > end or shared_left < 0:
            raise CorruptionError("an entry's lengths run past its block")
        if unshared >= 8 and shared <= len(key):
            key = key[:shared] + block[pos : tail_end - 8]
            trailer = block[tail_end - 8 : tail_end]
        else:
            key, trailer = _unusual_key(key + trailer, shared, block[pos:tail_end])
        if trailer != usual:
            _take_trailer(trailer, trailers)
        add_key(key)
        add_value(block[tail_end:value_end])
        pos = value_end
    if pos < end:
        raise CorruptionError(f"the block has more than {MAX_BLOCK_ENTRIES} records")
    return keys, values


def _entry_header(block: bytes, pos: int) -> tuple[int, int, int, int]:
    """(shared, unshared, value length, position behind them), whatever their lengths."""
    usual = block[pos : pos + 3]
    if len(usual) == 3 and max(usual) < 0x80:
        return usual[0], usual[1], usual[2], pos + 3
    shared, pos = decode_uvarint(block, pos)
    unshared, pos = decode_uvarint(block, pos)
    value_size, pos = decode_uvarint(block, pos)
    return shared, unshared, value_size, pos


def _unusual_key(before: bytes, shared: int, tail: bytes) -> tuple[bytes, bytes]:
    """(user key, trailer) where the shared part of the key before reaches into its trailer."""
    if shared > len(before):
        raise CorruptionError("an entry shares more bytes than the key before it has")
    internal_key = before[:shared] + tail
    if len(internal_key) < TRAILER_SIZE:
        raise CorruptionError("a record's key is too short for its sequence number")
    return internal_key[:-TRAILER_SIZE], internal_key[-TRAILER_SIZE:]


def _take_trailer(trailer: bytes, trailers: list[int] | None) -> None:
    if trailers is not None:
        trailers.append(int.from_bytes(trailer, "little"))
    elif trailer[0] != KIND_VALUE:
        raise CorruptionError(f"a record is {kind_name(trailer[0])}, not a value")


def kind_name(kind: int) -> str:
    """Name a record's kind for a message."""
    return KIND_NAMES.get(kind, f"of the unknown kind {kind:#04x}")
