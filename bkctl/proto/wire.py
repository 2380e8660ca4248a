"""Walks the fields of a protobuf message that may be larger than memory should hold.

    message    field ...
    field      varint: number << 3 | kind, then
    kind 0     varint
    kind 1     8 bytes
    kind 2     varint length, so many bytes: bytes, a text, or a message of its own
    kind 5     4 bytes

Groups (kinds 3 and 4) are not used by anything that is read here, and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bkctl.codec.stream import ByteStream
from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MAX_NUMBER = (1 << 29) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `is_bytes` tells the kind with a length.

    Of that kind the stream gives the content next: `size` bytes at the offset `start`. Of the other
    ones `value` is the content as it is encoded.
    """

    key: int
    is_bytes: bool
    value: bytes = b""
    start: int = 0
    size: int = 0

    @property
    def number(self) -> int:
        """The field's number in its message."""
        return self.key >> 3

    @property
    def encoded(self) -> bytes:
        """All of it but a content that the stream gives."""
        key = encode_uvarint(self.key)
        return key + (encode_uvarint(self.size) if self.is_bytes else self.value)


def fields(stream: ByteStream, end: int) -> Iterator[Field]:
    """Yield the fields up to the offset `end`, in order; what is not taken of one is passed over.

    Raises CorruptionError for what is no message.
    """
    while stream.position < end:
        key = stream.varint()
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _MAX_NUMBER:
            raise CorruptionError(f"a field with the number {number}")
        if kind == _BYTES:
            size = stream.varint()
            start = stream.position
            if start + size > end:
                raise CorruptionError("a field runs past its message")
            yield Field(key, True, b"", start, size)
            if (left := start + size - stream.position) > 0:
                stream.skip(left)
        elif kind == _VARINT:
            yield Field(key, False, encode_uvarint(stream.varint()))
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            yield Field(key, False, stream.take(8 if kind == _EIGHT_BYTES else 4))
        else:
            raise CorruptionError(f"a field of the kind {kind}")
    if stream.position > end:
        raise CorruptionError("a field runs past its message")
