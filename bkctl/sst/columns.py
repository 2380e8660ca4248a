"""The records of many data blocks at once, as columns: what `blocks` does, without a loop a record.

A block's restart points each begin a run of entries that leads to the next (16 of them, mostly).
Runs are independent of each other: the first entries of all runs of all blocks are read in one
step, then the second ones, and so on. What is checked is the same as for a block by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bkctl.codec.strings import I64, U8, U32, U64, ByteStrings, gather
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE
from bkctl.sst.format import BLOCK_TRAILER_SIZE

# Zeros around the blocks, so that reading a key's width at once stays inside the buffer.
_PADDING = 4096
MAX_KEY_SIZE = _PADDING
_MAX_RUN = 1024
_MAX_UNFOLDED = 64 << 20
_HASH_INDEX_BIT = 1 << 31
_MAX_HASH_INDEXED = 1 << 16
_MAX_VARINT = 5
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


@dataclass(slots=True)
class _Step:
    """One entry of each run that has one left, by columns.

    `runs` are the runs' numbers, `kept` their positions in the step before.
    """

    runs: I64
    kept: I64 | None
    shared: I64
    key_lengths: I64
    tails: I64
    values: I64
    value_lengths: I64


def decode_blocks(blocks: Sequence[bytes]) -> Columns:
    """Read plain data blocks, which must follow each other in their file, as columns.

    Raises CorruptionError where lengths do not fit, and for what RocksDB never makes though it
    could be read: keys over 4 KiB, runs of over 1,024 entries, blocks without entries.
    """
    padding = bytes(_PADDING)
    data = np.frombuffer(b"".join((padding, *blocks, padding)), np.uint8)
    sizes = np.fromiter(map(len, blocks), np.int64, len(blocks))
    starts, stops = _runs(data, sizes)
    steps = _steps(data, starts, stops)
    counts = np.zeros(len(starts), np.int64)
    for number, step in enumerate(steps):
        counts[step.runs] = number + 1
    first_rows = np.cumsum(counts) - counts
    rows = [first_rows[step.runs] + number for number, step in enumerate(steps)]
    total = int(counts.sum())
    values = ByteStrings(
        data,
        _scattered(rows, [step.values for step in steps], total),
        _scattered(rows, [step.value_lengths for step in steps], total),
    )
    keys, trailers = _keys(data, steps, rows, total)
    columns = Columns(keys, trailers, values)
    if keys.width:
        columns.is_distinct = _compare(keys, _scattered(rows, [s.shared for s in steps], total))
    return columns


def row_counts(columns: Columns, blocks: Sequence[bytes]) -> I64:
    """How many of the records that `decode_blocks` made of `blocks` came from each."""
    sizes = np.fromiter(map(len, blocks), np.int64, len(blocks))
    starts = _PADDING + np.cumsum(sizes) - sizes
    # Values, even empty ones, lie in their blocks, which have something behind them.
    firsts = np.searchsorted(columns.values.starts, starts)
    return np.diff(firsts, append=len(columns))


def index_columns(block: bytes, *, delta_values: bool) -> tuple[ByteStrings, I64, I64] | None:
    """(keys as stored, offsets, sizes) of an index block whose entries are all restart points.

    None for any other block: `index_entries` reads those, one entry at a time, and tells damage.
    """
    padding = bytes(_PADDING)
    data = np.frombuffer(b"".join((padding, block, padding)), np.uint8)
    try:
        pos, stops = _runs(data, np.array([len(block)]))
        shared, pos = _varints(data, pos)
        lengths, pos = _varints(data, pos)
        if not delta_values:
            sizes, pos = _varints(data, pos)
            if (pos + lengths + sizes != stops).any():
                return None
        if shared.any() or (pos + lengths >= stops).any():
            return None
        offsets, ends = _varints(data, pos + lengths, _MAX_VARINT_64)
        sizes, ends = _varints(data, ends, _MAX_VARINT_64)
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


def _runs(data: U8, sizes: I64) -> tuple[I64, I64]:
    """Where each run of entries starts and stops, from the restart arrays of all blocks."""
    u32 = np.ndarray((len(data) - 3,), "<u4", data, 0, (1,))
    ends = _PADDING + np.cumsum(sizes)
    starts = ends - sizes
    if (sizes < 8).any():
        raise CorruptionError("a block is too short to be one")
    counts = u32[ends - 4].astype(np.int64)
    entries_end = ends - 4
    hashed = (counts >= _HASH_INDEX_BIT) & (sizes <= _MAX_HASH_INDEXED)
    if hashed.any():
        counts[hashed] -= _HASH_INDEX_BIT
        at = entries_end[hashed]
        entries_end[hashed] = at - 2 - (u32[at - 2] & 0xFFFF)
    restarts = entries_end - 4 * counts
    if (counts == 0).any() or (restarts <= starts).any():
        raise CorruptionError("a block's restart points do not fit in it")
    block_of_run = np.repeat(np.arange(len(sizes)), counts)
    first_runs = np.cumsum(counts) - counts
    number_in_block = np.arange(len(block_of_run)) - first_runs[block_of_run]
    run_starts = starts[block_of_run] + u32[restarts[block_of_run] + 4 * number_in_block]
    run_stops = np.empty_like(run_starts)
    run_stops[:-1] = run_starts[1:]
    run_stops[first_runs + counts - 1] = restarts
    if (run_starts[first_runs] != starts).any() or (run_starts >= run_stops).any():
        raise CorruptionError("a block's restart points do not match its entries")
    return run_starts, run_stops


def _steps(data: U8, starts: I64, stops: I64) -> list[_Step]:
    """Walk all runs in step; every length is checked before it is used."""
    u32 = np.ndarray((len(data) - 3,), "<u4", data, 0, (1,))
    pos, runs = starts, np.arange(len(starts))
    kept: I64 | None = None
    before = np.zeros(len(starts), np.int64)
    steps: list[_Step] = []
    while len(steps) < _MAX_RUN:
        shared, unshared, value_lengths, tails = _headers(data, u32[pos], pos)
        key_lengths = shared + unshared
        values = tails + unshared
        pos = values + value_lengths
        if (pos > stops).any() or (shared > before).any() or (key_lengths < TRAILER_SIZE).any():
            raise CorruptionError("an entry's lengths run past its block, or its key's")
        steps.append(_Step(runs, kept, shared, key_lengths, tails, values, value_lengths))
        more = pos < stops
        if more.all():
            kept, before = None, key_lengths
            continue
        kept = np.flatnonzero(more)
        if not len(kept):
            return steps
        pos, stops, runs, before = pos[kept], stops[kept], runs[kept], key_lengths[kept]
    raise CorruptionError(f"a run of more than {_MAX_RUN} entries between restart points")


def _headers(data: U8, first_bytes: U32, pos: I64) -> tuple[I64, I64, I64, I64]:
    """(shared, unshared, value length, position behind them) of the entries at `pos`."""
    if not (first_bytes & 0x8080).any():
        shared, unshared = first_bytes & 0x7F, first_bytes >> 8 & 0x7F
        length = first_bytes >> 16 & 0x7F
        is_longer = (first_bytes & 0x800000) != 0
        if not is_longer.any():
            return _wide(shared), _wide(unshared), _wide(length), pos + 3
        if not (is_longer & (first_bytes >= 1 << 31)).any():
            length |= np.where(is_longer, first_bytes >> 24 << 7, 0).astype(np.uint32)
            return _wide(shared), _wide(unshared), _wide(length), pos + 3 + is_longer
    shared_any, pos = _varints(data, pos)
    unshared_any, pos = _varints(data, pos)
    length_any, pos = _varints(data, pos)
    return shared_any, unshared_any, length_any, pos


def _wide(numbers: npt.NDArray[np.integer[Any]]) -> I64:
    return numbers.astype(np.int64)


def _varints(data: U8, pos: I64, limit: int = _MAX_VARINT) -> tuple[I64, I64]:
    """Varints of at most `limit` bytes at `pos`, and the positions behind them."""
    byte = data[pos].astype(np.int64)
    numbers, ends = byte & 0x7F, pos + 1
    more = np.flatnonzero(byte >= 0x80)
    shift = 7
    while len(more):
        if shift >= 7 * limit:
            raise CorruptionError(f"a varint of more than {limit} bytes")
        byte = data[ends[more]].astype(np.int64)
        numbers[more] |= (byte & 0x7F) << shift
        ends[more] += 1
        more = more[byte >= 0x80]
        shift += 7
    return numbers, ends


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


def _scattered(rows: Sequence[I64], columns: Sequence[I64], total: int) -> I64:
    out = np.empty(total, np.int64)
    for row, column in zip(rows, columns, strict=True):
        out[row] = column
    return out


def _keys(
    data: U8, steps: Sequence[_Step], rows: Sequence[I64], total: int
) -> tuple[ByteStrings, U64]:
    """Unfold the keys into a matrix: what an entry shares comes from the row of the one before."""
    width = max(int(step.key_lengths.max()) for step in steps)
    if width > MAX_KEY_SIZE or width * total > _MAX_UNFOLDED:
        raise CorruptionError(f"keys of {width} bytes, or too many of them in a block")
    unfolded = np.empty(total, f"V{width}")
    # A row read at `width - n` of this keeps the first `n` bytes.
    keep = np.repeat(np.array([0xFF, 0], np.uint8), width)
    before: U8 | None = None
    for step, row in zip(steps, rows, strict=True):
        keys = gather(data, step.tails - step.shared, width)
        if before is not None:
            if step.kept is not None:
                before = before[step.kept]
            keys ^= (keys ^ before) & gather(keep, width - step.shared, width)
        unfolded[row] = keys.view(f"V{width}").ravel()
        before = keys
    flat = unfolded.view(np.uint8)
    lengths = _scattered(rows, [step.key_lengths for step in steps], total)
    starts = np.arange(total) * width
    trailers = gather(flat, starts + lengths - TRAILER_SIZE, TRAILER_SIZE)
    keys_only = ByteStrings(flat, starts, lengths - TRAILER_SIZE, stride=width)
    return keys_only, trailers.view("<u8").ravel().astype(np.uint64)
