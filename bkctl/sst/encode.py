"""Makes data blocks of records given as columns: what `columns` undoes, without a loop a record.

Where every entry goes is worked out first; then headers, key tails and values are put there, all
those of one length in one indexing operation. `blocks` shows the format.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bkctl.codec.strings import I64, U8, ByteStrings, distinct
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE

RESTART_INTERVAL = 16
# Sequence number 0, kind 1 (a value): what a file made to be ingested has behind each key.
PLAIN_TRAILER = b"\x01" + bytes(TRAILER_SIZE - 1)
_U32_SIZE = 4
_HEADER_SIZE = 4


@dataclass(slots=True)
class Blocks:
    """Plain blocks in one buffer: block `i` is `data[bounds[i] : bounds[i + 1]]`.

    `last_rows[i]` is the number of the last record in it.
    """

    data: U8
    bounds: list[int]
    last_rows: I64


def encode_blocks(keys: ByteStrings, values: ByteStrings, block_size: int) -> Blocks:
    """Lay records, at least one, out in blocks of about `block_size` bytes.

    Raises CorruptionError where keys do not ascend.
    """
    count = len(keys)
    shared = _shared(keys)
    # A first estimate, in which restart points are spread over all entries.
    sizes = keys.lengths - shared + values.lengths + (TRAILER_SIZE + _HEADER_SIZE)
    restart_cost = (int(shared.sum()) // count + _U32_SIZE) // RESTART_INTERVAL + 1
    firsts = _first_rows(np.cumsum(sizes + restart_cost), block_size)
    counts = np.diff(firsts, append=count)
    in_block = np.arange(count) - np.repeat(firsts, counts)
    restarts = np.flatnonzero(in_block % RESTART_INTERVAL == 0)
    shared[restarts] = 0
    tails = keys.lengths - shared
    numbers = (shared, tails + TRAILER_SIZE, values.lengths)
    sizes = sum(map(_varint_sizes, numbers)) + tails + TRAILER_SIZE + values.lengths
    # Behind its entries a block has its restart points and their count.
    footers = _U32_SIZE * (1 + (counts + RESTART_INTERVAL - 1) // RESTART_INTERVAL)
    block_sizes = np.add.reduceat(sizes, firsts) + footers
    bounds = np.concatenate(([0], np.cumsum(block_sizes)))
    extra = np.concatenate(([0], np.cumsum(footers)[:-1]))
    starts = np.cumsum(sizes) - sizes + np.repeat(extra, counts)
    data = np.empty(int(bounds[-1]), np.uint8)
    at = _put_headers(data, starts, *numbers)
    _put(data, at, ByteStrings(keys.data, keys.starts + shared, tails))
    at = at + tails
    trailer = np.frombuffer(PLAIN_TRAILER, f"V{TRAILER_SIZE}")
    _every(data, TRAILER_SIZE)[at] = trailer[0]
    _put(data, at + TRAILER_SIZE, values)
    _put_restarts(data, starts, restarts, firsts, bounds, footers)
    return Blocks(data, bounds.tolist(), firsts + counts - 1)


def encode_index(keys: ByteStrings, offsets: I64, sizes: I64) -> bytes:
    """An index block: the last key of each block, one at least, and where the block lies.

    All entries are restart points, and tell no lengths of their values.
    """
    parts = [np.zeros(len(keys), np.int64), keys.lengths, offsets, sizes]
    header, place = (sum(map(_varint_sizes, pair)) for pair in (parts[:2], parts[2:]))
    entry_sizes = header + keys.lengths + place
    ends = np.cumsum(entry_sizes)
    starts = ends - entry_sizes
    total = int(ends[-1])
    data = np.empty(total + _U32_SIZE * (len(keys) + 1), np.uint8)
    at = _put_varints(data, _put_varints(data, starts, parts[0]), parts[1])
    _put(data, at, keys)
    _put_varints(data, _put_varints(data, at + keys.lengths, offsets), sizes)
    data[total:].view("<u4")[:] = np.append(starts, len(keys))
    return data.tobytes()


def _shared(keys: ByteStrings) -> I64:
    """How many bytes each key has in common with the one before it, at their beginnings."""
    shared = np.zeros(len(keys), np.int64)
    if len(keys) == 1:
        return shared
    if keys.common is not None and keys.width:
        common = np.minimum(keys.common[1:], keys.width - 1)
        ascends = keys.data[keys.starts[1:] + common] > keys.data[keys.starts[:-1] + common]
    else:
        rows = keys.padded()
        if not rows.shape[1]:
            raise CorruptionError("keys are out of order: empty ones")
        common = (rows[1:] != rows[:-1]).argmax(axis=1)
        number = np.arange(len(common))
        ascends = rows[1:][number, common] > rows[:-1][number, common]
    # Keys that differ in their lengths alone differ nowhere in what is padded with zeros.
    for i in np.flatnonzero(~ascends).tolist():
        if keys[i + 1] <= keys[i]:
            raise CorruptionError(f"keys are out of order at {keys[i + 1].hex().upper()}")
        common[i] = keys.lengths[i]
    shared[1:] = common
    if keys.width is None:
        np.minimum(shared[1:], keys.lengths[:-1], out=shared[1:])
    return shared


def _first_rows(ends: I64, block_size: int) -> I64:
    """The first record of each block: as many as fit into the size, and at least one."""
    firsts, row, base = [], 0, 0
    listed = ends.tolist()
    while row < len(listed):
        firsts.append(row)
        row = max(bisect_right(listed, base + block_size, row), row + 1)
        base = listed[row - 1]
    return np.array(firsts)


def _varint_sizes(numbers: I64) -> I64:
    sizes = np.ones(len(numbers), np.int64)
    top = int(numbers.max())
    for bits in range(7, top.bit_length(), 7):
        sizes += numbers >= 1 << bits
    return sizes


def _put_headers(data: U8, at: I64, shared: I64, unshared: I64, lengths: I64) -> I64:
    """Write the three numbers before each entry; returns the positions behind them."""
    if max(int(shared.max()), int(unshared.max())) < 1 << 7 and int(lengths.max()) < 1 << 14:
        # At most four bytes: a fourth that is none of the header's is written over afterwards.
        is_longer = lengths >= 1 << 7
        third = (lengths & 0x7F | is_longer << 7) << 16
        header = shared | unshared << 8 | third | lengths >> 7 << 24
        _every(data, _U32_SIZE)[at] = header.astype("<u4").view(f"V{_U32_SIZE}")
        return at + 3 + is_longer
    for number in (shared, unshared, lengths):
        at = _put_varints(data, at, number)
    return at


def _put_varints(data: U8, at: I64, numbers: I64) -> I64:
    """Write varints; returns the positions behind them."""
    behind = at + 1
    more = np.flatnonzero(numbers >= 0x80)
    data[at] = numbers & 0x7F
    rest, at = numbers[more], at[more]
    while len(more):
        data[at] |= 0x80
        rest, at = rest >> 7, at + 1
        data[at] = rest & 0x7F
        behind[more] += 1
        longer = rest >= 0x80
        more, rest, at = more[longer], rest[longer], at[longer]
    return behind


def _every(data: U8, size: int) -> npt.NDArray[np.void]:
    """All stretches of `size` bytes, by where they begin."""
    every: npt.NDArray[np.void] = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
    return every


def _put(data: U8, at: I64, strings: ByteStrings) -> None:
    """Write strings to their places, which do not overlap."""
    if strings.width is not None:
        if strings.width:
            _every(data, strings.width)[at] = _every(strings.data, strings.width)[strings.starts]
        return
    lengths = distinct(strings.lengths)[0]
    if len(lengths) * 8 > len(strings):
        _put_singly(data, at, strings)
        return
    for length in lengths.tolist():
        if length:
            index = np.flatnonzero(strings.lengths == length)
            source = _every(strings.data, length)[strings.starts[index]]
            _every(data, length)[at[index]] = source


def _put_singly(data: U8, at: I64, strings: ByteStrings) -> None:
    target, source = data.data, np.ascontiguousarray(strings.data).data
    places = zip(at.tolist(), strings.starts.tolist(), strings.lengths.tolist(), strict=True)
    for place, start, length in places:
        target[place : place + length] = source[start : start + length]


def _put_restarts(
    data: U8, starts: I64, restarts: I64, firsts: I64, bounds: I64, footers: I64
) -> None:
    """Write each block's restart points and their count behind its entries."""
    block_of = np.searchsorted(firsts, restarts, side="right") - 1
    first_restarts = np.searchsorted(restarts, firsts)
    number = np.arange(len(restarts)) - first_restarts[block_of]
    ends = bounds[1:]
    at = (ends - footers)[block_of] + _U32_SIZE * number
    offsets = starts[restarts] - bounds[:-1][block_of]
    every = _every(data, _U32_SIZE)
    every[at] = offsets.astype("<u4").view(f"V{_U32_SIZE}")
    every[ends - _U32_SIZE] = (footers // _U32_SIZE - 1).astype("<u4").view(f"V{_U32_SIZE}")
