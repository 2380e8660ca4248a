"""Write records: what a version of a key is.

    type (1): P put, D delete, L lock, R rollback | start_ts varint | optional fields, in order:
    v len(1) bytes   short value            R          overlapped rollback
    F u64 BE         GC fence               l u64 BE, varint   last change, versions to it
    S varint         transaction source     any other byte ends the parse (a newer TiKV's field)

Source: TiKV's txn_types `Write`; vectors in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

PUT, DELETE, LOCK, ROLLBACK = b"PDLR"
WRITE_TYPES = frozenset(b"PDLR")


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """A parsed record; `write_type` is one of PUT, DELETE, LOCK, ROLLBACK.

    `short_value_at` is where the short value begins in the record, -1 where there is none.
    """

    write_type: int
    start_ts: int
    short_value: bytes | None = None
    short_value_at: int = -1
    has_overlapped_rollback: bool = False
    gc_fence: int | None = None

    def collected_at(self, end_ts: int) -> bool:
        """Whether a GC fence says that this version is gone for a reader at `end_ts`."""
        return bool(self.gc_fence) and (self.gc_fence or 0) <= end_ts


def parse_write(value: bytes) -> WriteRecord:
    """Parse a record; raises CorruptionError for an unknown type or a field cut short."""
    if not value:
        raise CorruptionError("an empty write record")
    if value[0] not in WRITE_TYPES:
        raise CorruptionError(f"write record of unknown type {value[:1]!r}")
    start_ts, pos = decode_uvarint(value, 1)
    short_value: bytes | None = None
    short_at, overlapped, gc_fence = -1, False, None
    while pos < len(value):
        flag, pos = value[pos], pos + 1
        if flag == 0x76:  # v
            length = value[pos] if pos < len(value) else 0
            short_value, short_at = _bytes(value, pos + 1, length), pos + 1
            pos = short_at + length
        elif flag == 0x52:  # R
            overlapped = True
        elif flag == 0x46:  # F
            gc_fence, pos = int.from_bytes(_bytes(value, pos, 8), "big"), pos + 8
        elif flag == 0x6C:  # l
            _bytes(value, pos, 8)
            _, pos = decode_uvarint(value, pos + 8)
        elif flag == 0x53:  # S
            _, pos = decode_uvarint(value, pos)
        else:
            break
    return WriteRecord(value[0], start_ts, short_value, short_at, overlapped, gc_fence)


def _bytes(value: bytes, pos: int, length: int) -> bytes:
    if pos + length > len(value):
        raise CorruptionError("write record is cut short")
    return value[pos : pos + length]
