"""Writes one SST file, encrypted and hashed on the way; `table` says what a file looks like."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError, StorageError, UsageError
from bkctl.files.access import FILE_MODE
from bkctl.shortage import reason_of
from bkctl.sst.table import TableBuilder

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

CODECS = ("zstd", "lz4", "snappy", "none")
_MAX_LEVEL = {"zstd": 22, "lz4": 12}
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec and its level; `level` None is the codec's own default."""

    codec: str = "zstd"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise UsageError(f"compression {self.codec!r}: choose one of {', '.join(CODECS)}")
        limit = _MAX_LEVEL.get(self.codec)
        if self.level is None:
            return
        if limit is None:
            raise UsageError(f"compression {self.codec} has no levels; leave the level out")
        if not 1 <= self.level <= limit:
            raise UsageError(f"compression level {self.level}: {self.codec} takes 1 to {limit}")


@dataclass(frozen=True, slots=True)
class FinishedSst:
    """A written file: its size in bytes, the SHA-256 of what is stored, its IV if encrypted."""

    path: Path
    size: int
    sha256: bytes
    cipher_iv: bytes = b""


class SstWriter:
    """Writes records in ascending key order to a new file at `path`."""

    def __init__(
        self,
        path: Path,
        compression: Compression,
        grown: Callable[[int], None] | None = None,
        cipher: Cipher | None = None,
    ) -> None:
        """Create the file; `grown` is told of bytes written, and may hold the writer up.

        With a `cipher` no plain byte is written. Raises StorageError where the file cannot be made.
        """
        self.path = path
        self._grown = grown
        self._hash = hashlib.sha256()
        self._size = 0
        self._iv, self._encrypt = b"", None
        if cipher is not None:
            self._iv, context = cipher.begin_file()
            self._encrypt = context.update
        try:
            self._file = os.fdopen(os.open(path, _OPEN_NEW, FILE_MODE), "wb", buffering=0)
        except OSError as e:
            raise self._error(e) from None
        self._table = TableBuilder(compression.codec, compression.level)

    def write(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Append records; StorageError on failure, CorruptionError when keys do not ascend.

        Either may come later, with what is written then.
        """
        self.write_columns(ByteStrings.of(keys), ByteStrings.of(values))

    def write_columns(self, keys: ByteStrings, values: ByteStrings) -> None:
        """Append records as `write` does."""
        try:
            pieces = self._table.add(keys, values)
        except CorruptionError as e:
            raise CorruptionError(f"{self.path.name}: {e}") from None
        self._append(pieces)

    def finish(
        self, noted: Mapping[str, bytes] = MappingProxyType({}), *, sync: bool = True
    ) -> FinishedSst:
        """Complete the file, with `noted` as properties; raises what `write` does.

        Without `sync` it is not on stable storage yet: for who has that done, or needs it not.
        """
        try:
            pieces = self._table.finish(noted)
        except CorruptionError as e:
            raise CorruptionError(f"{self.path.name}: {e}") from None
        self._append(pieces)
        try:
            if sync:
                os.fsync(self._file.fileno())
            self._file.close()
        except OSError as e:
            raise self._error(e) from None
        return FinishedSst(self.path, self._size, self._hash.digest(), self._iv)

    def abandon(self) -> None:
        """Give the file up and remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, pieces: list[bytes]) -> None:
        if self._encrypt is not None:
            pieces = [self._encrypt(b"".join(pieces))]
        for content in pieces:
            rest = memoryview(content)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as e:
                raise self._error(e) from None
            self._hash.update(content)
            self._size += len(content)
            if self._grown is not None:
                self._grown(len(content))

    def _error(self, error: OSError) -> StorageError:
        return StorageError(f"{self.path}: {reason_of(error)}; check space and permissions there")
