"""What became of locks: a lock's primary key tells whether its transaction is committed.

As TiKV does before it resolves a lock, the records of the primary are searched for the lock's
start_ts. Found there, the transaction's end is final, whatever else the store lacks; not found,
it is undecided here: the primary is locked itself, or is kept by another store. Where the whole
of a dead cluster is at hand, nothing is undecided (`presume`).

A value committed at or below the snapshot's timestamp counts with that commit_ts, though no write
record says so yet. Source: TiKV's `get_txn_commit_record`, `check_txn_status`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from typing import Protocol

from bkctl.codec.strings import ByteStrings
from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import (
    MAX_TS,
    TS_SIZE,
    decode_data_key,
    decode_ts,
    encode_ts,
    versioned_key,
)
from bkctl.mvcc.lock import DELETE, PUT, DecidedLock, Lock, parse_lock
from bkctl.mvcc.presume import End, Home, presume_end
from bkctl.mvcc.write import ROLLBACK, parse_write
from bkctl.store.scan import Records, RecordScan

_BATCH = 256
_TAKEN = 4096
_REMEMBERED = 4096

Record = tuple[bytes, bytes]


class Decider(Protocol):
    """Who knows what became of locks."""

    def decide(self, raw_key: bytes, lock: Lock) -> DecidedLock | None:
        """What became of a lock's transaction; None where that is not known."""

    def why_undecided(self, lock: Lock) -> str:
        """Say why `decide` gave None."""


class DecidedLocks:
    """A Decider of what was decided before, elsewhere."""

    def __init__(self, decided: Iterable[DecidedLock]) -> None:
        self._known = {(each.primary, each.start_ts): each for each in decided}

    def decide(self, raw_key: bytes, lock: Lock) -> DecidedLock | None:
        """See Decider."""
        found = self._known.get((lock.primary, lock.start_ts))
        return None if found is None else replace(found, key=raw_key)

    def why_undecided(self, lock: Lock) -> str:
        """See Decider."""
        return "no store that is read holds the end of its transaction"


class LockDecider:
    """Decides locks by the stores that `open_stores` opens when a lock asks for them."""

    def __init__(
        self, open_stores: Callable[[], Iterable[Records]], home: Home | None = None
    ) -> None:
        """`home` is given where the cluster is dead: transactions without an end get one."""
        self._open_stores, self._home = open_stores, home
        self._known: dict[tuple[bytes, int], tuple[int | None, bool]] = {}

    def decide(self, raw_key: bytes, lock: Lock) -> DecidedLock | None:
        """What became of a lock's transaction; None where this store does not tell."""
        asked = lock.primary, lock.start_ts
        if asked not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found, is_presumed = self._find_end(*asked), False
            if found is None and self._home is not None:
                found, is_presumed = presume_end(*asked, self._home, self._find_end), True
            if found is None:
                return None
            self._known[asked] = found[0], is_presumed
        commit_ts, is_presumed = self._known[asked]
        return DecidedLock(raw_key, lock.primary, lock.start_ts, commit_ts, is_presumed)

    def _find_end(self, primary: bytes, start_ts: int) -> End | None:
        ends = (_find_end(database, primary, start_ts) for database in self._open_stores())
        return next((end for end in ends if end is not None), None)

    def why_undecided(self, lock: Lock) -> str:
        """Say why `decide` gave None."""
        key = versioned_key(lock.primary, 0)[:-TS_SIZE]
        for database in self._open_stores():
            value = database.get("lock", key)
            if value is not None and parse_lock(value).start_ts == lock.start_ts:
                return "its primary is locked too, so nothing is decided"
        return "this store holds no trace of its primary, which another store decides"


def _find_end(database: Records, primary: bytes, start_ts: int) -> End | None:
    """(commit_ts, or None if rolled back) of the transaction; None if it has no record here."""
    first = versioned_key(primary, MAX_TS)
    last = first[:-TS_SIZE] + encode_ts(start_ts)
    # A transaction's records lie at its start_ts or behind it in time, so before it in the store.
    scan = database.scan("write", first, last + b"\0", readahead=0)
    while records := scan.take(_BATCH):
        for key, value in records:
            try:
                record = parse_write(value)
            except CorruptionError as e:
                raise CorruptionError(f"{e} at key {key.hex().upper()}") from None
            commit_ts = decode_ts(key[-TS_SIZE:])
            if record.start_ts == start_ts:
                return (None if record.write_type == ROLLBACK else commit_ts,)
            if commit_ts == start_ts and record.has_overlapped_rollback:
                return (None,)
    return None


class WithDecided:
    """A scan of write records with those that decided locks stand for in their places."""

    def __init__(self, scan: RecordScan, decided: Iterable[Record]) -> None:
        """`decided` are records in key order, as `committed_records` gives them."""

        def stored() -> Iterator[Record]:
            while records := scan.take(_BATCH):
                yield from records

        self._records = heapq.merge(stored(), decided, key=itemgetter(0))

    def take(self) -> tuple[ByteStrings, ByteStrings] | None:
        """See ColumnScan.take."""
        records = list(islice(self._records, _TAKEN))
        if not records:
            return None
        keys, values = zip(*records, strict=True)
        return ByteStrings.of(keys), ByteStrings.of(values)


def committed_records(locks: Iterator[Record], end_ts: int, decider: Decider) -> Iterator[Record]:
    """The write records that locks (data key, lock) stand for, committed by `end_ts`, in key order.

    The locks must all have been decided before.
    """
    for data_key, value in locks:
        raw_key, lock = decode_data_key(data_key), parse_lock(value)
        if not lock.blocks(raw_key, end_ts):
            continue
        decided = decider.decide(raw_key, lock)
        if decided is not None and decided.commit_ts is not None and decided.commit_ts <= end_ts:
            yield data_key + encode_ts(decided.commit_ts), _write_record(lock)


def _write_record(lock: Lock) -> bytes:
    """The write record that a lock becomes with its commit."""
    if lock.lock_type not in (PUT, DELETE):
        raise CorruptionError(f"a lock of type {lock.lock_type} holds no value")
    record = bytes([lock.lock_type]) + encode_uvarint(lock.start_ts)
    if lock.short_value is None:
        return record
    return record + b"v" + bytes([len(lock.short_value)]) + lock.short_value
