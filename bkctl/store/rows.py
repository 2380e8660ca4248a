"""A second reader of SST files, record by record: where a store has values in blob files.

RocksDB has the last word on what a store holds, but plain RocksDB has none on blob indexes: its
iterators end at the first one with an error. So for stores with Titan this reader comes between
the columns (`merge`) and RocksDB. It shares no code with the columns but that which finds and reads
blocks: blocks are decoded by `sst.blocks`, runs merged by a heap.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import data_entries, kind_name
from bkctl.sst.damage import located
from bkctl.store.tables import KIND_BITS, Run, Tables, UnreadableError
from bkctl.titan import blob_index
from bkctl.titan.stored import StoredValues

_MAX_TRAILER = (1 << 64) - 1
_KIND_MASK = (1 << KIND_BITS) - 1
_DELETION, _VALUE, _SINGLE_DELETION = 0, 1, 7
_KINDS = {_DELETION, _VALUE, _SINGLE_DELETION, blob_index.KIND}
_READ_BYTES = 256 << 10
_TAKEN_RECORDS = 4096
_TAKEN_BYTES = 1 << 20

_Record = tuple[bytes, int, bytes]
"""(user key, inverted trailer, value): they ascend in the order of internal keys."""


class RowScan:
    """The records of `[lower, upper)` that a reader of the newest state sees, in key order."""

    def __init__(self, tables: Tables, family: str, lower: bytes, upper: bytes) -> None:
        """Raises UnreadableError where files cannot be read this way, CorruptionError."""
        runs = tables.runs(family, lower, upper)
        self._records = heapq.merge(*(_records(tables, run, lower, upper) for run in runs))
        self.last_key: bytes | None = None
        """All records up to this key were taken; None where none were."""
        self._seen: bytes | None = None

    def take(self) -> tuple[ByteStrings, StoredValues] | None:
        """The next keys and values, some thousand or about a MiB; None at the end.

        Raises UnreadableError for a record only RocksDB can read, CorruptionError, StorageError;
        `last_key` then tells how far the scan came.
        """
        keys: list[bytes] = []
        values: list[bytes] = []
        kinds: list[int] = []
        size = 0
        for key, inverted, value in self._records:
            if key == self._seen:
                continue
            self._seen = key
            kind = (_MAX_TRAILER - inverted) & _KIND_MASK
            if kind in (_VALUE, blob_index.KIND):
                keys.append(key)
                values.append(value)
                kinds.append(kind)
                size += len(value)
                if len(keys) >= _TAKEN_RECORDS or size >= _TAKEN_BYTES:
                    break
        if not keys:
            return None
        self.last_key = keys[-1]
        is_blob = np.array(kinds) == blob_index.KIND
        return ByteStrings.of(keys), StoredValues(ByteStrings.of(values), is_blob)


def _records(tables: Tables, run: Run, lower: bytes, upper: bytes) -> Iterator[_Record]:
    """A run's records in `[lower, upper)`, in the order of internal keys, which is checked."""
    last: tuple[bytes, int] | None = None
    for file in run.files:
        block, stop = tables.open(file).blocks(lower, upper)
        while block < stop:
            table = tables.open(file)  # a file that was not used for long is closed
            content = table.read(block, stop, _READ_BYTES)
            for number, plain in enumerate(content, block):
                with located(file.name, table.offset_of(number)):
                    records = _decoded(plain, table.sequence)
                    last = _check_order(records, last)
                yield from records[_place(records, lower) : _place(records, upper)]
            block += len(content)
        tables.open(file).forget()


def _place(records: list[_Record], key: bytes) -> int:
    return bisect_left(records, key, key=lambda record: record[0])


def _check_order(
    records: list[_Record], last: tuple[bytes, int] | None
) -> tuple[bytes, int] | None:
    """Check that records ascend, from `last` on; returns the last position."""
    for key, inverted, _ in records:
        if last is not None and (key, inverted) <= last:
            raise CorruptionError(f"keys are out of order at {key.hex().upper()}")
        last = key, inverted
    return last


def _decoded(block: bytes, sequence: int | None) -> list[_Record]:
    """A block's records; those of an ingested file all have the number `sequence`."""
    trailers: list[int] = []
    keys, values = data_entries(block, trailers)
    if sequence is not None:
        if any(trailer > _KIND_MASK for trailer in trailers):
            raise UnreadableError("an ingested file's records have sequence numbers")
        trailers = [sequence << KIND_BITS | trailer for trailer in trailers]
    unknown = [t & _KIND_MASK for t in trailers if t & _KIND_MASK not in _KINDS]
    if unknown:
        raise UnreadableError(f"a record is {kind_name(unknown[0])}")
    inverted = (_MAX_TRAILER - trailer for trailer in trailers)
    return list(zip(keys, inverted, values, strict=True))
