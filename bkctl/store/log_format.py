"""How a RocksDB log begins, which tells whether bytes are one: a write-ahead log, or a MANIFEST.

    | masked crc32c (4, LE) | length (2, LE) | type (1) | [log number (4)] | payload |

A log's first record is of type 1 (full) or 2 (first), or 9 or 10 (which tell how the others are
stored); of type 5, 6 or 11 in a log whose file was used before, where the log's number follows. The
checksum is over all behind the length, and no record passes the end of a block. The payload of a
write-ahead log's record is a batch, which begins with its sequence number (8, LE) of 56 bits.
`manifest` reads whole logs. Source: RocksDB's db/log_format.h, db/write_batch.cc.
"""

from __future__ import annotations

from enum import Enum

from bkctl.codec.crc32c import masked_crc32c
from bkctl.codec.log import BLOCK_SIZE, HEADER_SIZE

_PLAIN_TYPES = (1, 2, 9, 10)
_NUMBERED_TYPES = (5, 6, 11)
_NUMBER_SIZE = 4
_BATCH_TYPES = (1, 2, 5, 6)
_SEQUENCE_SIZE, _MAX_SEQUENCE = 8, 1 << 56


class Beginning(Enum):
    """What a log's first bytes show."""

    EMPTY = "no record"
    WHOLE = "a whole record"
    CUT = "a record that may be cut off at the log's end"
    DAMAGED = "no record that a log can begin with"


def beginning(head: bytes) -> Beginning:
    """What a log of these bytes, or of whose first block these are, begins with."""
    if not any(head[:HEADER_SIZE]):
        return Beginning.EMPTY  # or space set aside for records that were never written
    if len(head) < HEADER_SIZE:
        return Beginning.CUT
    length, kind = int.from_bytes(head[4:6], "little"), head[6]
    payload = HEADER_SIZE + (_NUMBER_SIZE if kind in _NUMBERED_TYPES else 0)
    size = payload + length
    if kind not in (*_PLAIN_TYPES, *_NUMBERED_TYPES) or size > BLOCK_SIZE:
        return Beginning.DAMAGED
    if size > len(head):
        sequence = int.from_bytes(head[payload : payload + _SEQUENCE_SIZE], "little")
        is_batch = kind in _BATCH_TYPES and sequence < _MAX_SEQUENCE
        return Beginning.CUT if is_batch else Beginning.DAMAGED
    is_whole = masked_crc32c(head[6:size]) == int.from_bytes(head[:4], "little")
    return Beginning.WHOLE if is_whole else Beginning.DAMAGED
