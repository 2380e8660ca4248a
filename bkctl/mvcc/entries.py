"""What a scan gives: batches of entries as they go into backup files.

An entry is a write record and, for a long value, the record of `default` that it refers to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bkctl.codec.strings import I64, ByteStrings, Mask
from bkctl.mvcc.accounting import Accounting, raw_key_lengths
from bkctl.mvcc.keys import TS_SIZE

BATCH_LIMIT = 1024


@dataclass(slots=True)
class Segment:
    """Entries picked out of one read: keys and records as stored, and what they stand for.

    `short_values` are the values of all entries but those in `is_long`, whose values are in
    `default` under `default_keys`; deletes have an empty value.
    """

    keys: ByteStrings
    values: ByteStrings
    short_values: ByteStrings
    is_long: Mask
    default_keys: ByteStrings

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, stop: int) -> Segment:
        """Entries `[start, stop)`."""
        long_start = int(np.count_nonzero(self.is_long[:start]))
        long_stop = long_start + int(np.count_nonzero(self.is_long[start:stop]))
        return Segment(
            self.keys.slice(start, stop),
            self.values.slice(start, stop),
            self.short_values.slice(start, stop),
            self.is_long[start:stop],
            self.default_keys.slice(long_start, long_stop),
        )

    def plain_sizes(self) -> I64:
        """What each entry adds to `total_bytes`, but for values in `default`."""
        sizes: I64 = raw_key_lengths(self._encoded_keys()) + self.short_values.lengths
        return sizes

    def account(self, accounting: Accounting) -> None:
        """Count all entries but those with a value in `default`."""
        keys, values = self._encoded_keys(), self.short_values
        if len(self.default_keys):
            keys, values = keys.take(~self.is_long), values.take(~self.is_long)
        accounting.add_entries(keys, values)

    def _encoded_keys(self) -> ByteStrings:
        return self.keys.trimmed(1, TS_SIZE)


@dataclass(slots=True)
class EntryBatch:
    """Entries in key order; values of `default` follow in chunks."""

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


def account_long(accounting: Accounting, default_keys: ByteStrings, values: ByteStrings) -> None:
    """Count entries whose values are in `default`."""
    accounting.add_entries(default_keys.trimmed(1, TS_SIZE), values)
