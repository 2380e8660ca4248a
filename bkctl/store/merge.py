"""The newest records of a key range out of many SST files, as RocksDB's iterator shows them.

Each run of files gives its records in the order of their internal keys: user key ascending, then
sequence number descending. The runs are merged a window at a time, up to the key that all of them
have been read to. Of each user key the first record counts, and is shown if it is a value or the
index of one in a blob file.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bkctl.codec.strings import I64, U8, U64, ByteStrings, as_scalars
from bkctl.errors import CorruptionError
from bkctl.sst.columns import Columns
from bkctl.store.tables import KIND_BITS, Run, Stretch, Tables, UnreadableError, records
from bkctl.titan import blob_index
from bkctl.titan.stored import StoredValues

MAX_TRAILER = (1 << 64) - 1
SCAN_CHUNK = 1 << 20
SEEK_CHUNK = 64 << 10
_MAX_CHUNK = 1 << 21
_ALL_CHUNKS = 16 << 20
_KIND_MASK = np.uint64((1 << KIND_BITS) - 1)
_DELETION, _VALUE, _SINGLE_DELETION = 0, 1, 7
# To how many records one more is put by looking up its place.
_MANY = 4
_LENGTH_SIZE = 4
_TRAILER_SIZE = 8

Position = tuple[bytes, int]
"""Where a record stands in the order of internal keys: (user key, inverted trailer)."""


def _position(columns: Columns, index: int) -> Position:
    return columns.keys[index], MAX_TRAILER - int(columns.trailers[index])


class Cursor:
    """One run's records in `[lower, upper)`, held a chunk at a time; chunks grow as it goes on."""

    def __init__(
        self, tables: Tables, run: Run, lower: bytes, upper: bytes, first: int, limit: int
    ) -> None:
        """The first chunk has about `first` bytes, the largest ones `limit`."""
        self._tables, self._files = tables, list(reversed(run.files))
        self._lower, self._upper = lower, upper
        self._limit, self._wanted = limit, min(first, limit)
        self._block = self._stop = 0
        self._last: Position | None = None
        self.chunk: Columns | None = None

    def fill(self) -> bool:
        """Have a chunk, reading one where there is none; False at the run's end."""
        while self.chunk is None and (stretches := self._read()):
            self._wanted = min(2 * self._wanted, self._limit)
            self._take_chunk(records(stretches))
        return self.chunk is not None

    def _read(self) -> list[Stretch]:
        """About as many bytes as are wanted; nothing at the run's end.

        Small files are read together: each step of looking at records has its cost, however few
        they are.
        """
        stretches: list[Stretch] = []
        left = self._wanted
        # No further file is opened for little more.
        while self._files and left > self._wanted // 2:
            table = self._tables.open(self._files[-1])
            if self._stop == 0:
                self._block, self._stop = table.blocks(self._lower, self._upper)
            if self._block < self._stop:
                blocks = table.read(self._block, self._stop, left)
                self._block += len(blocks)
                left -= sum(map(len, blocks))
                stretches.append(Stretch(blocks, table.sequence))
            if self._block >= self._stop:
                table.forget()
                self._files.pop()
                self._stop = 0
        return stretches

    def _take_chunk(self, read: Columns) -> None:
        first, last = _position(read, 0), _position(read, len(read) - 1)
        if (self._last is not None and first <= self._last) or not _ascends(read):
            raise CorruptionError(f"keys are out of order at {first[0].hex().upper()}")
        self._last = last
        if first[0] < self._lower or last[0] >= self._upper:
            keys, count = read.keys, range(len(read))
            start = bisect_left(count, self._lower, key=keys.__getitem__)
            read = read.slice(start, bisect_left(count, self._upper, key=keys.__getitem__))
        if len(read):
            self.chunk = read

    def last(self) -> Position:
        """The position of the chunk's last record."""
        assert self.chunk is not None
        return _position(self.chunk, len(self.chunk) - 1)

    def cut(self, bound: Position) -> Columns | None:
        """Take the chunk's records up to `bound`; None where there are none."""
        chunk = self.chunk
        assert chunk is not None
        if bound >= self.last():
            self.chunk = None
            return chunk
        count = bisect_right(range(len(chunk)), bound, key=lambda i: _position(chunk, i))
        if count == 0:
            return None
        self.chunk = chunk.slice(count, len(chunk))
        return chunk.slice(0, count)


def _ascends(columns: Columns) -> bool:
    """Whether records are in the order of internal keys; notes whether all keys are distinct."""
    if columns.is_distinct:
        return True
    ascends = columns.keys.ascends()
    columns.is_distinct = bool(ascends.all())
    if columns.is_distinct:
        return True
    newer_first = ~columns.keys.differs() & (columns.trailers[1:] < columns.trailers[:-1])
    return bool((ascends | newer_first).all())


class MergedScan:
    """The records of `[lower, upper)` that a reader of the newest state sees, in key order."""

    def __init__(self, tables: Tables, family: str, lower: bytes, upper: bytes, first: int) -> None:
        """Read about `first` bytes of each run to begin with.

        Raises UnreadableError or CorruptionError where the files cannot be read this way.
        """
        runs = tables.runs(family, lower, upper)
        limit = min(_MAX_CHUNK, _ALL_CHUNKS // max(1, len(runs)))
        self._cursors = [Cursor(tables, run, lower, upper, first, limit) for run in runs]
        self._last: bytes | None = None

    @property
    def last_key(self) -> bytes | None:
        """All records up to this key were taken; None where none were."""
        return self._last

    def take(self) -> tuple[ByteStrings, StoredValues] | None:
        """The next keys and values, about as many as a chunk has; None at the end.

        Raises UnreadableError for a record only RocksDB can read, CorruptionError, StorageError;
        `last_key` then tells how far the scan came.
        """
        while cursors := [cursor for cursor in self._cursors if cursor.fill()]:
            self._cursors = cursors
            bound = min(cursor.last() for cursor in cursors)
            pieces = [cursor.cut(bound) for cursor in cursors]
            merged = merge([piece for piece in pieces if piece is not None])
            keys, values = _shown(merged, self._last)
            self._last = merged.keys[len(merged) - 1]
            if len(keys):
                return keys, values
        return None


def _shown(columns: Columns, previous: bytes | None) -> tuple[ByteStrings, StoredValues]:
    """The records that are the first of their user key, and values; `previous` is passed."""
    kinds = columns.trailers & _KIND_MASK
    is_value = kinds == _VALUE
    is_blob = None
    if not is_value.all():
        is_blob = kinds == blob_index.KIND
        is_value |= is_blob
    if columns.is_distinct and columns.keys[0] != previous and is_value.all():
        return columns.keys, StoredValues(columns.values, is_blob)
    is_first = columns.keys.differs_from_previous(previous)
    is_known = is_value | (kinds == _DELETION) | (kinds == _SINGLE_DELETION)
    if not is_known.all():
        raise UnreadableError("a record that is neither a value nor a deletion")
    stored = StoredValues(columns.values, is_blob)
    index = np.flatnonzero(is_first & is_value)
    if len(index) == len(columns):
        return columns.keys, stored
    return columns.keys.thinned(index), stored.take(index)


def merge(pieces: Sequence[Columns]) -> Columns:
    """The records of all pieces, each in the order of internal keys, in that order."""
    if len(pieces) == 1:
        return pieces[0]
    most = max(range(len(pieces)), key=lambda number: len(pieces[number]))
    others = [piece for number, piece in enumerate(pieces) if number != most]
    if len(pieces[most]) >= _MANY * sum(map(len, others)):
        merged = _put_among(pieces[most], merge(others))
        if merged is not None:
            return merged
    return _sorted(pieces)


def _sorted(pieces: Sequence[Columns]) -> Columns:
    """See merge; by sorting all records."""
    width = max(int(piece.keys.lengths.max()) for piece in pieces)
    total = sum(map(len, pieces))
    # Sorted by user key, zeros up to the width, its length, and its trailer: newer is less.
    rows = np.zeros((total, width + _LENGTH_SIZE + _TRAILER_SIZE), np.uint8)
    start = 0
    for piece in pieces:
        stop = start + len(piece)
        keys = piece.keys.padded()
        rows[start:stop, : keys.shape[1]] = keys
        start = stop
    lengths = np.concatenate([piece.keys.lengths for piece in pieces])
    trailers = np.concatenate([piece.trailers for piece in pieces])
    rows[:, width:-_TRAILER_SIZE] = _big_endian(lengths.astype(np.uint64), _LENGTH_SIZE)
    rows[:, -_TRAILER_SIZE:] = _big_endian(~trailers, _TRAILER_SIZE)
    values = ByteStrings.joined([piece.values for piece in pieces])
    scalars = as_scalars(rows, "S")
    order = np.argsort(scalars, kind="stable")
    # Moved into order, as they will be gone through more than once.
    in_order, stride = scalars[order].view(np.uint8), rows.shape[1]
    starts = np.arange(total) * stride
    keys_in_order = ByteStrings(in_order, starts, lengths[order], stride=stride)
    return Columns(keys_in_order, trailers[order], values.take(order))


def _put_among(many: Columns, few: Columns) -> Columns | None:
    """See merge; by looking up where each of a few records belongs.

    None where that cannot be told so: keys of several widths, several versions of one key.
    """
    width = many.keys.width
    if not width or few.keys.width != width:
        return None
    keys, few_keys = many.keys.scalars(), few.keys.scalars()
    at = np.searchsorted(keys, few_keys)
    same = np.flatnonzero(at < len(keys))
    same = same[keys[at[same]] == few_keys[same]]
    behind = at[same] + 1
    inside = behind < len(keys)
    if (keys[behind[inside]] == few_keys[same[inside]]).any():
        return None
    at[same] += many.trailers[at[same]] > few.trailers[same]
    total = len(many) + len(few)
    places = at + np.arange(len(few))
    left = np.ones(total, np.bool_)
    left[places] = False

    def put(of_many: npt.NDArray[Any], of_few: npt.NDArray[Any]) -> npt.NDArray[Any]:
        column = np.empty(total, of_many.dtype)
        column[left], column[places] = of_many, of_few
        return column

    data = put(keys.view(f"V{width}"), few_keys.view(f"V{width}")).view(np.uint8)
    in_order = ByteStrings(
        data, np.arange(total) * width, np.full(total, width), width, stride=width
    )
    if many.keys.common is not None:
        in_order.common = put(many.keys.common, np.zeros(len(few), np.int64))
        _compare_anew(in_order, places)
    values = ByteStrings.joined([many.values, few.values])
    starts = put(values.starts[: len(many)], values.starts[len(many) :])
    lengths = put(values.lengths[: len(many)], values.lengths[len(many) :])
    return Columns(
        in_order,
        put(many.trailers, few.trailers),
        ByteStrings(values.data, starts, lengths, values.width),
    )


def _compare_anew(keys: ByteStrings, places: I64) -> None:
    """Find what keys at `places`, and those behind them, have in common with the ones before."""
    rows, common = keys.rows(), keys.common
    assert common is not None
    changed = np.zeros(len(keys) + 1, np.bool_)
    changed[places] = changed[places + 1] = True
    changed[0] = False
    new = np.flatnonzero(changed[:-1])
    differs = rows[new] != rows[new - 1]
    common[new] = np.where(differs.any(axis=1), differs.argmax(axis=1), rows.shape[1])


def _big_endian(numbers: U64, size: int) -> U8:
    return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - size :]
