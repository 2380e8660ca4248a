"""The entry scanner: what a snapshot at end_ts shows of a key range, in batches of 1,024 entries.

For each user key, versions newest first: those after end_ts are skipped; a GC fence at or below
end_ts, a Put or a Delete decides, and older versions no longer matter; Lock and Rollback records
are passed over. A Put is emitted if it is newer than start_ts, a Delete too when incremental.

What is read is looked at as columns (`bkctl.mvcc.batch`), some thousand versions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bkctl.codec.strings import I64, ByteStrings, Mask
from bkctl.errors import CorruptionError, KeyIsLockedError
from bkctl.mvcc.batch import DamagedRecordError, Keys, Records, check_types, with_timestamps
from bkctl.mvcc.decide import Decider, WithDecided, committed_records
from bkctl.mvcc.entries import BATCH_LIMIT, EntryBatch, Segment
from bkctl.mvcc.keys import TS_SIZE, decode_data_key
from bkctl.mvcc.lock import DecidedLock, Lock, parse_lock
from bkctl.mvcc.long_values import LongValues
from bkctl.mvcc.write import DELETE, PUT
from bkctl.store.column_scan import ColumnScan
from bkctl.store.database import Database

_LOCKS_AT_A_TIME = 1024


class EntryScanner:
    """Scans `[lower, upper)` (data keys) of a transactional store at `end_ts`, since `start_ts`."""

    def __init__(
        self, database: Database, lower: bytes, upper: bytes, start_ts: int, end_ts: int
    ) -> None:
        self._database = database
        self._lower, self._upper = lower, upper
        self._start_ts, self._end_ts = start_ts, end_ts
        self._writes: ColumnScan | WithDecided = database.scan_columns("write", lower, upper)
        self.long_values = LongValues(database, upper)
        self._pending: list[Segment] = []
        self._pending_size = 0
        self._user_key = b""
        self._decided = False
        self.versions = 0

    def check_locks(self, decider: Decider | None = None) -> list[DecidedLock]:
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
            writes = self._database.scan("write", self._lower, self._upper)
            self._writes = WithDecided(writes, records)
        return decided

    def _locks(self) -> Iterator[tuple[bytes, bytes]]:
        locks = self._database.scan("lock", self._lower, self._upper)
        while records := locks.take(_LOCKS_AT_A_TIME):
            yield from records

    def scan_entries(self, room: int = 0) -> EntryBatch | None:
        """The next batch, or None at the end; raises CorruptionError, never ends early.

        A batch has 1,024 entries (the last one fewer), or so many times 1,024 that all but the
        last 1,024 of them count for less than `room` bytes.
        """
        while self._pending_size < BATCH_LIMIT:
            read = self._writes.take()
            if read is None:
                break
            self.versions += len(read[0])
            segment = self._pick(*read)
            if segment is not None:
                self._pending.append(segment)
                self._pending_size += len(segment)
        return self._next_batch(self._batch_size(room)) if self._pending else None

    def _batch_size(self, room: int) -> int:
        whole = self._pending_size // BATCH_LIMIT
        if whole < 2 or any(len(segment.default_keys) for segment in self._pending):
            return BATCH_LIMIT
        sizes = np.concatenate([segment.plain_sizes() for segment in self._pending])
        totals = np.cumsum(sizes)[BATCH_LIMIT - 1 :: BATCH_LIMIT][: whole - 1]
        return BATCH_LIMIT * (1 + int(np.count_nonzero(totals < room)))

    def _next_batch(self, size: int) -> EntryBatch:
        batch = EntryBatch()
        while self._pending and batch.size < size:
            segment = self._pending.pop(0)
            left = size - batch.size
            if len(segment) > left:
                self._pending.insert(0, segment.slice(left, len(segment)))
                segment = segment.slice(0, left)
            batch.add(segment)
        self._pending_size -= batch.size
        return batch

    def _pick(self, keys: ByteStrings, values: ByteStrings) -> Segment | None:
        """Choose what the snapshot shows out of one read."""
        read = Keys.read(keys, self._user_key)
        try:
            types = check_types(values)
        except DamagedRecordError as e:
            raise _at_key(e, keys, e.row) from None
        visible = read.commit_ts <= np.uint64(self._end_ts)
        decides = (types == PUT) | (types == DELETE)
        decides &= visible
        wanted = visible & (read.commit_ts > np.uint64(self._start_ts))
        undecided = self._undecided(read.is_new, decides)
        candidates = np.flatnonzero(wanted & undecided)
        try:
            records = Records.read(values.take(candidates))
        except DamagedRecordError as e:
            raise _at_key(e, keys, int(candidates[e.row])) from None
        is_emitted = records.types == PUT
        if self._start_ts > 0:
            is_emitted |= records.types == DELETE
        fenced = (records.fences != 0) & (records.fences <= np.uint64(self._end_ts))
        if fenced.any():
            decides[candidates[fenced]] = True
            undecided = self._undecided(read.is_new, decides)
            is_emitted &= ~fenced
        rows = np.flatnonzero(is_emitted & (decides & undecided)[candidates])
        self._go_on(keys, read.is_new, decides)
        return self._segment(keys, values, candidates, records, rows) if len(rows) else None

    def _undecided(self, is_new: Mask, decides: Mask) -> Mask:
        """Which versions have none before them, of their key, that decides it."""
        before: I64 = np.cumsum(decides) - decides
        before_key = np.maximum.accumulate(np.where(is_new, before, 0))
        undecided: Mask = before == before_key
        if self._decided:
            undecided &= np.logical_or.accumulate(is_new)
        return undecided

    def _go_on(self, keys: ByteStrings, is_new: Mask, decides: Mask) -> None:
        """Remember the last key of a read, and whether it is decided."""
        self._user_key = keys[len(keys) - 1][:-TS_SIZE]
        starts = np.flatnonzero(is_new)
        if len(starts):
            self._decided = bool(decides[starts[-1] :].any())
        else:
            self._decided = self._decided or bool(decides.any())

    @staticmethod
    def _segment(
        keys: ByteStrings, values: ByteStrings, candidates: I64, records: Records, rows: I64
    ) -> Segment:
        index = candidates[rows]
        if len(index) < len(keys):
            keys, values = keys.take(index), values.take(index)
        lengths = records.short_lengths[rows]
        lengths[records.types[rows] == DELETE] = 0
        is_long = lengths < 0
        long_rows = np.flatnonzero(is_long)
        default_keys = keys.take(long_rows)
        if len(long_rows):
            default_keys = with_timestamps(default_keys, records.start_ts(rows[long_rows]))
            lengths[long_rows] = 0
        short_values = ByteStrings(records.data, records.short_starts[rows], lengths)
        return Segment(keys, values, short_values, is_long, default_keys)


def _at_key(error: DamagedRecordError, keys: ByteStrings, row: int) -> CorruptionError:
    return CorruptionError(f"{error} at key {keys[row].hex().upper()}")


def _is_locked(raw_key: bytes, lock: Lock, decider: Decider | None) -> KeyIsLockedError:
    why = "" if decider is None else f"; {decider.why_undecided(lock)}"
    return KeyIsLockedError(
        f"key is locked: key {raw_key.hex().upper()}, primary {lock.primary.hex().upper()}, "
        f"start_ts {lock.start_ts}, ttl {lock.ttl} ms{why}; back up at an --end-ts below "
        "start_ts, or let the lock be resolved"
    )
