"""Lock records, and which of them block a backup.

    type (1): P put, D delete, L lock, S pessimistic; H shared (nothing else is read of it)
    zigzag length, primary key | start_ts varint | [ttl varint | optional fields, in any order]:
    v len(1) bytes  short value        f u64 BE  for_update_ts     t u64 BE  txn_size
    c u64 BE        min_commit_ts      a varint n, n (zigzag length, key)   async secondaries
    r varint n, n u64 BE  rollback_ts  l u64 BE, varint  last change      s varint  txn source
    F               rolled-back check  g u64 BE  generation

Source: TiKV's txn_types `Lock`, `check_ts_conflict`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.codec.varint import decode_uvarint, decode_zigzag
from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import MAX_TS

PUT, DELETE, LOCK, PESSIMISTIC, SHARED = b"PDLSH"
_TYPES = frozenset(b"PDLSH")


@dataclass(frozen=True, slots=True)
class Lock:
    """A parsed lock; `primary` is a raw user key, `ttl` in milliseconds.

    `secondaries` are all other keys of the transaction, in the primary's lock of an async commit.
    """

    lock_type: int
    primary: bytes
    start_ts: int
    ttl: int
    short_value: bytes | None = None
    min_commit_ts: int = 0
    use_async_commit: bool = False
    secondaries: tuple[bytes, ...] = ()

    def blocks(self, raw_key: bytes, end_ts: int) -> bool:
        """Whether a snapshot at `end_ts` cannot know what this lock's key holds."""
        if self.start_ts > end_ts or self.lock_type in (LOCK, PESSIMISTIC, SHARED):
            return False
        if self.min_commit_ts > end_ts:
            return False
        # A reader of the latest version waits for secondaries only.
        return not (end_ts == MAX_TS and raw_key == self.primary and not self.use_async_commit)


@dataclass(frozen=True, slots=True)
class DecidedLock:
    """A lock whose transaction's end is known: raw user keys, TSOs.

    `commit_ts` is None where the transaction was rolled back. One that is presumed has no record:
    its cluster is dead, and nobody can end it otherwise (`bkctl.mvcc.presume`).
    """

    key: bytes
    primary: bytes
    start_ts: int
    commit_ts: int | None
    is_presumed: bool = False


def parse_lock(value: bytes) -> Lock:
    """Parse a lock; raises CorruptionError for an unknown type or a field cut short."""
    if not value or value[0] not in _TYPES:
        raise CorruptionError(f"lock of unknown type {value[:1]!r}")
    if value[0] == SHARED:
        return Lock(SHARED, b"", 0, 0)
    length, pos = decode_zigzag(value, 1)
    primary, pos = _bytes(value, pos, length), pos + length
    start_ts, pos = decode_uvarint(value, pos)
    # The oldest of TiKV's locks end here.
    ttl, pos = decode_uvarint(value, pos) if pos < len(value) else (0, pos)
    fields = _Fields()
    while pos < len(value):
        next_pos = fields.read(value, value[pos], pos + 1)
        if next_pos is None:
            break
        pos = next_pos
    return Lock(
        value[0],
        primary,
        start_ts,
        ttl,
        fields.short_value,
        fields.min_commit_ts,
        fields.use_async_commit,
        tuple(fields.secondaries),
    )


class _Fields:
    """The optional fields that matter; the others are stepped over."""

    def __init__(self) -> None:
        self.short_value: bytes | None = None
        self.min_commit_ts = 0
        self.use_async_commit = False
        self.secondaries: list[bytes] = []

    def read(self, value: bytes, flag: int, pos: int) -> int | None:
        """Read one field; where the next begins, or None for a newer TiKV's field."""
        if flag == 0x76:  # v
            length = value[pos] if pos < len(value) else 0
            self.short_value = _bytes(value, pos + 1, length)
            return pos + 1 + length
        if flag in b"ftcg":
            number = int.from_bytes(_bytes(value, pos, 8), "big")
            if flag == 0x63:  # c
                self.min_commit_ts = number
            return pos + 8
        if flag in b"ar":
            count, pos = decode_uvarint(value, pos)
            self.use_async_commit |= flag == 0x61
            for _ in range(count):
                length = 8
                if flag == 0x61:
                    length, pos = decode_zigzag(value, pos)
                found = _bytes(value, pos, length)
                if flag == 0x61:
                    self.secondaries.append(found)
                pos += length
            return pos
        if flag == 0x6C:  # l
            _bytes(value, pos, 8)
            return decode_uvarint(value, pos + 8)[1]
        if flag == 0x73:  # s
            return decode_uvarint(value, pos)[1]
        return pos if flag == 0x46 else None


def _bytes(value: bytes, pos: int, length: int) -> bytes:
    if length < 0 or pos + length > len(value):
        raise CorruptionError("lock is cut short")
    return value[pos : pos + length]
