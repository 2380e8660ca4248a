"""Undoes the compression of an SST file's blocks, within a bound set beforehand.

    type  codec     payload, format 2 and up        payload, format 0 and 1
       0  none      the block                       the same
       1  snappy    raw snappy (holds its size)     the same
       2  zlib      varint plain size, raw deflate  raw deflate
       3  bzip2     varint plain size, bzip2        bzip2
     4,5  lz4(hc)   varint plain size, lz4 block    plain size (4, LE), 4 bytes unused, lz4 block
       6  xpress    Windows only; refused
       7  zstd      varint plain size, one frame    the same (also as type 40, its trial number)

Source: RocksDB's util/compression.h.
"""

from __future__ import annotations

import bz2
import zlib

import lz4.block
import snappy
import zstandard

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

NONE = 0
SNAPPY = 1
ZLIB = 2
BZIP2 = 3
LZ4 = 4
LZ4HC = 5
XPRESS = 6
ZSTD = 7
ZSTD_TRIAL = 0x40

_NAMES = {
    SNAPPY: "snappy",
    ZLIB: "zlib",
    BZIP2: "bzip2",
    LZ4: "lz4",
    LZ4HC: "lz4hc",
    XPRESS: "xpress",
    ZSTD: "zstd",
    ZSTD_TRIAL: "zstd",
}
_RAW_DEFLATE = -15
_LZ4_OLD_HEADER = 8
_MAX_VARINT = 10
# The first format whose payloads say their plain size in front, as a varint.
_SIZED_FORMAT = 2
_FAILURES = (
    zstandard.ZstdError,
    lz4.block.LZ4BlockError,
    zlib.error,
    snappy.UncompressError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
)


class Decompressor:
    """Plain blocks from the payloads of one file; not for use by two threads at a time."""

    def __init__(self, format_version: int, dictionary: bytes = b"") -> None:
        """Make one for files of `format_version`; `dictionary` serves zlib, lz4 and zstd."""
        self._sized = format_version >= _SIZED_FORMAT
        self._dictionary = dictionary
        trained = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._zstd = zstandard.ZstdDecompressor(dict_data=trained)

    def decompress(self, codec: int, payload: bytes | memoryview, limit: int) -> bytes:
        """Return the plain block, of `limit` bytes at most.

        The size a payload declares is checked before memory is taken, and the result against it;
        raises CorruptionError where they disagree or the payload is no such stream.
        """
        if codec == NONE:
            return bytes(payload)
        if codec == LZ4 and self._sized and (plain := self._usual_lz4(payload, limit)) is not None:
            return plain
        name = _NAMES.get(codec)
        if name is None:
            raise CorruptionError(f"unknown compression type {codec:#04x}")
        if codec == XPRESS:
            raise CorruptionError(
                "the block is compressed with xpress, which only Windows can read"
            )
        try:
            size, body = self._declared(codec, payload)
            if size is not None and size > limit:
                raise CorruptionError(
                    f"the {name} block declares {size} bytes, over the limit of {limit}"
                )
            plain = self._run(codec, body, limit if size is None else size)
        except _FAILURES as e:
            raise CorruptionError(f"{name} cannot decompress the block: {_one_line(e)}") from None
        if size is not None and len(plain) != size:
            raise CorruptionError(f"the {name} block declares {size} bytes and holds {len(plain)}")
        return plain

    def _usual_lz4(self, payload: bytes | memoryview, limit: int) -> bytes | None:
        """The plain block of what most blocks are; None where anything is wrong with it."""
        try:
            size, start = decode_uvarint(payload, 0)
            if size > limit:
                return None
            plain: bytes = lz4.block.decompress(
                payload[start:], uncompressed_size=size, dict=self._dictionary
            )
        except (lz4.block.LZ4BlockError, CorruptionError, ValueError):
            return None
        return plain if len(plain) == size else None

    def _declared(
        self, codec: int, payload: bytes | memoryview
    ) -> tuple[int | None, bytes | memoryview]:
        """(the plain size the payload declares if it does, the stream behind it)."""
        if codec == SNAPPY:
            return decode_uvarint(bytes(payload[:_MAX_VARINT]), 0)[0], payload
        if self._sized or codec in (ZSTD, ZSTD_TRIAL):
            size, start = decode_uvarint(bytes(payload[:_MAX_VARINT]), 0)
            return size, payload[start:]
        if codec in (LZ4, LZ4HC):
            if len(payload) < _LZ4_OLD_HEADER:
                raise CorruptionError("the lz4 block is too short for its header")
            return int.from_bytes(payload[:4], "little"), payload[_LZ4_OLD_HEADER:]
        return None, payload

    def _run(self, codec: int, body: bytes | memoryview, bound: int) -> bytes:
        """Decompress, never past `bound` bytes."""
        if codec in (ZSTD, ZSTD_TRIAL):
            return self._run_zstd(body, bound)
        if codec in (LZ4, LZ4HC):
            plain: bytes = lz4.block.decompress(
                body, uncompressed_size=bound, dict=self._dictionary
            )
            return plain
        if codec == SNAPPY:
            plain = snappy.uncompress(body)
            return bytes(plain)
        if codec == ZLIB:
            inflate = zlib.decompressobj(_RAW_DEFLATE, self._dictionary)
            plain = inflate.decompress(body, bound + 1)
            return _whole(plain, bound, inflate.eof and not inflate.unused_data)
        stream = bz2.BZ2Decompressor()
        plain = stream.decompress(body, bound + 1)
        return _whole(plain, bound, stream.eof and not stream.unused_data)

    def _run_zstd(self, body: bytes | memoryview, bound: int) -> bytes:
        # The library trusts a size in the frame's header over max_output_size: look there first.
        framed = zstandard.frame_content_size(body)
        if framed not in (-1, bound):
            raise CorruptionError(f"the zstd block declares {bound} bytes, its frame {framed}")
        return self._zstd.decompress(body, max_output_size=bound, allow_extra_data=False)


def _whole(plain: bytes, bound: int, ended: bool) -> bytes:
    """Return `plain` if its stream came to its end, with nothing behind it, within `bound`."""
    if len(plain) > bound:
        raise CorruptionError(f"the block holds more than the {bound} bytes it may")
    if not ended:
        raise CorruptionError("the compressed stream is cut short or has bytes behind its end")
    return plain


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
