"""Reads RocksDB's write-ahead logs: is each whole, and do they run on from one to the next?

RocksDB takes a log that is cut short, or not there, for one that ends there, and goes on with the
next: a state that never was. So every record is checked here before RocksDB replays any.

A log is a file of 32 KiB blocks, in which a record may be split but passes no block's end:

    | masked crc32c (4, LE) | length (2, LE) | type (1) | [log number (4, LE): types 5 to 8, 11] |
    | payload |       crc over all behind it; a block's last < 7 bytes are zeros
    type 1 full, 2 first, 3 middle, 4 last; 5 to 8 the same in a log that may be a recycled file
         9 how payloads are compressed   10, 11 and from 128 on: of no account here

A record's payload is a write batch:

    | sequence of its first write (8, LE) | count (4, LE) | writes |

Writes are numbered without a hole, but for numbers that ingested SST files took. Sources: RocksDB's
db/log_format.h, log_reader.cc, write_batch.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bkctl.codec.crc32c import masked_crc32c
from bkctl.codec.log import BLOCK_SIZE
from bkctl.errors import CorruptionError
from bkctl.sst.source import FileReader

_HEADER = struct.Struct("<IHB")
_LOG_NUMBER_SIZE = 4
_BATCH = struct.Struct("<QI")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_SET_COMPRESSION = 9
_RECYCLABLE = frozenset({5, 6, 7, 8, 11})
_KNOWN_TYPES = frozenset(range(1, 12))
_IGNORABLE = 0x80
_BLOCKS_AT_ONCE = 32
_ZSTD = 7
# RocksDB's own bound is 4 GiB; TiKV's batches are of some MiB.
_MAX_BATCH = 1 << 30

Opener = Callable[[Path], FileReader]
"""Opens a file to read its plain bytes; raises StorageError."""


@dataclass(frozen=True, slots=True)
class WalSummary:
    """What a log holds up to `size`, where its last whole record ends.

    `first` is the sequence number of the first write, `next` the one behind the last; both are None
    for a log without writes. `trouble` says what stands at `size` in place of a record, empty where
    the log simply ends; `is_torn` whether that is all there is behind it: a record half written.
    """

    size: int
    first: int | None
    next: int | None
    trouble: str = ""
    is_torn: bool = False


@dataclass(frozen=True, slots=True)
class _Physical:
    kind: int
    payload: bytes
    end: int


class _Trouble(Exception):
    """No record can be read at an offset."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


def read_wal(path: Path, number: int, opened: Opener = FileReader) -> WalSummary:
    """Read the log with this number from beginning to end; `path` may be a copy of it.

    `opened` opens it. Memory is bounded by the largest record. Raises StorageError.
    """
    with opened(path) as file:
        return _Reader(file, number).summarize()


def read_batches(path: Path, number: int, opened: Opener = FileReader) -> Iterator[bytes]:
    """Yield the write batches of a log that `read_wal` found whole, decompressed.

    `opened` opens it. Memory is bounded by the largest batch. Raises CorruptionError, without the
    log's name, where it is not whole after all or one decompresses to more than any could be;
    StorageError.
    """
    with opened(path) as file:
        yield from _Reader(file, number).batches()


class _Reader:
    def __init__(self, file: FileReader, number: int) -> None:
        self._read, self._size = file.read_at, file.size
        self._number = number & 0xFFFFFFFF
        self._end = 0
        self._first: int | None = None
        self._next: int | None = None
        self._is_compressed = False

    def summarize(self) -> WalSummary:
        parts: list[bytes] = []
        try:
            for record in self._records():
                kind = record.kind - 4 if record.kind in (5, 6, 7, 8) else record.kind
                if kind in (_FULL, _FIRST, _MIDDLE, _LAST):
                    self._add(kind, record, parts)
                elif kind == _SET_COMPRESSION:
                    self._is_compressed = record.payload[:1] == bytes([_ZSTD])
                if not parts:
                    self._end = record.end
        except _Trouble as e:
            is_torn = not self._has_records_behind(e.offset)
            return self._summary(f"{e} at offset {e.offset}", is_torn)
        if parts:
            return self._summary(f"a record that begins at offset {self._end} has no end", True)
        return self._summary("", False)

    def batches(self) -> Iterator[bytes]:
        """Whole records; see `read_batches`."""
        parts: list[bytes] = []
        try:
            for record in self._records():
                kind = record.kind - 4 if record.kind in (5, 6, 7, 8) else record.kind
                if kind in (_FULL, _FIRST, _MIDDLE, _LAST):
                    parts.append(record.payload)
                    if kind in (_FULL, _LAST):
                        yield self._plain(b"".join(parts))
                        parts.clear()
                elif kind == _SET_COMPRESSION:
                    self._is_compressed = record.payload[:1] == bytes([_ZSTD])
        except _Trouble as e:
            raise CorruptionError(f"{e} at offset {e.offset}") from None

    def _plain(self, record: bytes) -> bytes:
        if not self._is_compressed:
            return record
        import zstandard

        try:
            reader = zstandard.ZstdDecompressor().stream_reader(record)
            plain = reader.read(_MAX_BATCH + 1)
        except zstandard.ZstdError as e:
            raise CorruptionError(f"a record cannot be decompressed ({e})") from None
        if len(plain) > _MAX_BATCH:
            raise CorruptionError("a record decompresses to more than 1 GiB")
        return plain

    def _summary(self, trouble: str, is_torn: bool) -> WalSummary:
        return WalSummary(self._end, self._first, self._next, trouble, is_torn)

    def _add(self, kind: int, record: _Physical, parts: list[bytes]) -> None:
        if (kind in (_FULL, _FIRST)) == bool(parts):
            begins = record.end - len(record.payload)
            raise _Trouble(begins, f"record of type {record.kind} is out of place")
        parts.append(record.payload)
        if kind in (_FULL, _LAST):
            self._add_batch(parts)
            parts.clear()

    def _add_batch(self, parts: list[bytes]) -> None:
        begins = self._end
        head = self._head_of(parts, begins)
        if len(head) < _BATCH.size:
            raise _Trouble(begins, "a record is too short for a write batch")
        sequence, count = _BATCH.unpack_from(head)
        if self._next is not None and sequence < self._next:
            raise _Trouble(begins, f"write {sequence} comes again, after {self._next - 1}")
        if self._first is None:
            self._first = sequence
        self._next = sequence + count

    def _head_of(self, parts: list[bytes], begins: int) -> bytes:
        if not self._is_compressed:
            return parts[0] if len(parts[0]) >= _BATCH.size else b"".join(parts)
        import zstandard  # few logs are compressed

        try:
            # The frame has no end of its own: a piece of what it holds is all that is wanted.
            return zstandard.ZstdDecompressor().decompressobj().decompress(b"".join(parts))
        except zstandard.ZstdError as e:
            raise _Trouble(begins, f"a record cannot be decompressed ({e})") from None

    def _records(self) -> Iterator[_Physical]:
        """Physical records, each checked, up to the log's end; raises _Trouble."""
        step = BLOCK_SIZE * _BLOCKS_AT_ONCE
        for start in range(0, self._size, step):
            chunk = self._read(start, min(step, self._size - start))
            for block in range(0, len(chunk), BLOCK_SIZE):
                content = chunk[block : block + BLOCK_SIZE]
                pos = 0
                while len(content) - pos >= _HEADER.size:
                    record = self._record(content, pos, start + block)
                    if record is None:
                        return
                    yield record
                    pos = record.end - start - block
                if pos < len(content) < BLOCK_SIZE:
                    raise _Trouble(start + block + pos, "a record's header is cut short")

    def _record(self, block: bytes, pos: int, start: int) -> _Physical | None:
        """The record at `pos` of a block; None where the log ends there."""
        crc, length, kind = _HEADER.unpack_from(block, pos)
        if kind == 0 and length == 0 and not any(block[pos:]) and self._is_zero(start + len(block)):
            return None  # space set aside
        stop = pos + _HEADER.size + length
        if kind in _RECYCLABLE:
            number = block[pos + _HEADER.size : pos + _HEADER.size + _LOG_NUMBER_SIZE]
            stop += _LOG_NUMBER_SIZE
            if int.from_bytes(number, "little") != self._number:
                return None  # what the file held when it was another log
        if kind not in _KNOWN_TYPES and not kind & _IGNORABLE:
            raise _Trouble(start + pos, f"record of unknown type {kind}")
        if stop > len(block):
            raise _Trouble(start + pos, "a record passes the end of its block, or the log's")
        if masked_crc32c(block[pos + _HEADER.size - 1 : stop]) != crc:
            raise _Trouble(start + pos, "checksum mismatch in a record")
        begins = pos + _HEADER.size + (_LOG_NUMBER_SIZE if kind in _RECYCLABLE else 0)
        return _Physical(kind, block[begins:stop], start + stop)

    def _is_zero(self, offset: int) -> bool:
        step = BLOCK_SIZE * _BLOCKS_AT_ONCE
        return not any(any(self._read(at, step)) for at in range(offset, self._size, step))

    def _has_records_behind(self, offset: int) -> bool:
        """Whether a sound record begins anywhere behind `offset`: then that is no torn end."""
        start = offset - offset % BLOCK_SIZE
        block = self._read(start, BLOCK_SIZE)
        if any(self._is_sound(block, pos) for pos in _likely(block, offset - start + 1)):
            return True
        # In later blocks a record begins where the block does.
        step = BLOCK_SIZE * _BLOCKS_AT_ONCE
        for at in range(start + BLOCK_SIZE, self._size, step):
            chunk = self._read(at, step)
            for first in range(0, len(chunk), BLOCK_SIZE):
                if self._is_sound(chunk[first : first + BLOCK_SIZE], 0):
                    return True
        return False

    def _is_sound(self, block: bytes, pos: int) -> bool:
        try:
            return len(block) - pos >= _HEADER.size and self._record(block, pos, 0) is not None
        except _Trouble:
            return False


def _likely(block: bytes, first: int) -> list[int]:
    """Positions from `first` on whose type and length could be a record's."""
    count = len(block) - _HEADER.size + 1
    if count <= first:
        return []
    behind = len(block) - _HEADER.size
    return [
        pos
        for pos in range(first, count)
        if 0 < block[pos + 6] < 12 and pos + (block[pos + 4] | block[pos + 5] << 8) <= behind
    ]


def cannot_be_read(path: Path, what: str, remedy: str) -> CorruptionError:
    """The error of a log that cannot be taken as it is."""
    return CorruptionError(f"{path}: the write-ahead log is damaged: {what}; {remedy}")
