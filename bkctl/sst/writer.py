"""Writes one SST file through RocksDB's own SstFileWriter, hashing it on the way.

Files must be readable by RocksDB 6.29 and up: format version 5 and crc32c, whatever the library's
own defaults are by now.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    ChecksumType,
    DBCompressionType,
    Options,
    SstFileWriter,
)

from bkctl.codec.strings import ByteStrings
from bkctl.errors import BkctlError, CorruptionError, StorageError, UsageError

FORMAT_VERSION = 5
BLOCK_SIZE = 16 << 10
CODECS = ("zstd", "lz4", "snappy", "none")
_HASH_CHUNK = 1 << 20
_MAX_LEVEL = {"zstd": 22, "lz4": 12}


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
    """A written file: its size in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: bytes


class SstWriter:
    """Writes records in ascending key order to a new file at `path`."""

    def __init__(
        self, path: Path, compression: Compression, grown: Callable[[int], None] | None = None
    ) -> None:
        """Create the file; `grown` is told of bytes written, and may hold the writer up.

        Raises StorageError where the file cannot be made.
        """
        self.path = path
        self._grown = grown
        self._writer = SstFileWriter(_options(compression))
        self._hash = hashlib.sha256()
        self._hashed = 0
        try:
            self._writer.open(str(path))
            self._file = path.open("rb", buffering=0)
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        self._put: Callable[[bytes, bytes], None] = self._writer.__setitem__

    def write(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Append records; CorruptionError when keys do not ascend, StorageError on failure."""
        try:
            # `put` gives None each time, so `any` runs through at C speed.
            any(map(self._put, keys, values))
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        self._hash_written()

    def write_columns(self, keys: ByteStrings, values: ByteStrings) -> None:
        """Append records as `write` does."""
        self.write(keys.tolist(), values.tolist())

    def finish(self) -> FinishedSst:
        """Complete and sync the file."""
        try:
            self._writer.finish()
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        self._hash_written(all_of_it=True)
        self._file.close()
        return FinishedSst(self.path, self._hashed, self._hash.digest())

    def abandon(self) -> None:
        """Give the file up and remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _hash_written(self, *, all_of_it: bool = False) -> None:
        """Hash what RocksDB has written so far, while it is still in the page cache."""
        size = os.fstat(self._file.fileno()).st_size
        while size - self._hashed >= (1 if all_of_it else _HASH_CHUNK):
            chunk = self._file.read(min(_HASH_CHUNK, size - self._hashed))
            if not chunk:
                raise StorageError(f"{self.path}: was cut short while it was written")
            self._hash.update(chunk)
            self._hashed += len(chunk)
            if self._grown is not None:
                self._grown(len(chunk))

    def _error(self, error: Exception) -> BkctlError:
        text = " ".join(str(error).split())
        if "ascending order" in text:
            return CorruptionError(f"{self.path.name}: keys are out of order: {text}")
        # RocksDB repeats the path behind what went wrong.
        text = text.partition(": While ")[0]
        return StorageError(f"{self.path}: {text}; check space and permissions there")


def _options(compression: Compression) -> Options:
    options = Options(raw_mode=True)
    kinds = {
        "zstd": DBCompressionType.zstd,
        "lz4": DBCompressionType.lz4 if compression.level is None else DBCompressionType.lz4hc,
        "snappy": DBCompressionType.snappy,
        "none": DBCompressionType.none,
    }
    options.set_compression_type(kinds[compression.codec]())
    if compression.level is not None:
        options.set_compression_options(-14, compression.level, 0, 0)
    table = BlockBasedOptions()
    table.set_format_version(FORMAT_VERSION)
    table.set_checksum_type(ChecksumType.crc32c())
    table.set_block_size(BLOCK_SIZE)
    options.set_block_based_table_factory(table)
    return options
