"""One file of raft-engine's: its name, its header, and how it is read.

    NNNNNNNNNNNNNNNN.raftlog    append queue: what was written, in order; 16 digits from 1 on
    NNNNNNNNNNNNNNNN.rewrite    rewrite queue: what old append files held that is still wanted

    | RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5 | version (8, BE): 1 or 2 |
    | alignment (8, BE), in version 2 only; 0 for none |
    | log batch | log batch | … | zeros, or what an earlier use of the file left |     (`batch`)

With an alignment, zeros fill up to its next multiple wherever no batch begins. Space is set aside
ahead of what is written; it is given back when the next file is begun. An append file that nobody
needs any more keeps its name until it is renamed, and written over from its start, to become the
newest (it is recycled); the version is 2 then.
Source: raft-engine's src/file_pipe_log/{format,log_file,pipe}.rs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from bkctl.errors import CorruptionError, SourceError

MAGIC = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5"
_NUMBER_SIZE = 8
_VERSIONS = {1: len(MAGIC) + _NUMBER_SIZE, 2: len(MAGIC) + 2 * _NUMBER_SIZE}
MAX_HEADER_SIZE = _VERSIONS[2]
_SIGNATURE_MASK = 0xFFFFFFFF
_NAME = re.compile(r"(\d{16})\.(raftlog|rewrite)")


class Queue(IntEnum):
    """The two rows of files; the rewrite queue is read first, the append queue over it."""

    REWRITE = 0
    APPEND = 1


@dataclass(frozen=True, slots=True, order=True)
class FileId:
    """A file's place: its queue, and its number in it."""

    queue: Queue
    number: int


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What a file's header says; `start` is where batches begin, in bytes."""

    version: int
    alignment: int
    start: int

    def signature(self, number: int) -> int:
        """What items' checksums are XORed with in the file of this number."""
        return number & _SIGNATURE_MASK if self.version > 1 else 0


class FileReader(Protocol):
    """An open file; it stays readable when the store removes or renames it."""

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, fewer than `size` only where the file ends; may raise OSError."""

    def fileno(self) -> int:
        """Its descriptor."""

    def close(self) -> None:
        """Let it go; may be called twice."""


OpenFile = Callable[[Path], FileReader]


class PlainFile:
    """A FileReader of a file that is not encrypted."""

    def __init__(self, path: Path) -> None:
        """Open it; may raise OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(self, offset: int, size: int) -> bytes:
        """See FileReader."""
        data = os.pread(self._descriptor, size, offset)
        if len(data) in (0, size):
            return data
        parts = [data]
        got = len(data)
        while got < size and (data := os.pread(self._descriptor, size - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def fileno(self) -> int:
        """See FileReader."""
        return self._descriptor

    def close(self) -> None:
        """See FileReader."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the log, open; no more than `size` bytes of it are read."""

    id: FileId
    path: Path
    reader: FileReader
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, fewer only at the end; SourceError where they cannot be read."""
        try:
            return self.reader.read_at(offset, max(0, min(size, self.size - offset)))
        except OSError as e:
            raise SourceError(f"{self.path}: cannot be read ({e.strerror})") from None


def parse_name(name: str) -> FileId | None:
    """The place of the file of this name; None if it is none of the log's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return FileId(Queue.APPEND if match[2] == "raftlog" else Queue.REWRITE, int(match[1]))


def read_format(data: bytes) -> FileFormat:
    """Read a file's first MAX_HEADER_SIZE bytes; CorruptionError for what is no header."""
    if not data.startswith(MAGIC):
        raise CorruptionError("it does not begin with raft-engine's header")
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + _NUMBER_SIZE], "big")
    start = _VERSIONS.get(version)
    if start is None:
        raise CorruptionError(f"its header says version {version}; bkctl knows 1 and 2")
    if len(data) < start:
        raise CorruptionError("its header is cut short")
    alignment = int.from_bytes(data[_VERSIONS[1] : start], "big")
    if alignment & (alignment - 1):
        raise CorruptionError(f"its header says alignment {alignment}, which is no power of two")
    return FileFormat(version, alignment, start)


def is_unfinished_header(data: bytes) -> bool:
    """Whether `data` is what a crash may leave of a new file's header: its begin, then zeros."""
    begun = data.rstrip(b"\0")
    finished = (MAGIC + version.to_bytes(_NUMBER_SIZE, "big") for version in _VERSIONS)
    return any(header.startswith(begun) for header in finished)
