"""Where the bytes of an SST file come from: a local file, or anything that reads ranges."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bkctl.errors import CorruptionError, StorageError
from bkctl.shortage import reason_of


class RandomReader(Protocol):
    """A file of known size whose bytes can be read anywhere."""

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`; fewer only where the file ends before."""
        ...


class FileReader:
    """A local file, open from the start until `close`; also a context manager."""

    def __init__(self, path: Path | str) -> None:
        """Open `path`; StorageError if that fails."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise StorageError(f"{path}: cannot be opened: {reason_of(e)}") from None
        self._open = True
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        """The file's size in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`, fewer at the file's end, or raise StorageError."""
        try:
            data = os.pread(self._fd, length, offset)
            while data and len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as e:
            raise StorageError(f"{self._path}: cannot be read: {reason_of(e)}") from None
        return data

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._open:
            self._open = False
            os.close(self._fd)

    def __enter__(self) -> FileReader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class CachedReader:
    """Reads through two kept pieces: the file's tail and the last stretch read ahead.

    A file's footer, properties and index stand at its end, so for most files one read of the tail
    is all that opening one takes.
    """

    TAIL = 64 << 10
    AHEAD = 1 << 20

    def __init__(self, reader: RandomReader) -> None:
        """Read the tail of `reader`."""
        self._reader = reader
        self.size = reader.size
        self._tail_start = max(0, self.size - self.TAIL)
        self._tail = self._fetch(self._tail_start, self.size - self._tail_start)
        self._ahead_start = 0
        self._ahead = b""

    def read(self, offset: int, length: int, ahead_to: int = 0) -> bytes:
        """Return exactly the `length` bytes at `offset`, which must lie inside the file.

        What has to be fetched is fetched up to 1 MiB ahead, though not past the offset `ahead_to`.
        Raises CorruptionError if the file turns out shorter than its size.
        """
        end = offset + length
        if offset >= self._tail_start:
            return self._tail[offset - self._tail_start : end - self._tail_start]
        kept = offset - self._ahead_start
        if kept < 0 or end > self._ahead_start + len(self._ahead):
            wanted = max(length, min(self.AHEAD, ahead_to - offset))
            # The old stretch goes first: with large blocks there must not be two of them.
            self._ahead = b""
            fetched = self._fetch(offset, wanted)
            if wanted == length:
                return fetched
            self._ahead_start, self._ahead, kept = offset, fetched, 0
        return self._ahead[kept : kept + length]

    def forget(self) -> None:
        """Give up the stretch that was read ahead."""
        self._ahead = b""

    def _fetch(self, offset: int, length: int) -> bytes:
        data = self._reader.read_at(offset, length)
        if len(data) != length:
            raise CorruptionError(
                f"the file ends at {offset + len(data)}, before its size of {self.size} bytes"
            )
        return data
