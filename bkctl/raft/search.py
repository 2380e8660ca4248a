"""Looks for a sound log batch behind a broken one: a crash leaves none there, damage does.

A batch may begin at any byte. Headers have eight bytes that are zero or nearly so (`batch`: sizes
are far below 2^32), so few places come into question, fewer still if items must begin where they
say; the items' checksum decides. It counts with the file's signature and without one, as the
header that says which may be what is damaged.
"""

from __future__ import annotations

import zlib

import numpy as np

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError
from bkctl.raft.batch import CHECKSUM_SIZE, ENTRIES_ITEM, HEADER, LZ4, OTHER_ITEMS
from bkctl.raft.log_file import LogFile

_CHUNK = 4 << 20
_STREAM = 1 << 20
_MASK = 0xFFFFFFFF
# A count, a region's id and two bytes are in it.
_PREFIX = 32
# What ends the search in files made to have it take for ever: honest ones stay far below.
_SPARE_WORK = 64 << 20
_WORK_A_BYTE = 4


def find_batch(file: LogFile, start: int) -> int | None:
    """Where a sound batch begins, at `start` or behind it; None if there is none.

    A file with so many seeming batches that they cannot all be checked counts as having one.
    """
    signatures = (0, file.id.number & _MASK)
    work = _SPARE_WORK + _WORK_A_BYTE * (file.size - start)
    offset = start
    while offset + HEADER.size <= file.size:
        chunk = file.read_at(offset, _CHUNK + HEADER.size)
        for place, size, items_at in _seeming(chunk, file.size - offset):
            pos = offset + place
            if not _begins_items(file.read_at(pos + items_at, _PREFIX)):
                continue
            work -= size - items_at
            if work < 0 or checksum(file, pos + items_at, pos + size) in signatures:
                return pos
        offset += _CHUNK + 1
    return None


def _begins_items(data: bytes) -> bool:
    """Whether `data` begins as items do: a count, a region's id, and a kind that there is."""
    try:
        count, pos = decode_uvarint(data, 0)
        _, pos = decode_uvarint(data, pos)
        kind, next_ = data[pos], data[pos + 1]
    except (CorruptionError, IndexError):
        return False
    return count > 0 and (kind == ENTRIES_ITEM or (kind in OTHER_ITEMS and next_ in (1, 2)))


def checksum(file: LogFile, start: int, end: int) -> int:
    """What the checksum at the end of [start, end) was XORed with, if that is sound.

    Takes little memory, however much it is.
    """
    crc = 0
    stored_at = end - CHECKSUM_SIZE
    while start < stored_at:
        part = file.read_at(start, min(_STREAM, stored_at - start))
        if not part:
            return -1
        crc = zlib.crc32(part, crc)
        start += len(part)
    return crc ^ int.from_bytes(file.read_at(stored_at, CHECKSUM_SIZE), "little")


def _seeming(chunk: bytes, left: int) -> list[tuple[int, int, int]]:
    """What looks like headers in `chunk`, whose file goes on for `left` bytes from its start.

    Each is (place, size, where the items begin).
    """
    data = np.frombuffer(chunk, np.uint8)
    count = len(data) - HEADER.size + 1
    if count <= 0:
        return []
    zeros = data[:count] | data[1 : count + 1] | data[2 : count + 2]
    for place in range(8, 12):
        zeros |= data[place : count + place]
    places = np.flatnonzero((zeros == 0) & (data[7 : count + 7] <= LZ4))
    sizes = _number(data, places + 3)
    items_at = _number(data, places + 12)
    fits = (items_at >= HEADER.size) & (sizes > items_at + CHECKSUM_SIZE) & (places + sizes <= left)
    return list(
        zip(places[fits].tolist(), sizes[fits].tolist(), items_at[fits].tolist(), strict=True)
    )


def _number(data: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The big-endian numbers of four bytes at `places`."""
    number = np.zeros(len(places), np.int64)
    for step in range(4):
        number = number << 8 | data[places + step]
    return number
