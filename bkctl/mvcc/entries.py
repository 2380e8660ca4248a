"""What a scan gives: batches of entries as they go into backup files.

An entry is a write record and, for a long value, the record of `default` that it refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.batch import I64, U8, Records, as_matrix
from bkctl.mvcc.keys import TS_SIZE

BATCH_LIMIT = 1024


@dataclass(slots=True)
class Segment:
    """Entries picked out of one read: keys and records as stored, and their columns.

    `rows` points into `records`; `short_length` is -1 for a put whose value is in `default` (then
    `default_keys` has its key there), and deletes count with an empty value.
    """

    keys: Sequence[bytes]
    values: Sequence[bytes]
    key_matrix: U8 | None
    records: Records
    rows: I64
    short_length: I64
    default_keys: Sequence[bytes]
    long_before: I64

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, stop: int) -> Segment:
        """Entries `[start, stop)`."""
        long_start, long_stop = int(self.long_before[start]), int(self.long_before[stop])
        return Segment(
            self.keys[start:stop],
            self.values[start:stop],
            None if self.key_matrix is None else self.key_matrix[start:stop],
            self.records,
            self.rows[start:stop],
            self.short_length[start:stop],
            self.default_keys[long_start:long_stop],
            self.long_before[start : stop + 1] - long_start,
        )

    def account(self, accounting: Accounting) -> None:
        """Count all entries but those with a value in `default`."""
        shorts = self.short_length >= 0
        if self.key_matrix is None:
            self._account_singly(accounting, np.flatnonzero(shorts))
            return
        lengths = self.short_length if shorts.all() else self.short_length[shorts]
        distinct = np.unique(lengths)
        if len(distinct) * 16 > len(lengths) + 16:
            self._account_singly(accounting, np.flatnonzero(shorts))
            return
        encoded = self.key_matrix[:, 1:-TS_SIZE]
        for length in distinct.tolist():
            index = np.flatnonzero(self.short_length == length)
            keys = encoded if len(index) == len(self) else encoded[index]
            accounting.add_rows(keys, self.records.payload(self.rows[index], length))

    def _account_singly(self, accounting: Accounting, index: I64) -> None:
        keys = self.keys
        starts = self.records.short_starts[self.rows[index]].tolist()
        lengths = self.short_length[index].tolist()
        buffer = self.records.buffer.tobytes()
        for i, start, length in zip(index.tolist(), starts, lengths, strict=True):
            accounting.add_one(keys[i][1:-TS_SIZE], buffer[start : start + length])


@dataclass(slots=True)
class EntryBatch:
    """Up to `BATCH_LIMIT` entries in key order, counted; values of `default` follow in chunks."""

    segments: list[Segment] = field(default_factory=list)
    size: int = 0

    @property
    def first_key(self) -> bytes:
        """The data key (with timestamp) of the first entry."""
        return self.segments[0].keys[0]

    def add(self, segment: Segment) -> None:
        """Append entries that follow those it holds."""
        self.segments.append(segment)
        self.size += len(segment)


def account_long(
    accounting: Accounting, default_keys: Sequence[bytes], values: Sequence[bytes]
) -> None:
    """Count entries whose values are in `default`."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (key, value) in enumerate(zip(default_keys, values, strict=True)):
        groups.setdefault((len(key), len(value)), []).append(i)
    for (key_width, value_width), index in groups.items():
        if len(index) < 4:
            for i in index:
                accounting.add_one(default_keys[i][1:-TS_SIZE], values[i])
            continue
        whole = len(index) == len(values)
        keys = default_keys if whole else [default_keys[i] for i in index]
        rows = values if whole else [values[i] for i in index]
        accounting.add_rows(as_matrix(keys, key_width)[:, 1:-TS_SIZE], as_matrix(rows, value_width))
