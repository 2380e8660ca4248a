"""Looks for a sound log batch behind a broken one: a crash leaves none there, damage does.

A batch may begin at any byte. Headers have eight bytes that are zero or nearly so (`batch`: sizes
are far below 2^32), so few places come into question, fewer still if there must be items where they
say; the items' checksum decides. It counts with the file's signature and without one, as the
header that says which may be what is damaged.
"""

from __future__ import annotations

import zlib

import numpy as np

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError
from bkctl.raft.batch import CHECKSUM_SIZE, COMMAND_ITEM, ENTRIES_ITEM, HEADER, LZ4, VALUE_ITEM
from bkctl.raft.log_file import LogFile

_CHUNK = 4 << 20
_STREAM = 1 << 20
_MASK = 0xFFFFFFFF
# So many of the items are looked at before their checksum, so many bytes of them at once.
_LOOK_AT = 64
_WINDOW = 1024
# What it takes to see what an item is, and what the smallest one takes.
_ITEM_BEGIN = 64
_MIN_ITEM = 3
_MAX_VARINT = 10
# A look counts for as many bytes of work.
_LOOK = 64
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
            items_size = size - items_at - CHECKSUM_SIZE
            work -= _LOOK
            if not _seem_items(file, pos + items_at, items_size):
                continue
            work -= items_size
            if work < 0 or checksum(file, pos + items_at, pos + size) in signatures:
                return pos
        offset += _CHUNK + 1
    return None


def _seem_items(file: LogFile, start: int, size: int) -> bool:
    """Whether there seem to be a batch's items, `size` bytes: the first ones are looked at."""
    window = file.read_at(start, min(_WINDOW, size))
    base = last_end = 0
    try:
        count, pos = _varint(window, 0)
        if not 0 < count * _MIN_ITEM < size:
            return False
        for _ in range(min(count, _LOOK_AT)):
            if pos - base > len(window) - _ITEM_BEGIN:
                window, base = file.read_at(start + pos, min(_WINDOW, size - pos)), pos
            behind, last_end = _skip_item(window, pos - base, last_end)
            pos = base + behind
            if pos > size:
                return False
    except _NoItemError:
        return False
    except (CorruptionError, IndexError):
        # An item of more than a window, or one cut off by the end there is said to be.
        return base + len(window) < size
    return count > _LOOK_AT or pos == size


class _NoItemError(Exception):
    """Bytes that are no item."""


def _skip_item(begin: bytes, pos: int, last_end: int) -> tuple[int, int]:
    """(position behind the item at `pos`, where the last entry so far ends)."""
    _, pos = _varint(begin, pos)
    kind, what = begin[pos], begin[pos + 1]
    if kind == ENTRIES_ITEM:
        number, pos = _varint(begin, pos + 1)
        if number:
            _, pos = _varint(begin, pos)
        for _ in range(number):
            end, pos = _varint(begin, pos)
            if end < last_end:
                raise _NoItemError
            last_end = end
        return pos, last_end
    if kind not in (COMMAND_ITEM, VALUE_ITEM) or what not in (1, 2):
        raise _NoItemError
    pos += 2
    # A key and a value, or a key; or an index, or nothing.
    strings = 3 - what if kind == VALUE_ITEM else 0
    for _ in range(strings):
        length, pos = _varint(begin, pos)
        pos += length
    if kind == COMMAND_ITEM and what == 2:
        _, pos = _varint(begin, pos)
    return pos, last_end


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """Like decode_uvarint, but what is no number, rather than cut off, is a _NoItemError."""
    try:
        return decode_uvarint(data, pos)
    except CorruptionError:
        if pos + _MAX_VARINT <= len(data):
            raise _NoItemError from None
        raise


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
