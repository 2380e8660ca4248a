"""CRC-32C, plain and in RocksDB's masked form: rotated right by 15 bits, plus A282EAD8.

What is checked often holds checksums itself; the mask keeps those from undoing each other.
"""

from __future__ import annotations

import google_crc32c

_MASK_DELTA = 0xA282EAD8
_U32 = 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """The CRC-32C of `content`."""
    crc: int = google_crc32c.value(content)
    return crc


def masked_crc32c(content: bytes) -> int:
    """What RocksDB stores for `content` as a checksum of type crc32c."""
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _U32
