"""Builds small SST files by hand, for forms that the library at hand does not write any more."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import lz4.block

from bkctl.codec.varint import encode_uvarint, encode_zigzag
from bkctl.sst.checksums import ChecksumType, stored_checksum
from bkctl.sst.format import BlockHandle

Records = Sequence[tuple[bytes, bytes]]
MAGIC = struct.pack("<Q", 0x88E241B785F4CFF7)
LEGACY_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)


class BytesReader:
    """A file in memory that notes what was read of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]


def internal(user_key: bytes, kind: int = 1, sequence: int = 0) -> bytes:
    return user_key + struct.pack("<Q", sequence << 8 | kind)


def varints(*numbers: int) -> bytes:
    return b"".join(map(encode_uvarint, numbers))


def encode_block(entries: Iterable[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    out = bytearray()
    restarts = [0]
    before = b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % interval:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        elif number:
            restarts.append(len(out))
        out += varints(shared, len(key) - shared, len(value)) + key[shared:] + value
        before = key
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def pack(codec: int, plain: bytes, version: int) -> bytes:
    """Compress as RocksDB does for `version`."""
    if codec == 0:
        return plain
    if codec in (4, 5):
        body = lz4.block.compress(plain, store_size=False)
        header = struct.pack("<II", len(plain), 0) if version < 2 else varints(len(plain))
        return header + bytes(body)
    stream = zlib.compressobj(wbits=-14)
    body = stream.compress(plain) + stream.flush() if codec == 2 else bz2.compress(plain)
    return body if version < 2 else varints(len(plain)) + body


@dataclass
class TableBuilder:
    """Puts blocks, index, properties, metaindex and footer of format 0 to 5 behind each other."""

    version: int = 2
    codec: int = 0
    checksum: ChecksumType = ChecksumType.CRC32C
    index_type: int = 0
    out: bytes = b""

    def add(self, plain: bytes, codec: int = 0, payload: bytes | None = None) -> BlockHandle:
        if payload is None:
            payload = pack(codec, plain, self.version)
        handle = BlockHandle(len(self.out), len(payload))
        content = payload + bytes([codec])
        self.out += content + struct.pack("<I", stored_checksum(self.checksum, content))
        return handle

    def build(
        self,
        blocks: Sequence[Records],
        changed: dict[str, bytes] | None = None,
        meta: dict[str, bytes] | None = None,
    ) -> bytes:
        """A file of data blocks, each given as (internal key, value) records."""
        index = []
        for records in blocks:
            handle = self.add(encode_block(records), self.codec)
            value = varints(handle.offset, handle.size)
            if self.index_type == 3:
                first = records[0][0]
                value += varints(len(first)) + first
            index.append((records[-1][0], value))
        data_size = len(self.out)
        return self.finish(index, self.properties(blocks, data_size) | (changed or {}), meta)

    def finish(
        self,
        index: Records | bytes,
        properties: dict[str, bytes],
        meta: dict[str, bytes] | None = None,
    ) -> bytes:
        """Index (its entries, or the block as it is), properties, metaindex and footer."""
        index_block = index if isinstance(index, bytes) else encode_block(index, 1)
        index_handle = self.add(index_block)
        names = [(name, self.add(block)) for name, block in (meta or {}).items()]
        named = sorted((name.encode(), value) for name, value in properties.items())
        names.append(("rocksdb.properties", self.add(encode_block(named, 1 << 20))))
        metaindex = self.add(
            encode_block(sorted((n.encode(), varints(h.offset, h.size)) for n, h in names), 1)
        )
        handles = varints(
            metaindex.offset, metaindex.size, index_handle.offset, index_handle.size
        ).ljust(40, b"\0")
        if self.version == 0:
            return self.out + handles + LEGACY_MAGIC
        head = bytes([self.checksum]) + handles
        return self.out + head + struct.pack("<I", self.version) + MAGIC

    def properties(self, blocks: Sequence[Records], data_size: int) -> dict[str, bytes]:
        records = [record for block in blocks for record in block]
        numbers = {
            "num.entries": len(records),
            "num.data.blocks": len(blocks),
            "raw.key.size": sum(len(key) for key, _ in records),
            "raw.value.size": sum(len(value) for _, value in records),
            "data.size": data_size,
        }
        return {f"rocksdb.{name}": encode_uvarint(n) for name, n in numbers.items()} | {
            "rocksdb.block.based.table.index.type": struct.pack("<I", self.index_type),
            "rocksdb.comparator": b"leveldb.BytewiseComparator",
        }


def delta_index(handles: Sequence[tuple[bytes, BlockHandle]], interval: int) -> bytes:
    """An index block of format 4: no value lengths, sizes as differences between restarts."""
    out = bytearray()
    restarts = [0]
    before = b""
    size = 0
    for number, (key, handle) in enumerate(handles):
        shared = 0
        if number % interval:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        elif number:
            restarts.append(len(out))
        out += varints(shared, len(key) - shared) + key[shared:]
        out += encode_zigzag(handle.size - size) if shared else varints(handle.offset, handle.size)
        before, size = key, handle.size
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
