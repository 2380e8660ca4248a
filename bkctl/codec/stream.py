"""Bytes read from a beginning to an end, a piece at a time, from what can be read anywhere."""

from __future__ import annotations

from collections.abc import Callable

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

CHUNK = 1 << 20
_MAX_VARINT = 10

ReadAt = Callable[[int, int], bytes]
"""Reads `length` bytes at `offset`; fewer only at the end."""


def read_bytes(data: bytes) -> ReadAt:
    """What reads from bytes that are at hand."""
    return lambda offset, length: data[offset : offset + length]


class ByteStream:
    """The bytes `[start, end)`; no more than a piece of them, or what is asked for, is in memory.

    `told` is given each piece as it is read, in order.
    """

    def __init__(
        self,
        read_at: ReadAt,
        start: int,
        end: int,
        told: Callable[[bytes], object] = lambda piece: None,
        piece_size: int = CHUNK,
    ) -> None:
        self._read_at, self._told, self._piece_size = read_at, told, piece_size
        self._piece, self._at = b"", 0
        # The offset behind the piece.
        self._read, self.end = start, end

    @property
    def position(self) -> int:
        """The offset of the next byte."""
        return self._read - len(self._piece) + self._at

    def peek(self) -> memoryview:
        """What is at hand of the bytes that follow; nothing only at the end."""
        if self._at == len(self._piece):
            self._fetch(0)
        return memoryview(self._piece)[self._at :]

    def take(self, count: int) -> bytes:
        """The next `count` bytes; CorruptionError where there are not so many."""
        if len(self._piece) - self._at < count:
            if self.end - self.position < count:
                raise CorruptionError("it is cut short")
            self._fetch(count)
        start, self._at = self._at, self._at + count
        return self._piece[start : self._at]

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes; CorruptionError where there are not so many."""
        if self.end - self.position < count:
            raise CorruptionError("it is cut short")
        while count:
            step = min(count, len(self.peek()))
            self._at += step
            count -= step

    def varint(self) -> int:
        """The next varint; CorruptionError where it is cut, or longer than 64 bits."""
        if len(self._piece) - self._at < _MAX_VARINT:
            self._fetch(_MAX_VARINT)
        number, self._at = decode_uvarint(self._piece, self._at)
        return number

    def read_on(self) -> None:
        """Read what is left, for who is told of it."""
        self.skip(self.end - self.position)

    def _fetch(self, count: int) -> None:
        """Have `count` bytes at hand, if there are so many, and some if there are any."""
        kept = self._piece[self._at :]
        wanted = min(max(count - len(kept), self._piece_size), self.end - self._read)
        if wanted <= 0 and self._at == 0:
            return
        piece = self._read_at(self._read, wanted) if wanted > 0 else b""
        if len(piece) < wanted:
            raise CorruptionError("it is cut short")
        self._told(piece)
        self._read += len(piece)
        self._piece, self._at = kept + piece, 0
