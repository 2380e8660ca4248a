"""Writes Titan's files byte by byte: blob files, and the MANIFEST that names them.

It shares no code with bkctl's readers, which are held against it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import google_crc32c
import lz4.block
import snappy
import zstandard

NONE, SNAPPY, LZ4, ZSTD = 0, 1, 4, 7
_BLOCK = 32768


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def string(content: bytes) -> bytes:
    return varint(len(content)) + content


def crc(content: bytes) -> int:
    return int(google_crc32c.value(content))


def masked(content: bytes) -> int:
    value = crc(content)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) % (1 << 32)


def index(number: int, offset: int, size: int) -> bytes:
    return b"\x01" + varint(number) + varint(offset) + varint(size)


def _zstd(plain: bytes, dictionary: bytes) -> bytes:
    trained = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return varint(len(plain)) + zstandard.ZstdCompressor(dict_data=trained).compress(plain)


def _lz4(plain: bytes, dictionary: bytes) -> bytes:
    packed: bytes = lz4.block.compress(plain, store_size=False, dict=dictionary)
    return varint(len(plain)) + packed


def _snappy(plain: bytes, dictionary: bytes) -> bytes:
    return bytes(snappy.compress(plain))


_CODECS: dict[int, Callable[[bytes, bytes], bytes]] = {SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}


@dataclass
class BlobFileWriter:
    """One blob file, in memory. Records that do not get smaller are stored as they are."""

    number: int
    version: int = 3
    codec: int = NONE
    dictionary: bytes | None = None
    block_size: int = 0
    content: bytearray = field(default_factory=bytearray)
    keys: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.content += struct.pack("<II", 0x2BE0A614, self.version)
        if self.version >= 2:
            self.content += struct.pack("<I", self.dictionary is not None)
        if self.version >= 3:
            self.content += struct.pack("<Q", self.block_size)
        self._pad()

    def add(self, key: bytes, value: bytes) -> bytes:
        """Append a record; gives its blob index."""
        plain, codec = string(key) + string(value), NONE
        stored = plain
        if self.codec != NONE:
            stored, codec = _CODECS[self.codec](plain, self.dictionary or b""), self.codec
            if len(stored) >= len(plain):
                stored, codec = plain, NONE
        return self.add_stored(key, codec, stored)

    def add_stored(self, key: bytes, codec: int, stored: bytes) -> bytes:
        """Append a record whose payload is `stored` whatever that is."""
        body = struct.pack("<IB", len(stored), codec) + stored
        offset = len(self.content)
        self.content += struct.pack("<I", crc(body)) + body
        size = len(self.content) - offset
        self._pad()
        self.keys.append(key)
        return index(self.number, offset, size)

    def finish(self) -> bytes:
        """The whole file."""
        handle = varint(0) + varint(0)
        if self.dictionary is not None:
            of_dictionary = self._block(self.dictionary)
            name = b"rocksdb.compression_dict"
            entry = varint(0) + varint(len(name)) + varint(len(of_dictionary)) + name
            handle = self._block(entry + of_dictionary + struct.pack("<II", 0, 1))
        footer = handle.ljust(20, b"\0") + struct.pack("<Q", 0x2BE0A6148E39EDC6)
        self.content += footer + struct.pack("<I", crc(footer))
        return bytes(self.content)

    def added(self) -> bytes:
        """What the MANIFEST says of the finished file."""
        numbers = (self.number, len(self.content), len(self.keys), 0, self.block_size)
        keys = string(min(self.keys, default=b"")) + string(max(self.keys, default=b""))
        return varint(14) + b"".join(map(varint, numbers)) + keys

    def _block(self, content: bytes) -> bytes:
        handle = varint(len(self.content)) + varint(len(content))
        self.content += content + b"\0" + struct.pack("<I", masked(content + b"\0"))
        return handle

    def _pad(self) -> None:
        if self.block_size and len(self.content) % self.block_size:
            self.content += bytes(self.block_size - len(self.content) % self.block_size)


def log(records: Iterable[bytes]) -> bytes:
    """Records as a log of RocksDB's has them."""
    out = bytearray()
    for record in records:
        rest, is_first = record, True
        while rest or is_first:
            left = _BLOCK - len(out) % _BLOCK
            if left < 7:
                out += bytes(left)
                left = _BLOCK
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = (2 if rest else 1) if is_first else (3 if rest else 4)
            body = bytes([kind]) + part
            out += struct.pack("<IH", masked(body), len(part)) + body
            is_first = False
    return bytes(out)


def next_file(number: int, *, family: int = 0) -> bytes:
    """A version edit that says the next file's number, and whose files follow."""
    return varint(1) + varint(number) + varint(10) + varint(family)


def deleted(number: int) -> bytes:
    return varint(12) + varint(number)
