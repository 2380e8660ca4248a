"""Builds an SST file from columns of records: blocks, index, properties, footer.

The file is one as RocksDB's SstFileWriter makes it for format version 5 with crc32c, so that
RocksDB 6.29 and up can ingest it: all sequence numbers are 0, and two properties say that a store
may give the file one of its own. `format`, `blocks`, `index` and `properties` show the format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise

import lz4.block
import numpy as np
import snappy
import zstandard

from bkctl.codec.crc32c import masked_crc32c
from bkctl.codec.strings import ByteStrings
from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE
from bkctl.sst.checksums import ChecksumType
from bkctl.sst.compression import LZ4, LZ4HC, NONE, SNAPPY, ZSTD
from bkctl.sst.encode import encode_blocks, encode_index
from bkctl.sst.format import BLOCK_TRAILER_SIZE, BlockHandle, encode_footer, encode_handle
from bkctl.sst.properties import EXTERNAL_VERSION, GLOBAL_SEQNO

FORMAT_VERSION = 5
BLOCK_SIZE = 16 << 10
_CHECKSUM = ChecksumType.CRC32C
_EXTERNAL_FILE_VERSION = 2
_ZSTD_LEVEL = 3
# Records are laid out in blocks once there are so many bytes of them: 64 blocks and up.
_FLUSH_BYTES = 1 << 20
_NAMES = {NONE: "NoCompression", SNAPPY: "Snappy", LZ4: "LZ4", LZ4HC: "LZ4HC", ZSTD: "ZSTD"}
_UNKNOWN_FAMILY = (1 << 31) - 1

Compress = Callable[[memoryview], bytes]


def _compressor(codec: str, level: int | None) -> tuple[int, Compress]:
    """The compression type, and what makes a payload (without the plain size before it)."""
    if codec == "zstd":
        zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL if level is None else level)
        return ZSTD, zstd.compress
    if codec == "lz4" and level is None:
        return LZ4, lambda plain: lz4.block.compress(plain, store_size=False)
    if codec == "lz4":
        return LZ4HC, lambda plain: lz4.block.compress(
            plain, "high_compression", compression=level, store_size=False
        )
    if codec == "snappy":
        return SNAPPY, lambda plain: bytes(snappy.compress(plain))
    return NONE, bytes


class TableBuilder:
    """Takes records in key order and gives the file's bytes, piece by piece."""

    def __init__(self, codec: str, level: int | None) -> None:
        """`codec` is one of `zstd`, `lz4`, `snappy`, `none`; `level` None is its default."""
        self._written: list[bytes] = []
        self._type, self._compress = _compressor(codec, level)
        self._pending: list[tuple[ByteStrings, ByteStrings]] = []
        self._pending_bytes = 0
        self._last_key: bytes | None = None
        self._offset = 0
        self._last_keys: list[bytes] = []
        self._sizes: list[int] = []
        self._entries = self._key_bytes = self._value_bytes = 0

    def add(self, keys: ByteStrings, values: ByteStrings) -> list[bytes]:
        """Append records; returns what is to be written now.

        Raises CorruptionError, here or later, when keys do not ascend.
        """
        if not len(keys):
            return []
        first, last = keys[0], keys[len(keys) - 1]
        if self._last_key is not None and first <= self._last_key:
            raise CorruptionError(f"keys are out of order at {first.hex().upper()}")
        self._last_key = last
        key_bytes, value_bytes = int(keys.lengths.sum()), int(values.lengths.sum())
        self._entries += len(keys)
        self._key_bytes += key_bytes + TRAILER_SIZE * len(keys)
        self._value_bytes += value_bytes
        if key_bytes + value_bytes >= _FLUSH_BYTES:
            # Enough by itself: nothing is copied to join it with what came before.
            self._flush()
        self._pending.append((keys, values))
        self._pending_bytes += key_bytes + value_bytes
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()
        return self._taken()

    def finish(self, noted: Mapping[str, bytes]) -> list[bytes]:
        """Return the rest of the file: what is left, and all that stands behind the data.

        `noted` are properties to have beside RocksDB's own.
        """
        self._flush()
        data_size = self._offset
        index = self._add_block(self._index(), self._type)
        index_size = self._offset - data_size
        properties = self._add_block(_meta_block(self._properties(data_size, index_size, noted)))
        metaindex = self._add_block(
            _meta_block([(b"rocksdb.properties", encode_handle(properties))])
        )
        self._written.append(encode_footer(FORMAT_VERSION, _CHECKSUM, metaindex, index))
        return self._taken()

    def _taken(self) -> list[bytes]:
        written, self._written = self._written, []
        return written

    def _flush(self) -> None:
        if not self._pending:
            return
        keys = ByteStrings.joined([keys for keys, _ in self._pending])
        values = ByteStrings.joined([values for _, values in self._pending])
        self._pending, self._pending_bytes = [], 0
        blocks = encode_blocks(keys, values, BLOCK_SIZE)
        plain = blocks.data.data
        pieces: list[bytes] = []
        self._last_keys += keys.take(blocks.last_rows).tolist()
        for start, stop in pairwise(blocks.bounds):
            content, checksum = self._stored(plain[start:stop], self._type)
            pieces += (content, checksum)
            self._sizes.append(len(content) - 1)
        written = b"".join(pieces)
        self._offset += len(written)
        self._written.append(written)

    def _index(self) -> bytes:
        """The index block of all data blocks, which stand one behind the other."""
        if not self._sizes:
            return _meta_block([])
        sizes = np.array(self._sizes)
        ends = np.cumsum(sizes + BLOCK_TRAILER_SIZE)
        return encode_index(
            ByteStrings.of(self._last_keys), ends - sizes - BLOCK_TRAILER_SIZE, sizes
        )

    def _add_block(self, plain: bytes, compression: int = NONE) -> BlockHandle:
        content, checksum = self._stored(memoryview(plain), compression)
        handle = BlockHandle(self._offset, len(content) - 1)
        self._offset = handle.end
        self._written += (content, checksum)
        return handle

    def _stored(self, plain: memoryview, compression: int) -> tuple[bytes, bytes]:
        """A block as the file has it, and its checksum: compressed if that saves an eighth."""
        content = b""
        if compression != NONE:
            payload = self._compress(plain)
            if len(payload) < len(plain) - len(plain) // 8:
                size = b"" if compression == SNAPPY else _encode_size(len(plain))
                content = b"".join((size, payload, bytes((compression,))))
        content = content or bytes(plain) + bytes([NONE])
        return content, masked_crc32c(content).to_bytes(4, "little")

    def _properties(
        self, data_size: int, index_size: int, noted: Mapping[str, bytes]
    ) -> list[tuple[bytes, bytes]]:
        numbers = {
            "column.family.id": _UNKNOWN_FAMILY,
            "data.size": data_size,
            "deleted.keys": 0,
            "filter.size": 0,
            "fixed.key.length": 0,
            "format.version": FORMAT_VERSION,
            "index.key.is.user.key": 1,
            "index.size": index_size,
            "index.value.is.delta.encoded": 1,
            "merge.operands": 0,
            "num.data.blocks": len(self._sizes),
            "num.entries": self._entries,
            "num.range-deletions": 0,
            "raw.key.size": self._key_bytes,
            "raw.value.size": self._value_bytes,
        }
        values = {f"rocksdb.{name}": encode_uvarint(number) for name, number in numbers.items()} | {
            "rocksdb.block.based.table.index.type": struct.pack("<I", 0),
            "rocksdb.block.based.table.prefix.filtering": b"0",
            "rocksdb.block.based.table.whole.key.filtering": b"1",
            "rocksdb.comparator": b"leveldb.BytewiseComparator",
            "rocksdb.compression": _NAMES[self._type].encode(),
            "rocksdb.merge.operator": b"nullptr",
            "rocksdb.prefix.extractor.name": b"nullptr",
            "rocksdb.property.collectors": b"[]",
            EXTERNAL_VERSION: struct.pack("<I", _EXTERNAL_FILE_VERSION),
            GLOBAL_SEQNO: struct.pack("<Q", 0),
            **noted,
        }
        return sorted((name.encode(), value) for name, value in values.items())


# Blocks have few different sizes.
_encode_size = lru_cache(4096)(encode_uvarint)


def _meta_block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block whose entries are all restart points."""
    pieces: list[bytes] = []
    restarts: list[int] = []
    at = 0
    for key, value in entries:
        entry = b"".join((b"\0", encode_uvarint(len(key)), encode_uvarint(len(value)), key, value))
        restarts.append(at)
        pieces.append(entry)
        at += len(entry)
    restarts = restarts or [0]
    return b"".join(pieces) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
