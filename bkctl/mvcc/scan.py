"""The entry scanner: what a snapshot at end_ts shows of a key range, in batches of 1,024 entries.

For each user key, versions newest first: those after end_ts are skipped; a GC fence at or below
end_ts, a Put or a Delete decides, and older versions no longer matter; Lock and Rollback records
are passed over. A Put is emitted if it is newer than start_ts, a Delete too when incremental.

Reads are taken 1,024 at a time and looked at as columns (`bkctl.mvcc.batch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bkctl.errors import CorruptionError, KeyIsLockedError
from bkctl.mvcc.batch import I64, U8, Keys, Mask, Records, select
from bkctl.mvcc.decide import LockDecider, WithDecided, committed_records
from bkctl.mvcc.entries import BATCH_LIMIT, EntryBatch, Segment
from bkctl.mvcc.keys import MAX_TS, TS_SIZE, decode_data_key
from bkctl.mvcc.lock import DecidedLock, Lock, parse_lock
from bkctl.mvcc.long_values import LongValues
from bkctl.mvcc.write import DELETE, PUT, WRITE_TYPES, parse_write
from bkctl.store.database import Database, Scan

READ_LIMIT = 1024


class EntryScanner:
    """Scans `[lower, upper)` (data keys) of a transactional store at `end_ts`, since `start_ts`."""

    def __init__(
        self, database: Database, lower: bytes, upper: bytes, start_ts: int, end_ts: int
    ) -> None:
        self._database = database
        self._lower, self._upper = lower, upper
        self._start_ts, self._end_ts = start_ts, end_ts
        self._writes: Scan | WithDecided = self._scan_writes()
        self.long_values = LongValues(database, upper)
        self._pending: list[Segment] = []
        self._pending_size = 0
        self._user_key = b""
        self._decided = False
        self.versions = 0

    def check_locks(self, decider: LockDecider | None = None) -> list[DecidedLock]:
        """Raise KeyIsLockedError for the first lock in the range that blocks end_ts.

        With a `decider`, locks whose transaction's end it knows do not block: they are returned,
        and the values that they committed by end_ts are scanned with the rest.
        """
        decided: list[DecidedLock] = []
        for data_key, value in self._locks():
            raw_key, lock = decode_data_key(data_key), parse_lock(value)
            if not lock.blocks(raw_key, self._end_ts):
                continue
            found = None if decider is None else decider.decide(raw_key, lock)
            if found is None:
                raise _is_locked(raw_key, lock, decider)
            decided.append(found)
        if decider is not None and decided:
            records = committed_records(self._locks(), self._end_ts, decider)
            self._writes = WithDecided(self._scan_writes(), records, READ_LIMIT)
        return decided

    def _scan_writes(self) -> Scan:
        return self._database.scan("write", self._lower, self._upper)

    def _locks(self) -> Iterator[tuple[bytes, bytes]]:
        locks = self._database.scan("lock", self._lower, self._upper)
        while records := locks.take(READ_LIMIT):
            yield from records

    def scan_entries(self) -> EntryBatch | None:
        """The next batch, or None at the end; raises CorruptionError, never ends early."""
        while self._pending_size < BATCH_LIMIT:
            records = self._writes.take(READ_LIMIT)
            if not records:
                break
            self.versions += len(records)
            keys, values = zip(*records, strict=True)
            segment = self._pick(keys, values)
            if segment is not None:
                self._pending.append(segment)
                self._pending_size += len(segment)
        return self._next_batch() if self._pending else None

    def _next_batch(self) -> EntryBatch:
        batch = EntryBatch()
        while self._pending and batch.size < BATCH_LIMIT:
            segment = self._pending.pop(0)
            room = BATCH_LIMIT - batch.size
            if len(segment) > room:
                self._pending.insert(0, segment.slice(room, len(segment)))
                segment = segment.slice(0, room)
            batch.add(segment)
        self._pending_size -= batch.size
        return batch

    def _pick(self, keys: Sequence[bytes], values: Sequence[bytes]) -> Segment | None:
        """Choose what the snapshot shows out of one read."""
        read = Keys.read(keys, self._user_key)
        records = Records.read(values)
        deciding, fenced = self._deciding(read, records, values)
        chosen = self._first_per_key(read.is_new, deciding)
        self._user_key = keys[-1][:-TS_SIZE]
        types = records.types[chosen]
        emitted = types == PUT
        if self._start_ts > 0:
            emitted |= types == DELETE
            emitted &= read.commit_ts[chosen] > np.uint64(self._start_ts)
        if fenced:
            emitted &= ~np.isin(chosen, fenced)
        rows = chosen[emitted]
        return self._segment(read, records, values, rows) if len(rows) else None

    def _deciding(
        self, read: Keys, records: Records, values: Sequence[bytes]
    ) -> tuple[Mask, list[int]]:
        """Which versions end the search for their key, and which of them are fenced off."""
        types = records.types
        deciding: Mask = (types == PUT) | (types == DELETE)
        if not deciding.all():
            self._check_types(read, types)
        visible = read.commit_ts <= np.uint64(self._end_ts)
        deciding &= visible
        fenced = []
        for i in np.flatnonzero(records.is_odd & visible).tolist():
            try:
                record = parse_write(values[i])
            except CorruptionError as e:
                raise CorruptionError(f"{e} at key {read.keys[i].hex().upper()}") from None
            if record.collected_at(self._end_ts):
                deciding[i] = True
                fenced.append(i)
            if record.short_value is not None:
                records.short_starts[i] = records.varint_starts[i] - 1 + record.short_value_at
                records.short_length[i] = len(record.short_value)
        return deciding, fenced

    @staticmethod
    def _check_types(read: Keys, types: U8) -> None:
        known = np.isin(types, list(WRITE_TYPES))
        if not known.all():
            bad = int(np.argmin(known))
            raise CorruptionError(
                f"write record of unknown type {int(types[bad]):#04x} at key "
                f"{read.keys[bad].hex().upper()}"
            )

    def _first_per_key(self, is_new: Mask, deciding: Mask) -> I64:
        """Positions of the first deciding version of each user key not decided before."""
        group = np.cumsum(is_new)
        positions = np.flatnonzero(deciding)
        groups = group[positions]
        first = np.empty(len(positions), np.bool_)
        if len(positions):
            first[0] = groups[0] != 0 or not self._decided
            first[1:] = groups[1:] != groups[:-1]
            self._decided = bool(groups[-1] == group[-1]) or (
                bool(group[-1] == 0) and self._decided
            )
        elif group[-1] != 0:
            self._decided = False
        return positions[first]

    def _segment(self, read: Keys, records: Records, values: Sequence[bytes], rows: I64) -> Segment:
        keys, matrix = read.keys, read.matrix
        if len(rows) != len(keys):
            mask = np.zeros(len(keys), np.bool_)
            mask[rows] = True
            keys, values = select(keys, mask), select(values, mask)
            matrix = None if matrix is None else matrix[rows]
        short_length = records.short_length[rows]
        short_length[records.types[rows] == DELETE] = 0
        is_long = short_length < 0
        long_before = np.concatenate(([0], np.cumsum(is_long)))
        default_keys: list[bytes] = []
        if long_before[-1]:
            start_ts = records.start_ts(rows[is_long])
            suffixes = (start_ts ^ np.uint64(MAX_TS)).astype(">u8").tobytes()
            long_keys = keys if is_long.all() else select(keys, is_long)
            default_keys = [
                key[:-TS_SIZE] + suffixes[i * TS_SIZE : (i + 1) * TS_SIZE]
                for i, key in enumerate(long_keys)
            ]
        return Segment(keys, values, matrix, records, rows, short_length, default_keys, long_before)


def _is_locked(raw_key: bytes, lock: Lock, decider: LockDecider | None) -> KeyIsLockedError:
    why = "" if decider is None else f"; {decider.why_undecided(lock)}"
    return KeyIsLockedError(
        f"key is locked: key {raw_key.hex().upper()}, primary {lock.primary.hex().upper()}, "
        f"start_ts {lock.start_ts}, ttl {lock.ttl} ms{why}; back up at an --end-ts below "
        "start_ts, or let the lock be resolved"
    )
