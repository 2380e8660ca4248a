"""Blob indexes in write-ahead logs: made such that plain RocksDB carries them into SST files.

When Titan moves a value to another blob file, it writes the key's new blob index as a write of its
own. In a log's write batch (`bkctl.store.wal`) that is an entry like others:

    | tag (1) | [family varint: tags marked *] | varint length, key | [varint length, value] |
    0, 4* deletion       1, 5* value         2, 6* merge           7, 8* single deletion
    3 log data (a key alone)   13 no-op (nothing)   15, 14* range deletion (two keys)
    17, 16* blob index

Plain RocksDB knows these tags as those of its own blob files, looks into each index when it makes
an SST file, and takes Titan's for damaged. Its own indexes begin with a type, too: 1 is one that
leads to a file, 0 one that holds its value itself, behind a varint. The second it takes as it is.
So the type is set to 0 here, and the reader of blob indexes takes 0 for 1. Sources: RocksDB's
db/write_batch.cc, db/version_edit.cc, db/blob/blob_index.h.
"""

from __future__ import annotations

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

IN_LOGS, IN_FILES = 0, 1
"""The types of blob indexes: as set here, and Titan's own."""

_HEADER_SIZE = 12
# By tag: whether a family stands in it, and how many strings.
_SHAPES = {
    0: (False, 1),
    1: (False, 2),
    2: (False, 2),
    3: (False, 1),
    4: (True, 1),
    5: (True, 2),
    6: (True, 2),
    7: (False, 1),
    8: (True, 1),
    13: (False, 0),
    14: (True, 2),
    15: (False, 2),
    16: (True, 2),
    17: (False, 2),
}
_BLOB_INDEXES = (16, 17)


def with_marked_indexes(batch: bytes) -> bytes | None:
    """The write batch with the types of its blob indexes set to 0; None where it has none.

    What cannot be parsed is left to RocksDB. Raises CorruptionError for an index of another type
    than those of Titan's.
    """
    if not any(tag in batch for tag in _BLOB_INDEXES):
        return None
    places = _places(batch)
    if not places:
        return None
    marked = bytearray(batch)
    for place in places:
        if marked[place] != IN_FILES:
            raise CorruptionError(f"a blob index is of the unknown type {marked[place]}")
        marked[place] = IN_LOGS
    return bytes(marked)


def _places(batch: bytes) -> list[int]:
    """Where the values of blob indexes begin."""
    places: list[int] = []
    pos, end = _HEADER_SIZE, len(batch)
    try:
        while pos < end:
            tag = batch[pos]
            has_family, strings = _SHAPES[tag]
            pos += 1
            if has_family:
                _, pos = decode_uvarint(batch, pos)
            start = pos
            for _ in range(strings):
                length, start = decode_uvarint(batch, pos)
                pos = start + length
            if tag in _BLOB_INDEXES and start < pos <= end:
                places.append(start)
    except (KeyError, CorruptionError):
        return places
    return places
