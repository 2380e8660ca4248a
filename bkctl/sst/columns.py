"""The records of many data blocks at once, as columns: what `blocks` does, without a loop a record.

`walk` finds the entries; the keys are unfolded here, step by step for all runs of entries at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bkctl.codec.strings import I64, U8, U64, ByteStrings, gather
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE
from bkctl.sst.format import BLOCK_TRAILER_SIZE
from bkctl.sst.walk import PADDING, Entries, find_entries, find_runs, varints

MAX_KEY_SIZE = PADDING
_MAX_UNFOLDED = 64 << 20
# Offsets in a file stay far below 2^63.
_MAX_VARINT_64 = 8


@dataclass(slots=True)
class Columns:
    """Records, by columns; `trailers` are sequence number << 8 | kind.

    `is_distinct` says that the keys are known to ascend, each above the one before it.
    """

    keys: ByteStrings
    trailers: U64
    values: ByteStrings
    is_distinct: bool = False

    def __len__(self) -> int:
        return len(self.trailers)

    def slice(self, start: int, stop: int) -> Columns:
        """Records `[start, stop)`."""
        return Columns(
            self.keys.slice(start, stop),
            self.trailers[start:stop],
            self.values.slice(start, stop),
            self.is_distinct,
        )


def decode_blocks(blocks: Sequence[bytes]) -> Columns:
    """Read plain data blocks, which must follow each other in their file, as columns.

    Raises CorruptionError where lengths do not fit, and for what RocksDB never makes though it
    could be read: keys over 4 KiB, runs of over 1,024 entries, blocks without entries.
    """
    padding = bytes(PADDING)
    data = np.frombuffer(b"".join((padding, *blocks, padding)), np.uint8)
    sizes = np.fromiter(map(len, blocks), np.int64, len(blocks))
    entries = find_entries(data, *find_runs(data, sizes))
    keys, trailers = _keys(data, entries)
    in_order = entries.in_order
    values = ByteStrings(data, in_order(entries.values), in_order(entries.value_lengths))
    columns = Columns(keys, trailers, values)
    if keys.width:
        columns.is_distinct = _compare(keys, in_order(entries.shared))
    return columns


def row_counts(columns: Columns, blocks: Sequence[bytes]) -> I64:
    """How many of the records that `decode_blocks` made of `blocks` came from each."""
    sizes = np.fromiter(map(len, blocks), np.int64, len(blocks))
    starts = PADDING + np.cumsum(sizes) - sizes
    # Values, even empty ones, lie in their blocks, which have something behind them.
    firsts = np.searchsorted(columns.values.starts, starts)
    return np.diff(firsts, append=len(columns))


def index_columns(block: bytes, *, delta_values: bool) -> tuple[ByteStrings, I64, I64] | None:
    """(keys as stored, offsets, sizes) of an index block whose entries are all restart points.

    None for any other block: `index_entries` reads those, one entry at a time, and tells damage.
    """
    padding = bytes(PADDING)
    data = np.frombuffer(b"".join((padding, block, padding)), np.uint8)
    try:
        pos, stops = find_runs(data, np.array([len(block)]))
        shared, pos = varints(data, pos)
        lengths, pos = varints(data, pos)
        if not delta_values:
            sizes, pos = varints(data, pos)
            if (pos + lengths + sizes != stops).any():
                return None
        if shared.any() or (pos + lengths >= stops).any():
            return None
        offsets, ends = varints(data, pos + lengths, _MAX_VARINT_64)
        sizes, ends = varints(data, ends, _MAX_VARINT_64)
    except CorruptionError:
        return None
    block_ends = offsets + sizes + BLOCK_TRAILER_SIZE
    ascending = bool((offsets[1:] >= block_ends[:-1]).all()) and bool((sizes >= 0).all())
    if (ends != stops).any() or not ascending or (offsets < 0).any():
        return None
    return ByteStrings(data, pos, lengths), offsets, sizes


def user_keys(internal_keys: ByteStrings) -> ByteStrings:
    """Internal keys without their trailers; CorruptionError for one that is too short."""
    if (internal_keys.lengths < TRAILER_SIZE).any():
        raise CorruptionError("a key is too short for its sequence number")
    return internal_keys.trimmed(0, TRAILER_SIZE)


def _compare(keys: ByteStrings, shared: I64) -> bool:
    """Find what keys of one width have in common with those before them; whether all ascend.

    `shared` is what an entry says it shares, which may be less than it could.
    """
    assert keys.width is not None
    common = np.minimum(shared, keys.width - 1)
    data, after, before = keys.data, keys.starts[1:], keys.starts[:-1]
    here, there = data[after + common[1:]], data[before + common[1:]]
    # Where the first bytes not shared are equal, more than that is common: a restart, mostly.
    more = np.flatnonzero(here == there)
    if len(more):
        left = gather(data, after[more], keys.width)
        right = gather(data, before[more], keys.width)
        differs = left != right
        first = differs.argmax(axis=1)
        number = np.arange(len(more))
        here[more], there[more] = left[number, first], right[number, first]
        common[1:][more] = np.where(differs[number, first], first, keys.width)
    keys.common = common
    return bool((here > there).all())


def _keys(data: U8, entries: Entries) -> tuple[ByteStrings, U64]:
    """Unfold the keys into a matrix: what an entry shares comes from the row of the one before."""
    lengths = entries.in_order(entries.key_lengths)
    width, total = int(lengths.max()), len(lengths)
    if width > MAX_KEY_SIZE or width * entries.shared.size > _MAX_UNFOLDED:
        raise CorruptionError(f"keys of {width} bytes, or too many of them in a block")
    steps = len(entries.shared)
    keys = gather(data, (entries.tails - entries.shared).ravel(), width).reshape(steps, -1)
    # A row read at `width - n` of this keeps the first `n` bytes.
    keep = np.repeat(np.array([0xFF, 0], np.uint8), width)
    kept = gather(keep, (width - entries.shared).ravel(), width).reshape(steps, -1)
    for step in range(1, steps):
        others = keys[step] ^ keys[step - 1]
        others &= kept[step]
        keys[step] ^= others
    unfolded = entries.in_order(keys.view(f"V{width}").reshape(entries.shared.shape))
    flat = unfolded.view(np.uint8)
    starts = np.arange(total) * width
    trailers = gather(flat, starts + lengths - TRAILER_SIZE, TRAILER_SIZE)
    keys_only = ByteStrings(flat, starts, lengths - TRAILER_SIZE, stride=width)
    return keys_only, trailers.view("<u8").ravel().astype(np.uint64)
