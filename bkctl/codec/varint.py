"""Protobuf's varints: unsigned LEB128 of 64 bits, and the zigzag form for signed numbers.

seven bits a byte, lowest first; the high bit says that another byte follows; at most ten bytes
"""

from __future__ import annotations

from bkctl.errors import CorruptionError

_MAX_SHIFT = 63


def encode_uvarint(number: int) -> bytes:
    """Encode `number`, 0 to 2^64-1."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_uvarint(buf: bytes | memoryview, pos: int) -> tuple[int, int]:
    """Decode at `pos`: (number, position behind it); CorruptionError if cut or over 64 bits."""
    if pos < len(buf) and (byte := buf[pos]) < 0x80:  # as most are
        return byte, pos + 1
    result = shift = 0
    while True:
        if pos >= len(buf):
            raise CorruptionError("a varint is cut short")
        byte = buf[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > _MAX_SHIFT:
            raise CorruptionError("a varint is longer than 64 bits")
    if result >> 64:
        raise CorruptionError("a varint is longer than 64 bits")
    return result, pos


def encode_zigzag(number: int) -> bytes:
    """Encode a signed number of 64 bits."""
    return encode_uvarint((number << 1) ^ (number >> 63) if number < 0 else number << 1)


def decode_zigzag(buf: bytes, pos: int) -> tuple[int, int]:
    """Decode a signed number at `pos`: (number, position behind it); CorruptionError as above."""
    raw, pos = decode_uvarint(buf, pos)
    return (raw >> 1) ^ -(raw & 1), pos
