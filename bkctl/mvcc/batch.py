"""A batch of versions from the `write` family, as columns: the hot loop's view of the records.

Nothing here runs once per record in Python: keys and values are joined into two buffers and read
as matrices. Records that are out of the ordinary (fences, fields of newer TiKVs, cut ones) are only
marked, and parsed one by one by whoever meets the mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import ne

import numpy as np
import numpy.typing as npt

from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import MAX_TS, TS_SIZE

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MAX_VARINT = 10
_MIN_KEY = 1 + 9 + TS_SIZE
_COLUMNS = np.arange(_MAX_VARINT)
_SHIFTS = (7 * _COLUMNS).astype(np.uint64)


def as_matrix(chunks: Sequence[bytes], width: int) -> U8:
    """Byte strings of one width as the rows of a matrix."""
    return np.frombuffer(b"".join(chunks), np.uint8).reshape(len(chunks), width)


def lengths_of(chunks: Sequence[bytes]) -> I64:
    """The length of each byte string."""
    return np.fromiter(map(len, chunks), np.int64, len(chunks))


def uniform_length(chunks: Sequence[bytes]) -> int | None:
    """The length that all have, or None."""
    lengths = set(map(len, chunks))
    return lengths.pop() if len(lengths) == 1 else None


@dataclass(slots=True)
class Keys:
    """The keys of a batch: commit timestamps, and where a new user key begins.

    `matrix` holds them as rows where all have one length. `is_new[i]` is false when key `i` is
    another version of the key before it.
    """

    keys: Sequence[bytes]
    matrix: U8 | None
    commit_ts: U64
    is_new: Mask

    @classmethod
    def read(cls, keys: Sequence[bytes], previous: bytes) -> Keys:
        """Read keys in order; `previous` is the user key part that came before the first."""
        width = uniform_length(keys)
        if (width if width is not None else min(map(len, keys))) < _MIN_KEY:
            raise CorruptionError(f"key {min(keys, key=len).hex().upper()} is no versioned key")
        is_new = np.empty(len(keys), np.bool_)
        is_new[0] = keys[0][:-TS_SIZE] != previous
        if width is None:
            users = [key[:-TS_SIZE] for key in keys]
            is_new[1:] = np.fromiter(map(ne, users[1:], users), np.bool_, len(keys) - 1)
            suffixes = as_matrix([key[-TS_SIZE:] for key in keys], TS_SIZE)
            return cls(keys, None, _timestamps(suffixes), is_new)
        matrix = as_matrix(keys, width)
        user = matrix[:, : width - TS_SIZE]
        np.any(user[1:] != user[:-1], axis=1, out=is_new[1:])
        return cls(keys, matrix, _timestamps(matrix[:, width - TS_SIZE :]), is_new)


def _timestamps(suffixes: U8) -> U64:
    inverted = np.ascontiguousarray(suffixes).view(">u8").ravel().astype(np.uint64)
    timestamps: U64 = inverted ^ np.uint64(MAX_TS)
    return timestamps


@dataclass(slots=True)
class Records:
    """The write records of a batch: types, and where their short values lie in `buffer`.

    `short_length` is -1 for a record that carries no short value. `is_odd` marks records with
    anything but a type, a start_ts and maybe a short value: they have to be parsed one by one.
    `matrix` holds the records as rows where all have one length.
    """

    buffer: U8
    matrix: U8 | None
    types: U8
    varint_starts: I64
    short_starts: I64
    short_length: I64
    is_odd: Mask

    @classmethod
    def read(cls, values: Sequence[bytes]) -> Records:
        """Read records; an empty one is refused, any other oddity is marked."""
        lengths = lengths_of(values)
        count, width = len(values), int(lengths[0])
        # Padding lets the reads below run past the last record's end.
        buffer = np.frombuffer(b"".join(values) + bytes(2 + _MAX_VARINT), np.uint8)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if not lengths.all():
            raise CorruptionError("an empty write record")
        matrix = None
        if width > _MAX_VARINT and bool((lengths == width).all()):
            matrix = buffer[: count * width].reshape(count, width)
            continued = matrix[:, 1 : 1 + _MAX_VARINT] >= 0x80
        else:
            continued = buffer[starts[:, None] + 1 + _COLUMNS] >= 0x80
        varint_last = np.argmin(continued, axis=1)
        # Ten bytes can hold more than 64 bits; that is checked one by one.
        overlong = (varint_last == _MAX_VARINT - 1) | continued[:, 0] & (varint_last == 0)
        rest = starts + 2 + varint_last
        left = ends - rest
        flag = buffer[np.minimum(rest, len(buffer) - 2)]
        length = buffer[np.minimum(rest + 1, len(buffer) - 1)].astype(np.int64)
        is_short = (flag == 0x76) & (left >= 2)
        is_odd = overlong | np.where(is_short, left != 2 + length, left != 0)
        return cls(
            buffer=buffer,
            matrix=matrix,
            types=buffer[starts],
            varint_starts=starts + 1,
            short_starts=rest + 2,
            short_length=np.where(is_short & ~is_odd, length, -1),
            is_odd=is_odd,
        )

    def start_ts(self, index: I64) -> U64:
        """The start timestamps of some records (not odd ones)."""
        raw = self.buffer[self.varint_starts[index][:, None] + _COLUMNS]
        continued = raw >= 0x80
        used = np.ones_like(continued)
        used[:, 1:] = np.logical_and.accumulate(continued[:, :-1], axis=1)
        low = np.where(used, raw & 0x7F, 0).astype(np.uint64)
        result: U64 = np.bitwise_or.reduce(low << _SHIFTS, axis=1)
        return result

    def payload(self, index: I64, length: int) -> U8:
        """The short values of some records, all `length` bytes long, as rows."""
        starts = self.short_starts[index]
        rows: U8
        if self.matrix is not None:
            columns = starts - index * self.matrix.shape[1]
            first = int(columns[0])
            if bool((columns == first).all()):
                rows = self.matrix if len(index) == len(self.matrix) else self.matrix[index]
                return rows[:, first : first + length]
        rows = self.buffer[starts[:, None] + np.arange(length)]
        return rows


def select(chunks: Sequence[bytes], mask: Mask) -> list[bytes]:
    """Those of `chunks` that the mask names."""
    return list(compress(chunks, mask.tolist()))
