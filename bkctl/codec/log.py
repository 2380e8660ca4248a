"""RocksDB's log of records: how MANIFESTs and write-ahead logs lie in their files.

The file is made of blocks of 32 KiB; a record never passes the end of a block, but may be split:

    | masked crc32c (4, LE) | length (2, LE) | type (1) | payload |     crc over type + payload
    type 0 zero padding, 1 full, 2 first, 3 middle, 4 last; a block's last < 7 bytes are zeros

Source: RocksDB's db/log_format.h, log_reader.cc and log_writer.cc.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bkctl.codec.crc32c import masked_crc32c
from bkctl.errors import CorruptionError

BLOCK_SIZE = 32 * 1024
HEADER_SIZE = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_CHUNK = 32 * BLOCK_SIZE
# By whether a part is its record's first, and its last.
_KINDS = {(True, True): FULL, (True, False): FIRST, (False, False): MIDDLE, (False, True): LAST}


class TornTailError(CorruptionError):
    """The log ends in the middle of a record."""


def blocks_of(content: bytes) -> Iterator[bytes]:
    """A log's content as blocks."""
    for start in range(0, len(content), BLOCK_SIZE):
        yield content[start : start + BLOCK_SIZE]


def file_blocks(descriptor: int, size: int) -> Iterator[bytes]:
    """The first `size` bytes of an open log as blocks, few of which are in memory at a time."""
    for start in range(0, size, _CHUNK):
        chunk = os.pread(descriptor, min(_CHUNK, size - start), start)
        yield from blocks_of(chunk)
        if len(chunk) < min(_CHUNK, size - start):
            return


def read_records(blocks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Yield whole records, every physical record checked against its checksum.

    All `blocks` but the last have BLOCK_SIZE bytes. Raises CorruptionError, TornTailError for a
    record that is cut off at the end of the file.
    """
    parts: list[bytes] = []
    start, rest = 0, iter(blocks)
    for block in rest:
        pos, end = 0, len(block)
        while pos < end and BLOCK_SIZE - pos >= HEADER_SIZE:
            if not any(block[pos : pos + HEADER_SIZE]) and not block[pos:].strip(b"\0"):
                if any(later.strip(b"\0") for later in rest):
                    raise _damaged(path, start + pos)
                pos = end  # space set aside for records that were never written
                break
            length = int.from_bytes(block[pos + 4 : pos + 6], "little")
            left = BLOCK_SIZE - pos
            stop = pos + HEADER_SIZE + length
            if pos + HEADER_SIZE > end or (stop > end and length + HEADER_SIZE <= left):
                raise _torn(path, start + pos)
            if length + HEADER_SIZE > left:
                raise CorruptionError(
                    f"{path}: record at offset {start + pos} passes the end of its block"
                )
            kind, body = block[pos + 6], block[pos + 6 : stop]
            if masked_crc32c(body) != int.from_bytes(block[pos : pos + 4], "little"):
                raise _damaged(path, start + pos)
            if kind not in (FULL, FIRST, MIDDLE, LAST) or (kind in (FULL, FIRST)) == bool(parts):
                raise CorruptionError(
                    f"{path}: record of type {kind} at offset {start + pos} is out of place"
                )
            parts.append(body[1:])
            if kind in (FULL, LAST):
                yield b"".join(parts)
                parts = []
            pos = stop
        start += end
    if parts:
        raise _torn(path, start)


def _damaged(path: Path, pos: int) -> CorruptionError:
    return CorruptionError(f"{path}: checksum mismatch in the record at offset {pos}")


def _torn(path: Path, pos: int) -> TornTailError:
    return TornTailError(
        f"{path}: ends in the middle of a record at offset {pos}: the file was cut short, or the "
        "machine lost power while it was written; --recovery point-in-time drops what is cut, as "
        "TiKV would"
    )


def write_records(records: Iterable[bytes]) -> Iterator[bytes]:
    """The records as a log of blocks, split where they pass the end of one."""
    left = BLOCK_SIZE
    for record in records:
        pos, is_first = 0, True
        while is_first or pos < len(record):
            if left < HEADER_SIZE:
                yield bytes(left)
                left = BLOCK_SIZE
            part = record[pos : pos + left - HEADER_SIZE]
            pos += len(part)
            is_last = pos == len(record)
            kind = _KINDS[is_first, is_last]
            body = bytes([kind]) + part
            yield masked_crc32c(body).to_bytes(4, "little") + len(part).to_bytes(2, "little") + body
            left -= HEADER_SIZE + len(part)
            is_first = False
