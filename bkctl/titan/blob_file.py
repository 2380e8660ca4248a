"""Titan's blob files: values of a store, each with its key, one behind the other.

    file     header | record ... | [dictionary block | metaindex block] | footer
    header   2BE0A614 (4) | version 1, 2 or 3 (4) | from version 2: flags (4)
             | from version 3: block size (8), which says how records are aligned
    record   crc32c of what follows (4) | size of the payload (4) | compression type (1) | payload
    payload  plain, or compressed as blocks of format 2 are (`bkctl.sst.compression`):
             varint length, key, varint length, value
    footer   metaindex handle, zeros up to 20 bytes | 2BE0A6148E39EDC6 (8) | crc32c of that (4)

Numbers are LE, checksums of crc32c are not masked. The one flag, 1, says that records are
compressed with a dictionary, which the metaindex names; blocks have trailers as in SST files. A
record's key is the user key. Between records there may be zeros. Sources: Titan's
src/blob_format.h, blob_file_builder.cc and blob_file_reader.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from bkctl.codec.crc32c import crc32c, masked_crc32c
from bkctl.codec.varint import decode_uvarint, encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import meta_entries
from bkctl.sst.compression import NONE, Decompressor
from bkctl.sst.damage import located
from bkctl.sst.format import (
    BLOCK_TRAILER_SIZE,
    MAX_BLOCK_SIZE,
    MAX_META_BLOCK_SIZE,
    BlockHandle,
    decode_handle,
)
from bkctl.sst.reader import DICTIONARY
from bkctl.sst.source import RandomReader

RECORD_HEADER_SIZE = 9
FOOTER_SIZE = 32
MAGIC = 0x2BE0A614
FOOTER_MAGIC = 0x2BE0A6148E39EDC6
HAS_DICTIONARY = 1
_RECORD_HEAD = struct.Struct("<II")
_HEADER_SIZES = {1: 8, 2: 12, 3: 20}
_MAX_HEADER_SIZE = 20
_HANDLE_SIZE = 20
_COMPRESSION_FORMAT = 2
# No record may be larger, stored or plain: as blocks of SST files.
MAX_RECORD_SIZE = MAX_BLOCK_SIZE
# Reading past so many bytes that nobody wants costs less than another read.
_NEAR = 64 << 10
_MAX_STRETCH = 4 << 20


class BlobFile:
    """One blob file, opened through `reader`, which stays the caller's to close.

    `name` is what errors call it. Not for two threads at a time.
    """

    def __init__(self, reader: RandomReader, name: str) -> None:
        """Check header and footer, and read the dictionary; raises CorruptionError."""
        self.name = name
        self._reader = reader
        with located(name, 0):
            flags, self._start = self._header()
        self._end = reader.size - FOOTER_SIZE
        with located(name, max(0, self._end)):
            metaindex = self._metaindex()
            if (metaindex is not None) != bool(flags & HAS_DICTIONARY):
                raise CorruptionError("header and footer disagree on whether there is a dictionary")
        dictionary = b"" if metaindex is None else self._dictionary(metaindex)
        self._codec = Decompressor(_COMPRESSION_FORMAT, dictionary)

    def read(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """The records at ascending offsets, as stored; records that lie close are read together.

        Raises CorruptionError where one is not of its size, or its checksum is another.
        """
        records: list[bytes] = []
        first = 0
        while first < len(offsets):
            start, end, last = offsets[first], offsets[first] + sizes[first], first + 1
            while last < len(offsets):
                further = offsets[last] + sizes[last]
                if offsets[last] - end > _NEAR or further - start > _MAX_STRETCH:
                    break
                end, last = max(end, further), last + 1
            with located(self.name, start):
                self._check_place(start, max(sizes[first:last]), end)
                stretch = self._read(start, end - start)
            for offset, size in zip(offsets[first:last], sizes[first:last], strict=True):
                at = offset - start
                record = stretch[at : at + size]
                if size < RECORD_HEADER_SIZE:
                    raise self.damage(offset, f"a record of {size} bytes is too short to be one")
                checksum, length = _RECORD_HEAD.unpack_from(record)
                if crc32c(record[4:]) != checksum:
                    raise self.damage(offset, "the record's checksum does not match its content")
                if length != size - RECORD_HEADER_SIZE:
                    raise self.damage(offset, "the record is not of the size its index says")
                records.append(record)
            first = last
        return records

    def value(self, offset: int, record: bytes, key: bytes) -> bytes:
        """The value of the record that `read` found at `offset`, which must be that of `key`.

        Raises CorruptionError where it is another key's, or cannot be read.
        """
        try:
            return self._value(record, key)
        except CorruptionError as e:
            raise self.damage(offset, str(e)) from None

    def _value(self, record: bytes, key: bytes) -> bytes:
        codec = record[RECORD_HEADER_SIZE - 1]
        if codec == NONE:
            plain, start = record, RECORD_HEADER_SIZE
        else:
            payload = memoryview(record)[RECORD_HEADER_SIZE:]
            plain, start = self._codec.decompress(codec, payload, MAX_RECORD_SIZE), 0
        prefix = encode_uvarint(len(key)) + key
        if not plain.startswith(prefix, start):
            raise CorruptionError(f"the record is not that of key {key.hex().upper()}")
        length, pos = decode_uvarint(plain, start + len(prefix))
        if pos + length != len(plain):
            raise CorruptionError("the record's lengths do not fit")
        return plain[pos:]

    def damage(self, offset: int, what: str) -> CorruptionError:
        """The error that tells of damage at `offset`."""
        return CorruptionError(f"{self.name}: at offset {offset}: {what}")

    def _check_place(self, start: int, largest: int, end: int) -> None:
        if start < self._start or end > self._end:
            raise CorruptionError(
                f"a record up to {end} lies outside of the file's records, which are from "
                f"{self._start} to {self._end}"
            )
        if largest > MAX_RECORD_SIZE:
            raise CorruptionError(
                f"a record of {largest} bytes is over the limit of {MAX_RECORD_SIZE}"
            )

    def _header(self) -> tuple[int, int]:
        """(flags, where records begin)."""
        if self._reader.size < _HEADER_SIZES[1] + FOOTER_SIZE:
            raise CorruptionError(f"{self._reader.size} bytes are too few for a blob file")
        head = self._read(0, min(_MAX_HEADER_SIZE, self._reader.size))
        if int.from_bytes(head[:4], "little") != MAGIC:
            raise CorruptionError("not a blob file: it does not begin with Titan's magic number")
        version = int.from_bytes(head[4:8], "little")
        size = _HEADER_SIZES.get(version)
        if size is None:
            raise CorruptionError(
                f"blob file version {version} is not one this reader knows (1 to 3)"
            )
        flags = int.from_bytes(head[8:12], "little") if version > 1 else 0
        if flags & ~HAS_DICTIONARY:
            raise CorruptionError(f"flags {flags:#x} in the header are not all known")
        return flags, size

    def _metaindex(self) -> BlockHandle | None:
        footer = self._read(self._end, FOOTER_SIZE)
        if int.from_bytes(footer[-12:-4], "little") != FOOTER_MAGIC:
            raise CorruptionError("the footer does not have Titan's magic number")
        if crc32c(footer[:-4]) != int.from_bytes(footer[-4:], "little"):
            raise CorruptionError("the footer's checksum does not match its content")
        handle, _ = decode_handle(footer[:_HANDLE_SIZE], 0)
        return handle if handle.size else None

    def _dictionary(self, metaindex: BlockHandle) -> bytes:
        with located(self.name, metaindex.offset):
            names = self._block(metaindex)
            handles = {
                name.decode("utf-8", "backslashreplace"): decode_handle(names[start:end], 0)[0]
                for name, start, end in meta_entries(names)
            }
            if DICTIONARY not in handles:
                raise CorruptionError(f"the metaindex does not name {DICTIONARY}")
        with located(self.name, handles[DICTIONARY].offset):
            return self._block(handles[DICTIONARY])

    def _block(self, handle: BlockHandle) -> bytes:
        if handle.end > self._end or handle.size > MAX_META_BLOCK_SIZE:
            raise CorruptionError(f"a block of {handle.size} bytes does not fit in the file")
        stored = self._read(handle.offset, handle.size + BLOCK_TRAILER_SIZE)
        if masked_crc32c(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
            raise CorruptionError("the block's checksum does not match its content")
        if stored[-5] != NONE:
            raise CorruptionError(f"a block of compression type {stored[-5]}, which has none")
        return stored[:-BLOCK_TRAILER_SIZE]

    def _read(self, offset: int, length: int) -> bytes:
        data = self._reader.read_at(offset, length)
        if len(data) != length:
            raise CorruptionError(
                f"the file ends at {offset + len(data)}, before its size of {self._reader.size}"
            )
        return data


def plain_size(record: bytes) -> int:
    """How many bytes the plain payload of a stored record says it has; 0 where that is cut."""
    if record[RECORD_HEADER_SIZE - 1] == NONE:
        return len(record)
    try:
        return decode_uvarint(record, RECORD_HEADER_SIZE)[0]
    except CorruptionError:
        return 0
