"""The checksums of an SST file's blocks.

    type  name      the 4 bytes stored
       0  none      0
       1  crc32c    masked: rotated right by 15 bits, plus A282EAD8
       2  xxhash    XXH32, seed 0
       3  xxhash64  low half of XXH64, seed 0
       4  xxh3      low half of XXH3 of all bytes but the last, xor last byte * 6B9083D9

Covered are a block's payload and its compression type byte. From format 6 on, a modifier made of a
number of the file's own and the block's offset is added, so a block moved or taken from another
file is found out. Source: RocksDB's table/format.cc and util/crc32c.h.
"""

from __future__ import annotations

from enum import IntEnum

import xxhash

from bkctl.codec.crc32c import masked_crc32c

_LAST_BYTE_FACTOR = 0x6B9083D9
_U32 = 0xFFFFFFFF


class ChecksumType(IntEnum):
    """The footer's checksum type byte."""

    NONE = 0
    CRC32C = 1
    XXHASH = 2
    XXHASH64 = 3
    XXH3 = 4


def stored_checksum(checksum_type: ChecksumType, content: bytes | memoryview) -> int:
    """The 32-bit number stored for `content` (payload and type byte), before any modifier."""
    if checksum_type is ChecksumType.CRC32C:
        return masked_crc32c(content if isinstance(content, bytes) else bytes(content))
    if checksum_type is ChecksumType.XXH3:
        if not content:
            return 0
        last = content[-1] * _LAST_BYTE_FACTOR
        return (xxhash.xxh3_64_intdigest(content[:-1]) ^ last) & _U32
    if checksum_type is ChecksumType.XXHASH64:
        return xxhash.xxh64_intdigest(content) & _U32
    if checksum_type is ChecksumType.XXHASH:
        return xxhash.xxh32_intdigest(content)
    return 0


def context_modifier(base: int, offset: int) -> int:
    """What format 6 adds to the checksum of what lies at `offset`; 0 where `base` is 0."""
    if base == 0:
        return 0
    return base ^ (((offset & _U32) + (offset >> 32)) & _U32)
