"""The index of an SST file: which data block holds which keys.

    entry    varint shared, varint unshared, varint value length, key tail, value
    same, values as deltas (format 4 and up, where the properties say so)
             varint shared, varint unshared, key tail, value
    key      a separator: not below any key of its block, below all keys of the next; a user key
             (format 3 and up, where the properties say so) or an internal key
    value    handle; or, as a delta, where `shared` is not 0, the zigzag of the size less the size
             before: the block then starts where the one before ends
             with first keys (index type 3) also varint length, the block's first internal key

In a two-level index (type 2) the values of the index lead to blocks of the same shape, and those
of these to the data. Source: RocksDB's table/block_based/index_builder.cc and table/format.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bkctl.codec.varint import decode_uvarint, decode_zigzag
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE, entries_end
from bkctl.sst.format import BlockHandle, decode_handle

BINARY_SEARCH = 0
HASH_SEARCH = 1
TWO_LEVEL = 2
WITH_FIRST_KEY = 3

# Index entries are made one at a time, so this bounds copying, not memory: far above what 16 MiB
# of an index with one restart in 16 entries can share.
_MAX_SHARED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class IndexShape:
    """How an index is written: its `type`, whether keys are user keys, values deltas."""

    type: int
    user_keys: bool
    delta_values: bool


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One block of the file: no key in it is above `separator` (a user key, as is `first_key`).

    `trailer` is the separator's sequence number << 8 | kind, where it is an internal key.
    """

    separator: bytes
    handle: BlockHandle
    first_key: bytes | None = None
    trailer: int | None = field(default=None, compare=False)


def index_entries(block: bytes, shape: IndexShape, *, top: bool = False) -> Iterator[IndexEntry]:
    """Yield the entries of an index block; `top` says it is the upper one of two levels.

    Raises CorruptionError where an entry does not fit, or leads to a block before the one that
    the entry before leads to (so that no index can lead in circles).
    """
    end = entries_end(block)
    with_first_key = shape.type == WITH_FIRST_KEY and not top
    handle = BlockHandle(0, 0)
    key = b""
    pos = unfolded = lowest = 0
    while pos < end:
        shared, pos = decode_uvarint(block, pos)
        unshared, pos = decode_uvarint(block, pos)
        value_end: int | None = None
        if not shape.delta_values:
            value_size, pos = decode_uvarint(block, pos)
            value_end = pos + unshared + value_size
        value_start = pos + unshared
        unfolded += shared
        if value_start > end or shared > len(key) or unfolded > _MAX_SHARED_BYTES:
            raise CorruptionError("an index entry's lengths run past its block")
        key = key[:shared] + block[pos:value_start]
        if shape.delta_values and shared:
            growth, pos = decode_zigzag(block, value_start)
            handle = BlockHandle(handle.end, handle.size + growth)
        else:
            handle, pos = decode_handle(block, value_start)
        first_key = None
        if with_first_key:
            first_key, pos = _first_key(block, pos, end)
        if pos > end or (value_end is not None and pos != value_end):
            raise CorruptionError("an index entry's value has not the length it should")
        if handle.size < 0 or handle.offset < lowest:
            raise CorruptionError("the index leads back to a block before the one it just named")
        lowest = handle.end
        if shape.user_keys:
            yield IndexEntry(key, handle, first_key)
        else:
            trailer = int.from_bytes(key[-TRAILER_SIZE:], "little")
            yield IndexEntry(_user_key(key), handle, first_key, trailer)


def _first_key(block: bytes, pos: int, end: int) -> tuple[bytes, int]:
    size, pos = decode_uvarint(block, pos)
    if pos + size > end:
        raise CorruptionError("an index entry's first key runs past its block")
    return _user_key(block[pos : pos + size]), pos + size


def _user_key(internal_key: bytes) -> bytes:
    if len(internal_key) < TRAILER_SIZE:
        raise CorruptionError("a key in the index is too short for its sequence number")
    return internal_key[:-TRAILER_SIZE]
