"""The outline of an SST file (RocksDB's block-based table): footer, block handles, block trailers.

    file     data blocks | filter, index, dictionary and tombstone blocks | properties | metaindex
             | footer
    block    payload, then a trailer of 5 bytes: compression type (1), checksum (4, LE)
    handle   varint offset, varint size of the payload (the trailer not counted)

    footer, format 1 to 5, 53 bytes         footer, format 6, 53 bytes
     1  checksum type                        1  checksum type
    40  metaindex handle, index handle,      4  3E 00 7A 00
        zeros                                4  checksum of the footer, this field as zeros
                                             4  base of the context checksums, never 0
                                             4  metaindex size; it ends right before the footer
                                            24  zeros
     4  format version, LE                   4  format version, LE
     8  88E241B785F4CFF7, LE                 8  88E241B785F4CFF7, LE

Format 0 has the 40 bytes of handles and zeros, then DB4775248B80FB57 (48 bytes in all), and always
uses crc32c. Source: RocksDB's table/format.cc.
"""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.codec.varint import decode_uvarint, encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.checksums import ChecksumType, context_modifier, stored_checksum

BLOCK_TRAILER_SIZE = 5
FOOTER_SIZE = 53
LEGACY_FOOTER_SIZE = 48
MAX_FORMAT_VERSION = 6

# No block may be larger, stored or plain: far above what RocksDB writes (the block size, or one
# record if that is longer), low enough that a false length cannot take the machine's memory.
MAX_BLOCK_SIZE = 64 << 20
# Blocks that describe others (index, properties, metaindex) stay in memory while data is read.
MAX_META_BLOCK_SIZE = 16 << 20

_MAGIC = (0x88E241B785F4CFF7).to_bytes(8, "little")
_LEGACY_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_EXTENDED_MAGIC = b"\x3e\x00\x7a\x00"
_HANDLES_SIZE = 40
_CONTEXT_FORMAT = 6


@dataclass(frozen=True, slots=True)
class BlockHandle:
    """Where a block's payload lies in the file, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset behind the block and its trailer, where the next block starts."""
        return self.offset + self.size + BLOCK_TRAILER_SIZE


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of the file says.

    `index` is None in format 6, where the metaindex names it. `offset` is the footer's own.
    `flaws` are departures from the one form RocksDB writes that leave the footer readable (padding
    that is not zero, overlong varints): no checksum covers these bytes before format 6.
    """

    offset: int
    format_version: int
    checksum_type: ChecksumType
    metaindex: BlockHandle
    index: BlockHandle | None
    base_context: int = 0
    flaws: tuple[str, ...] = ()

    def check_handle(self, handle: BlockHandle) -> BlockHandle:
        """Return `handle` if its block lies before the footer; CorruptionError if not."""
        if handle.end > self.offset:
            raise CorruptionError(
                f"a block of {handle.size} bytes at offset {handle.offset} would run past the "
                f"file's blocks, which end at {self.offset}"
            )
        return handle


def decode_handle(buf: bytes, pos: int) -> tuple[BlockHandle, int]:
    """Decode a handle at `pos`: (handle, position behind it); CorruptionError if it is cut."""
    offset, pos = decode_uvarint(buf, pos)
    size, pos = decode_uvarint(buf, pos)
    return BlockHandle(offset, size), pos


def is_magic(tail: bytes) -> bool:
    """Whether a file that ends with these 8 bytes is an SST file."""
    return tail in (_MAGIC, _LEGACY_MAGIC)


def encode_handle(handle: BlockHandle) -> bytes:
    """Encode a handle."""
    return encode_uvarint(handle.offset) + encode_uvarint(handle.size)


def encode_footer(
    format_version: int, checksum_type: ChecksumType, metaindex: BlockHandle, index: BlockHandle
) -> bytes:
    """The footer of a file of format version 1 to 5."""
    handles = encode_handle(metaindex) + encode_handle(index)
    version = format_version.to_bytes(4, "little")
    return bytes([checksum_type]) + handles.ljust(_HANDLES_SIZE, b"\0") + version + _MAGIC


def parse_footer(tail: bytes, file_size: int) -> Footer:
    """Parse the footer from `tail`, the file's last bytes (53 of them, or the whole file).

    Raises CorruptionError where it is none, is damaged, or is of a format newer than 6.
    """
    magic = tail[-8:]
    if magic == _LEGACY_MAGIC and len(tail) >= LEGACY_FOOTER_SIZE:
        offset = file_size - LEGACY_FOOTER_SIZE
        handles = tail[-LEGACY_FOOTER_SIZE:][:_HANDLES_SIZE]
        return _with_handles(offset, 0, ChecksumType.CRC32C, handles)
    if magic != _MAGIC:
        raise CorruptionError("not an SST file: it does not end in RocksDB's magic number")
    if len(tail) < FOOTER_SIZE:
        raise CorruptionError(f"{file_size} bytes are too few for an SST file")
    raw = tail[-FOOTER_SIZE:]
    version = int.from_bytes(raw[-12:-8], "little")
    if not 1 <= version <= MAX_FORMAT_VERSION:
        raise CorruptionError(
            f"SST format version {version} is not one this reader knows (1 to {MAX_FORMAT_VERSION})"
        )
    try:
        checksum_type = ChecksumType(raw[0])
    except ValueError:
        raise CorruptionError(f"unknown checksum type {raw[0]} in the footer") from None
    offset = file_size - FOOTER_SIZE
    if version >= _CONTEXT_FORMAT:
        return _with_context(raw, offset, version, checksum_type)
    return _with_handles(offset, version, checksum_type, raw[1 : 1 + _HANDLES_SIZE])


def _with_handles(offset: int, version: int, checksum_type: ChecksumType, handles: bytes) -> Footer:
    metaindex, pos = decode_handle(handles, 0)
    index, pos = decode_handle(handles, pos)
    flaws = []
    numbers = (metaindex.offset, metaindex.size, index.offset, index.size)
    if b"".join(map(encode_uvarint, numbers)) != handles[:pos]:
        flaws.append("the footer's block handles are not in their shortest form")
    if any(handles[pos:]):
        flaws.append("the footer's padding is not zero")
    footer = Footer(offset, version, checksum_type, metaindex, index, flaws=tuple(flaws))
    footer.check_handle(metaindex)
    footer.check_handle(index)
    return footer


def _with_context(raw: bytes, offset: int, version: int, checksum_type: ChecksumType) -> Footer:
    if raw[1:5] != _EXTENDED_MAGIC:
        raise CorruptionError("the footer's extended magic number is wrong")
    stored = int.from_bytes(raw[5:9], "little")
    base = int.from_bytes(raw[9:13], "little")
    if base == 0:
        raise CorruptionError("the footer's base context checksum is 0, which it never is")
    computed = stored_checksum(checksum_type, raw[:5] + bytes(4) + raw[9:])
    computed = (computed + context_modifier(base, offset)) & 0xFFFFFFFF
    if computed != stored:
        raise CorruptionError(
            f"the footer's checksum is {stored:08x}, its content gives {computed:08x}"
        )
    size = int.from_bytes(raw[13:17], "little")
    start = offset - BLOCK_TRAILER_SIZE - size
    if start < 0:
        raise CorruptionError(f"a metaindex of {size} bytes does not fit in the file")
    flaws = ("the footer's padding is not zero",) if any(raw[17:41]) else ()
    return Footer(offset, version, checksum_type, BlockHandle(start, size), None, base, flaws)
