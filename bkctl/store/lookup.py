"""The newest values of single keys out of many SST files, without reading what lies between.

Levels are asked from the newest down, as RocksDB's own Get does: a key that one has is not looked
for in those below. Only the blocks that can hold the keys are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from bkctl.codec.strings import I64, ByteStrings, Mask
from bkctl.store.tables import KIND_BITS, Run, Stretch, Tables, records
from bkctl.titan import blob_index
from bkctl.titan.stored import StoredValues

_KIND_MASK = np.uint64((1 << KIND_BITS) - 1)
_VALUE = 1


class Lookup:
    """Finds values of one family by their keys."""

    def __init__(self, tables: Tables, family: str, lower: bytes, upper: bytes) -> None:
        """Of keys in `[lower, upper)`; raises as `Tables.runs`."""
        self._tables = tables
        runs = tables.runs(family, lower, upper)
        self._runs = sorted(runs, key=lambda run: run.files[0].level)
        self._largest = [[file.largest_key for file in run.files] for run in self._runs]

    def find(self, keys: ByteStrings, plain_bytes: int) -> StoredValues | None:
        """The values of `keys`, ascending ones of one width, or of the first of them, at least one.

        About `plain_bytes` are read, but a block at least of each run of files. None where one of
        the keys has no value that can be found this way. Raises UnreadableError, CorruptionError,
        StorageError.
        """
        listed, count = keys.tolist(), len(keys)
        newest = np.zeros(count, np.uint64)
        source = np.full(count, -1)
        row = np.zeros(count, np.int64)
        found: list[ByteStrings] = []
        room = max(1, plain_bytes // max(1, len(self._runs)))
        for run, largest in zip(self._runs, self._largest, strict=True):
            # Files of level 0 overlap: each may have a newer one.
            wanted = np.arange(count)
            if run.files[0].level:
                wanted = wanted[source[:count] < 0]
            if not len(wanted):
                continue
            stretches, count = self._read(run, largest, listed[:count], wanted, room)
            if not stretches:
                continue
            columns = records(stretches)
            if columns.keys.width != keys.width:
                return None
            wanted = wanted[wanted < count]
            rows, is_there = _rows(keys.take(wanted), columns.keys)
            rows, wanted = rows[is_there], wanted[is_there]
            is_newer = columns.trailers[rows] >= newest[wanted]
            rows, wanted = rows[is_newer], wanted[is_newer]
            newest[wanted] = columns.trailers[rows]
            source[wanted], row[wanted] = len(found), rows
            found.append(columns.values)
        source, row, kinds = source[:count], row[:count], newest[:count] & _KIND_MASK
        is_blob = kinds == blob_index.KIND
        if (source < 0).any() or not (is_blob | (kinds == _VALUE)).all():
            return None
        return StoredValues(_gathered(found, source, row), is_blob)

    def _read(
        self,
        run: Run,
        largest: Sequence[bytes],
        keys: Sequence[bytes],
        wanted: I64,
        plain_bytes: int,
    ) -> tuple[list[Stretch], int]:
        """The blocks of a run that can hold the wanted ones of `keys`.

        Returns them with the number of keys that they do for: all, or those that come before the
        first wanted one of whose block there is no more room.
        """
        stretches: list[Stretch] = []
        left, file_number = plain_bytes, 0
        numbers = iter(wanted.tolist())
        number = next(numbers, None)
        while number is not None:
            file_number = bisect_left(largest, keys[number], file_number)
            if file_number == len(largest):
                break
            file = run.files[file_number]
            if keys[number] < file.smallest_key:
                number = next(numbers, None)
                continue
            if left <= 0:
                return stretches, number
            table = self._tables.open(file)
            # The blocks to read, the first key of each, and their bytes as stored.
            blocks: list[int] = []
            firsts: list[int] = []
            stored = 0
            while number is not None and keys[number] <= file.largest_key:
                block = table.block_of(keys[number], blocks[-1] if blocks else 0)
                if block is not None and (not blocks or block != blocks[-1]):
                    if stored >= left:
                        break
                    blocks.append(block)
                    firsts.append(number)
                    stored += table.stored_size(block)
                number = next(numbers, None)
            if not blocks:
                continue
            content = table.read_single(blocks, left)
            stretches.append(Stretch(content, table.sequence))
            if len(content) < len(blocks):
                return stretches, firsts[len(content)]
            left -= sum(map(len, content))
        return stretches, len(keys)


def _rows(wanted: ByteStrings, keys: ByteStrings) -> tuple[I64, Mask]:
    """Where each wanted key first stands among `keys`, which ascend, and whether it does."""
    there, sought = keys.scalars(), wanted.scalars()
    rows: I64 = np.minimum(np.searchsorted(there, sought), len(there) - 1)
    return rows, there[rows] == sought


def _gathered(found: Sequence[ByteStrings], source: I64, row: I64) -> ByteStrings:
    """String `row[i]` of `found[source[i]]`, for all `i`."""
    if len(found) == 1:
        return found[0].take(row)
    parts = [np.flatnonzero(source == number) for number in range(len(found))]
    pieces = [strings.take(row[part]) for strings, part in zip(found, parts, strict=True)]
    joined = ByteStrings.joined([piece for piece in pieces if len(piece)])
    places = np.empty(len(row), np.int64)
    places[np.concatenate(parts)] = np.arange(len(row))
    return joined.take(places)
