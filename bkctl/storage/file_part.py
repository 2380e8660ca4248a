"""A part of a local file on its way to a service: never whole in memory, unless asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

import google_crc32c

from bkctl.errors import StorageError

BLOCK = 256 << 10
_PAID_STEP = 64 << 10
_READ_SIZE = 1 << 20

Problem = Callable[[OSError | None], StorageError]
"""Builds the error of a file that cannot be read, or (None) that became shorter."""


def crc32c(data: bytes, before: int = 0) -> int:
    """Compute the CRC-32C of bytes, continuing that of the bytes `before`."""
    return int(google_crc32c.extend(before, data))


class FilePart:
    """`size` bytes of an open file from `offset` on; all reads raise what `problem` builds."""

    def __init__(self, file: BinaryIO, offset: int, size: int, problem: Problem) -> None:
        self._file, self._offset, self._size, self._problem = file, offset, size, problem

    def __len__(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` of the part on: `length` of them, or fewer where it ends."""
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        try:
            data = os.pread(self._file.fileno(), length, self._offset + offset)
        except OSError as e:
            raise self._problem(e) from e
        if len(data) < length:
            raise self._problem(None)
        return data

    def data(self) -> bytes:
        """The whole part."""
        return self.read_at(0, self._size)

    def crc32c(self, before: int = 0, length: int | None = None) -> int:
        """The CRC-32C of the part, or its first `length` bytes, continuing that of `before`."""
        end = self._size if length is None else length
        for offset in range(0, end, _READ_SIZE):
            before = crc32c(self.read_at(offset, min(_READ_SIZE, end - offset)), before)
        return before


class FileBody:
    """A part as a request's body: HTTP clients read it block by block; `take` slows that down."""

    def __init__(self, part: FilePart) -> None:
        self._part, self._at = part, 0
        self.take: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self._part)

    def read(self, size: int = -1) -> bytes:
        """Give the next bytes, at most `size` or a block of them, once they may be sent."""
        step = BLOCK if self.take is None else _PAID_STEP
        piece = self._part.read_at(self._at, step if size < 0 else min(size, step))
        if piece and self.take is not None:
            self.take(len(piece))
        self._at += len(piece)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(BLOCK):
            yield piece

    def tell(self) -> int:
        """Tell the position, as clients ask to send a body a second time."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; bytes sent again are paid again."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._part)}[whence]
        self._at = max(0, min(base + offset, len(self._part)))
        return self._at
