"""CRC-64/XZ, and the XOR of many messages' CRCs without a CRC for each.

A CRC is affine over XOR: crc(m) = linear(m) ^ crc(zeros of m's length); `linear` ignores leading
zeros. So the messages themselves are XORed, aligned at their ends, and one CRC is run over the sum;
then, for every length seen an odd number of times, the CRC of that many zeros is XORed in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from fastcrc import crc64 as _crc64

Bytes2D = npt.NDArray[np.uint8]


def crc64(data: bytes) -> int:
    """CRC-64/XZ of `data` (reflected 0xC96C5795D7870F42, init and xorout all ones)."""
    return int(_crc64.xz(data))


def xor_rows(rows: Bytes2D) -> bytes:
    """The XOR of all rows of a matrix of bytes, as bytes of one row's length."""
    xored: npt.NDArray[np.uint8] = np.bitwise_xor.reduce(rows, axis=0)
    return xored.tobytes()


class Crc64Xor:
    """The XOR of the CRC-64/XZ of messages, fed one by one or in parts already XORed."""

    __slots__ = ("_odd_lengths", "_sum")

    def __init__(self) -> None:
        self._sum = 0
        self._odd_lengths: set[int] = set()

    def add(self, message: bytes) -> None:
        """Count one message."""
        self.add_part(message, 0)
        self.add_lengths({len(message)})

    def add_part(self, xored: bytes, tail: int) -> None:
        """Count the XOR of a part of some messages, each with `tail` bytes behind that part.

        The messages' lengths are `add_lengths`'s to count.
        """
        self._sum ^= int.from_bytes(xored, "big") << 8 * tail

    def add_lengths(self, odd: set[int]) -> None:
        """Count messages whose parts were added: the lengths that an odd number of them have."""
        self._odd_lengths ^= odd

    def merge(self, other: Crc64Xor) -> None:
        """Count all that `other` counted."""
        self._sum ^= other._sum
        self._odd_lengths ^= other._odd_lengths

    def digest(self) -> int:
        """The XOR of all messages' CRCs; 0 for none."""
        width = (self._sum.bit_length() + 7) // 8
        result = crc64(self._sum.to_bytes(width, "big")) ^ crc64(bytes(width))
        for length in self._odd_lengths:
            result ^= crc64(bytes(length))
        return result
