"""Many byte strings in one buffer, looked at all at once: a column of keys or of values.

Nothing here runs once per string in Python. A string of known length is read as an element of a
view in which elements overlap (one begins at every byte), so that gathering strings is one
indexing operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FEW = 1 << 16


def gather(data: U8, offsets: I64, size: int) -> U8:
    """The `size` bytes at each offset, as the rows of a new matrix.

    Offsets must not be negative; IndexError where bytes would lie past the end of `data`.
    """
    if size == 0 or not len(offsets):
        return np.empty((len(offsets), size), np.uint8)
    if len(data) < size:
        raise IndexError(f"{size} bytes asked of a buffer of {len(data)}")
    every = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
    return np.asarray(every[offsets].view(np.uint8)).reshape(len(offsets), size)


def distinct(numbers: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.integer[Any]], I64]:
    """The different numbers, none below zero, in order, and how often each is there."""
    if int(numbers.max(initial=0)) < _FEW:
        # Faster than `unique` by far, but takes memory for each number that there could be.
        counts = np.bincount(numbers)
        found = counts.nonzero()[0]
        return found, counts[found]
    return np.unique(numbers, return_counts=True)


class ByteStrings:
    """Byte strings; string `i` is `data[starts[i] : starts[i] + lengths[i]]`.

    `width` is the length that all of them have, or None. They may lie in any order in `data`,
    and overlap. `common`, where it is known, tells how many bytes each has in common with the one
    before it, at their beginnings (or more, where it has as many as it is long); that of the
    first means nothing. `stride` is how far apart they begin, where that is known to be the same
    for all of them.
    """

    __slots__ = ("common", "data", "lengths", "starts", "stride", "width")

    def __init__(
        self,
        data: U8,
        starts: I64,
        lengths: I64,
        width: int | None = None,
        common: I64 | None = None,
        stride: int | None = None,
    ) -> None:
        """`width` saves looking whether all lengths are equal."""
        self.data, self.starts, self.lengths, self.common = data, starts, lengths, common
        self.stride = stride
        if width is None and len(lengths) and bool((lengths == lengths[0]).all()):
            width = int(lengths[0])
        self.width = width

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> ByteStrings:
        """The same strings as objects of their own."""
        lengths = np.fromiter(map(len, strings), np.int64, len(strings))
        ends = np.cumsum(lengths)
        return cls(np.frombuffer(b"".join(strings), np.uint8), ends - lengths, lengths)

    @classmethod
    def joined(cls, pieces: Sequence[ByteStrings]) -> ByteStrings:
        """All strings of all pieces (each not empty), over one buffer: the stretches they span."""
        if len(pieces) == 1:
            return pieces[0]
        buffers, starts, offset = [], [], 0
        for piece in pieces:
            low = int(piece.starts.min())
            high = int((piece.starts + piece.lengths).max())
            buffers.append(piece.data[low:high])
            starts.append(piece.starts - low + offset)
            offset += high - low
        lengths = np.concatenate([piece.lengths for piece in pieces])
        return cls(np.concatenate(buffers), np.concatenate(starts), lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()

    def slice(self, start: int, stop: int) -> ByteStrings:
        """Strings `[start, stop)`, in the same buffer."""
        common = None if self.common is None else self.common[start:stop]
        starts, lengths = self.starts[start:stop], self.lengths[start:stop]
        return ByteStrings(self.data, starts, lengths, self.width, common, self.stride)

    def take(self, index: I64 | Mask) -> ByteStrings:
        """Those at the given positions, in the same buffer."""
        return ByteStrings(self.data, self.starts[index], self.lengths[index], self.width)

    def thinned(self, index: I64) -> ByteStrings:
        """Those at the given ascending positions; strings must be in the order of their bytes.

        What they have in common with those before them stays known.
        """
        taken = self.take(index)
        if self.common is not None and len(index):
            # In that order, two strings have in common what all between them have, too.
            firsts = np.concatenate(([0], index[:-1] + 1))
            taken.common = np.minimum.reduceat(self.common[: index[-1] + 1], firsts)
        return taken

    def trimmed(self, head: int, tail: int) -> ByteStrings:
        """Each without its first `head` and its last `tail` bytes; all must be that long."""
        width = None if self.width is None else self.width - head - tail
        # Strings that differ in their first bytes may go on with common ones.
        common = self.common if head == 0 else None
        starts, lengths = self.starts + head, self.lengths - (head + tail)
        return ByteStrings(self.data, starts, lengths, width, common, self.stride)

    def rows(self) -> U8:
        """The strings as rows of a matrix, not to be changed; they must have one width."""
        if self.width is None:
            if len(self):
                raise ValueError("strings of several lengths are no matrix")
            return np.empty((0, 0), np.uint8)
        if self.stride is None or not len(self):
            return gather(self.data, self.starts, self.width)
        start, shape = int(self.starts[0]), (len(self), self.width)
        rows: U8 = np.ndarray(shape, np.uint8, self.data, start, (self.stride, 1))
        rows.flags.writeable = False
        return rows

    def padded(self) -> U8:
        """The strings as rows of a matrix as wide as the longest, with zeros behind the others.

        It is not to be changed.
        """
        if self.width is not None:
            return self.rows()
        width = int(self.lengths.max(initial=0))
        data = self.data
        if len(self) and int(self.starts.max()) + width > len(data):
            data = np.concatenate((data, np.zeros(width, np.uint8)))
        rows = gather(data, self.starts, width)
        rows[np.arange(width) >= self.lengths[:, None]] = 0
        return rows

    def last(self, size: int) -> U8:
        """The last `size` bytes of each, as rows; all must be that long."""
        return gather(self.data, self.starts + self.lengths - size, size)

    def tolist(self) -> list[bytes]:
        """The strings as objects of their own."""
        if not len(self):
            return []
        if self.width:
            strings: list[bytes] = as_scalars(self.rows(), "V").tolist()
            return strings
        first = int(self.starts.min())
        starts = self.starts - first
        ends = starts + self.lengths
        data = self.data[first : first + int(ends.max())].tobytes()
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return [data[start:end] for start, end in pairs]

    def ascends(self) -> Mask:
        """Whether each string but the first is above the one before it."""
        if self.width == 0 or len(self) < 2:
            return np.zeros(max(len(self) - 1, 0), np.bool_)
        rows = self.scalars()
        ascends: Mask = rows[1:] > rows[:-1]
        if self.width is None:
            # Zeros behind a string do not count in a comparison; lengths tell what is longer.
            ascends |= (rows[1:] == rows[:-1]) & (self.lengths[1:] > self.lengths[:-1])
        return ascends

    def differs_from_previous(self, previous: bytes | None) -> Mask:
        """Whether each string is another than the one before it; `previous` precedes the first."""
        differs = np.empty(len(self), np.bool_)
        if len(self):
            differs[0] = self[0] != previous
            differs[1:] = self.differs()
        return differs

    def differs(self) -> Mask:
        """Whether each string but the first is another than the one before it."""
        if self.width == 0 or len(self) < 2:
            return np.zeros(max(len(self) - 1, 0), np.bool_)
        if self.common is not None and self.width is not None:
            same: Mask = self.common[1:] >= self.width
            return ~same
        rows = self.scalars()
        differs: Mask = rows[1:] != rows[:-1]
        if self.width is None:
            differs |= self.lengths[1:] != self.lengths[:-1]
        return differs

    def scalars(self) -> npt.NDArray[np.bytes_]:
        """The strings, not all empty, as scalars to compare: with zeros behind the shorter ones."""
        if self.stride is None or self.width is None:
            return as_scalars(self.padded(), "S")
        start, kind = int(self.starts[0]), f"S{self.width}"
        scalars: npt.NDArray[np.bytes_]
        scalars = np.ndarray((len(self),), kind, self.data, start, (self.stride,))
        return scalars


def as_scalars(rows: U8, kind: str) -> npt.NDArray[np.bytes_]:
    """Rows of a matrix as scalars: `S` to compare them (zeros at their ends do not count), or `V`.

    Rows must not be empty.
    """
    scalars: npt.NDArray[np.bytes_] = np.ascontiguousarray(rows).view(f"{kind}{rows.shape[1]}")
    return scalars.ravel()
