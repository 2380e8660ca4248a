"""Finds the entries of many data blocks at once, without a loop a record.

A block's restart points each begin a run of entries that leads to the next (16 of them, mostly).
Runs are independent of each other: the first entries of all runs of all blocks are read in one
step, then the second ones, and so on. What is checked is the same as for a block by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bkctl.codec.strings import I64, U8, Mask
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE

# Zeros around the blocks, so that reading a key's width at once stays inside the buffer.
PADDING = 4096
_MAX_RUN = 1024
_FEW_CELLS = 1 << 16
_HASH_INDEX_BIT = 1 << 31
_MAX_HASH_INDEXED = 1 << 16
_MAX_VARINT = 5
# Of an entry, the first two varints go on in a second byte, or the third one in a third.
_IS_LONG = 0x8080
_IS_LONGER = 0x80800000


def _advances() -> I64:
    """By an entry's third and fourth byte: the size of its header and its value.

    The first two bytes are one varint each, the others the value's length, or its beginning.
    """
    third, fourth = np.arange(1 << 16) & 0xFF, np.arange(1 << 16) >> 8
    return np.where(third < 0x80, 3 + third, 4 + (third & 0x7F) + (fourth << 7))


_ADVANCES = _advances()


@dataclass(slots=True)
class Entries:
    """What entries say of themselves, as matrices: in row `i` the `i`-th of each run.

    A key has `shared` bytes of the one before it, then those at `tails` up to `values`.
    """

    is_there: Mask | None
    """Which runs have so many; what is not there is 0 in the others. None: all are."""
    shared: I64
    key_lengths: I64
    tails: I64
    values: I64
    value_lengths: I64

    def in_order(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What a matrix says of the entries, in their order."""
        if self.is_there is None:
            return np.asarray(matrix.T).ravel()
        return np.asarray(matrix.T[self.is_there.T])


def find_runs(data: U8, sizes: I64) -> tuple[I64, I64]:
    """Where each run of entries starts and stops, from the restart arrays of all blocks.

    `data` holds the blocks, one behind the other, with `PADDING` zeros around them.
    """
    u32 = np.ndarray((len(data) - 3,), "<u4", data, 0, (1,))
    ends = PADDING + np.cumsum(sizes)
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


def find_entries(data: U8, starts: I64, stops: I64) -> Entries:
    """All entries of the runs; all lengths are checked. Raises CorruptionError."""
    entries = _short_entries(data, starts, stops) or _any_entries(data, starts, stops)
    shared, key_lengths = entries.shared, entries.key_lengths
    too_short = key_lengths < TRAILER_SIZE
    if entries.is_there is not None:
        too_short &= entries.is_there
    if too_short.any() or shared[0].any() or (shared[1:] > key_lengths[:-1]).any():
        raise CorruptionError("an entry's lengths do not fit its key, or the one before it")
    return entries


def _short_entries(data: U8, starts: I64, stops: I64) -> Entries | None:
    """The entries if they have short keys, and values below 16 KiB; None if not.

    Each run is read on behind its end, as if more followed, until all have ended. That is looked
    at then, once for all: what is read by mistake does no harm.
    """
    u32 = np.ndarray((len(data) - 3,), "<u4", data, 0, (1,))
    last = len(u32) - 1
    position = starts
    positions, heads = [], []
    # All have as many entries, mostly, and that is a power of two.
    for step in range(1, _MAX_RUN + 1):
        positions.append(position)
        head = u32[position].astype(np.int64)
        heads.append(head)
        position = position + (head >> 8 & 0xFF)
        position += _ADVANCES[head >> 16]
        np.minimum(position, last, out=position)
        if step & (step - 1) == 0:
            if not (position < stops).any():
                break
            if 2 * step * len(starts) > _most_cells(data):
                return None
    else:
        return None
    return _understood(np.array(positions), np.array(heads), position, stops)


def _understood(positions: I64, heads: I64, ends: I64, stops: I64) -> Entries | None:
    """What the first four bytes of entries say; None if some need more than those."""
    is_there: Mask | None = positions < stops
    assert is_there is not None
    if is_there.all():
        is_there = None
    else:
        counts = np.count_nonzero(is_there, axis=0)
        ends = np.concatenate((positions, ends[None]))[counts, np.arange(len(stops))]
        positions *= is_there
        heads *= is_there
    if (heads & _IS_LONG).any() or ((heads & _IS_LONGER) == _IS_LONGER).any():
        return None
    if (ends != stops).any():
        raise CorruptionError(_PAST_ITS_BLOCK)
    shared, unshared = heads & 0x7F, heads >> 8 & 0x7F
    header_sizes = (heads >> 23 & 1) + 3
    tails = positions + header_sizes
    value_lengths = _ADVANCES[heads >> 16] - header_sizes
    return Entries(is_there, shared, shared + unshared, tails, tails + unshared, value_lengths)


def _any_entries(data: U8, starts: I64, stops: I64) -> Entries:
    """The entries, whatever their lengths."""
    position, runs = starts, np.arange(len(starts))
    steps: list[tuple[I64, ...]] = []
    while len(runs):
        if len(steps) == _MAX_RUN:
            raise CorruptionError(_TOO_LONG)
        if (len(steps) + 1) * len(starts) > _most_cells(data):
            raise CorruptionError("runs of entries of very different lengths")
        shared, tails = varints(data, position)
        unshared, tails = varints(data, tails)
        value_lengths, tails = varints(data, tails)
        values = tails + unshared
        position = values + value_lengths
        if (position > stops).any():
            raise CorruptionError(_PAST_ITS_BLOCK)
        steps.append((runs, shared, shared + unshared, tails, values, value_lengths))
        more = np.flatnonzero(position < stops)
        position, stops, runs = position[more], stops[more], runs[more]
    shape = len(steps), len(starts)
    is_there = np.zeros(shape, np.bool_)
    matrices = [np.zeros(shape, np.int64) for _ in steps[0][1:]]
    for number, (runs, *columns) in enumerate(steps):
        is_there[number, runs] = True
        for matrix, column in zip(matrices, columns, strict=True):
            matrix[number, runs] = column
    return Entries(is_there, *matrices)


_TOO_LONG = f"a run of more than {_MAX_RUN} entries between restart points"
_PAST_ITS_BLOCK = "an entry's lengths run past its block, or the next restart point"


def _most_cells(data: U8) -> int:
    """How large a matrix may be: one long run among many short ones is not worth the memory."""
    return max(len(data) // 4, _FEW_CELLS)


def varints(data: U8, pos: I64, limit: int = _MAX_VARINT) -> tuple[I64, I64]:
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
