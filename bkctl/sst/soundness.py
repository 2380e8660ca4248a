"""Proves that RocksDB can be given an SST file: what it takes on trust is true.

RocksDB checks the checksums of blocks, and little of what they say: in a file that was made by
someone who means harm, or damaged before its checksums were made, a wrong length ends the process.
So what it would follow without a look is looked at before, in this order:

- the footer, and the blocks that describe others: each whole, in a place of its own, and of a form
  that RocksDB writes;
- the index: its separators ascend, and its blocks lie one behind the other;
- every data block: its entries fit it and its restart points, and its keys ascend and are where
  the index says.

It is not asked whether the records make sense: that is for `verify` and the rooms above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import lt

import numpy as np

from bkctl.errors import CorruptionError
from bkctl.sst.blocks import KIND_VALUE, TRAILER_SIZE, kind_name
from bkctl.sst.columns import Columns, decode_blocks, row_counts
from bkctl.sst.damage import located
from bkctl.sst.format import BlockHandle
from bkctl.sst.index import TWO_LEVEL, IndexEntry, IndexShape
from bkctl.sst.reader import INDEX, PROPERTIES, SstReader
from bkctl.sst.source import RandomReader

# As much as stays in a processor's cache while it is looked at.
_PLAIN_BYTES = 1 << 20
_BLOCKS_AT_A_TIME = 256
_KIND_MASK = np.uint64(0xFF)
_MAX_TRAILER = (1 << 64) - 1
# A user key and the trailer less than the largest one: records in this order are in RocksDB's.
_Order = tuple[bytes, int]
_BEFORE_ALL: _Order = (b"", -1)
_USER_KEY_FORMAT = 3
_DELTA_FORMAT = 4
_PARTITIONED_FILTER = "partitionedfilter."
_FULL_FILTER = "fullfilter."
_FILTERS = (_FULL_FILTER, _PARTITIONED_FILTER, "filter.")
# What a file may hold besides, as far as RocksDB has ever written it.
_OTHERS = frozenset(
    {
        INDEX,
        PROPERTIES,
        "rocksdb.compression_dict",
        "rocksdb.hashindex.prefixes",
        "rocksdb.hashindex.metadata",
        "rocksdb.range_del",
        "rocksdb.stats",
    }
)


def check_sound(
    reader: RandomReader, name: str, advance: Callable[[int], None] = lambda size: None
) -> None:
    """Raise CorruptionError, which names the file and the place, for what RocksDB would trip over.

    The file is to hold plain values only, each key once, as those of a backup do. `advance` is
    told how many more bytes have been read, and may raise to stop. Raises StorageError where the
    file cannot be read.
    """
    sst = SstReader(reader, name)
    sst.check_values_only()
    _Contents(sst, _end_of_data(sst), advance).check()


def check_ends(reader: RandomReader, name: str) -> None:
    """The same, but of the data only the first and the last block: what taking a file in reads."""
    sst = SstReader(reader, name)
    sst.check_values_only()
    _Contents(sst, _end_of_data(sst), lambda size: None).check_ends()


def check_outline(reader: RandomReader, name: str) -> None:
    """The same of all but the data: of any store's file, whatever records it holds."""
    sst = SstReader(reader, name, ingested=True)
    for _ in _entries(sst, sst.properties.index, _end_of_data(sst)):
        pass


def _end_of_data(sst: SstReader) -> int:
    """Where the first block lies that is no data; all such blocks are looked at, but the index."""
    shape = sst.properties.index
    with located(sst.name, sst.footer.offset):
        _check_shape(sst, shape)
        if sst.properties.num_entries and not sst.properties.raw_key_size:
            raise CorruptionError("the properties tell of records without keys")
    places = [_place(sst.footer.metaindex, "metaindex")]
    if sst.footer.index is not None:
        places.append(_place(sst.footer.index, INDEX))
    for meta_name, handle in sst.meta_blocks.items():
        places += _meta_places(sst, shape, meta_name, handle)
    if shape.type == TWO_LEVEL:
        places += [_place(handle, INDEX) for handle in sst.index_partitions(shape)]
    _check_apart(sst, places)
    return min(place.start for place in places)


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where a block lies, its trailer included."""

    start: int
    end: int
    what: str


def _place(handle: BlockHandle, what: str) -> _Place:
    return _Place(handle.offset, handle.end, what)


def _check_shape(sst: SstReader, shape: IndexShape) -> None:
    version, noted = sst.footer.format_version, sst.properties.format_version
    if noted not in (0, version):
        raise CorruptionError(f"the footer says format {version}, the properties {noted}")
    if shape.delta_values and version < _DELTA_FORMAT:
        raise CorruptionError(f"an index with delta values in a file of format {version}")
    if shape.user_keys and version < _USER_KEY_FORMAT:
        raise CorruptionError(f"an index of user keys in a file of format {version}")


def _meta_places(
    sst: SstReader, shape: IndexShape, meta_name: str, handle: BlockHandle
) -> Iterator[_Place]:
    """The places of a block that the metaindex names, and of those it leads to; all verified."""
    with located(sst.name, sst.footer.metaindex.offset):
        if meta_name not in _OTHERS and not meta_name.startswith(_FILTERS):
            raise CorruptionError(
                f"the metaindex names a block {meta_name[:80]!a}, of no known kind"
            )
    sst.check_block(handle)
    yield _place(handle, meta_name)
    if meta_name.startswith(_PARTITIONED_FILTER):
        for partition in sst.filter_partitions(handle, shape):
            sst.check_block(partition)
            yield _place(partition, meta_name)


def _check_apart(sst: SstReader, places: Sequence[_Place]) -> None:
    """No two blocks may overlap; the index of format 6 is named twice, and is one."""
    ordered = sorted(set(places))
    for before, after in pairwise(ordered):
        if after.start < before.end:
            with located(sst.name, after.start):
                raise CorruptionError(
                    f"the blocks {before.what[:40]} and {after.what[:40]} overlap"
                )


def _entries(sst: SstReader, shape: IndexShape, end_of_data: int) -> Iterator[IndexEntry]:
    """All entries of the index, in order; CorruptionError where they contradict each other."""
    before = _BEFORE_ALL
    reached = 0
    for top in sst.index_tops(shape):
        for entry in sst.partition_entries(top.handle, shape):
            with located(sst.name, top.handle.offset):
                if (order := _order(entry)) < before:
                    raise CorruptionError("the index's separators do not ascend")
                if entry.handle.offset < reached:
                    raise CorruptionError("the index leads to the same blocks twice")
                if entry.handle.end > end_of_data:
                    raise CorruptionError("the index leads to a block that is no data")
                if shape.type == TWO_LEVEL and order > _order(top):
                    raise CorruptionError("the index's two levels contradict each other")
            before, reached = order, entry.handle.end
            yield entry
        if shape.type == TWO_LEVEL:
            before = _order(top)


def _order(entry: IndexEntry) -> _Order:
    """Where the separator stands among records: a user key stands behind all records of it."""
    return entry.separator, _MAX_TRAILER if entry.trailer is None else _MAX_TRAILER - entry.trailer


class _Contents:
    """The data blocks of one file, looked at many at a time."""

    def __init__(self, sst: SstReader, end_of_data: int, advance: Callable[[int], None]) -> None:
        self._sst, self._end_of_data, self._advance = sst, end_of_data, advance
        self._last_key: bytes | None = None
        self._separator = _BEFORE_ALL
        self._records = self._key_bytes = self._value_bytes = 0

    def check(self) -> None:
        """Look at all of them, and at what the properties make of them."""
        group: list[IndexEntry] = []
        for entry in _entries(self._sst, self._sst.properties.index, self._end_of_data):
            group.append(entry)
            if len(group) == _BLOCKS_AT_A_TIME:
                self._check_group(group)
                group = []
        self._check_group(group)
        properties = self._sst.properties
        for name, noted, found in (
            ("rocksdb.num.entries", properties.num_entries, self._records),
            ("rocksdb.raw.key.size", properties.raw_key_size, self._key_bytes),
            ("rocksdb.raw.value.size", properties.raw_value_size, self._value_bytes),
        ):
            if noted != found:
                with located(self._sst.name, self._sst.footer.offset):
                    raise CorruptionError(f"the property {name} is {noted}, the file has {found}")

    def check_ends(self) -> None:
        """Look at the first and the last of them, and at what leads to all."""
        last: IndexEntry | None = None
        for entry in _entries(self._sst, self._sst.properties.index, self._end_of_data):
            if last is None:
                self._check_slowly(entry)
            last = entry
        if last is not None:
            self._last_key, self._separator = None, _BEFORE_ALL
            self._check_slowly(last)

    def _check_group(self, entries: list[IndexEntry]) -> None:
        while entries:
            handles = [entry.handle for entry in entries]
            blocks = self._sst.read_blocks(handles, _PLAIN_BYTES)
            count = len(blocks)
            self._check_blocks(entries[:count], blocks)
            self._advance(handles[count - 1].end - handles[0].offset)
            entries = entries[count:]

    def _check_blocks(self, entries: Sequence[IndexEntry], blocks: Sequence[bytes]) -> None:
        try:
            columns = decode_blocks(blocks)
        except CorruptionError:
            # Perhaps only unusual (keys of many KiB): block by block it can be told, and where.
            for entry in entries:
                self._check_slowly(entry)
            return
        if not _is_usual(columns):
            for entry in entries:
                self._check_slowly(entry)
            return
        self._count(
            len(columns), int(columns.keys.lengths.sum()), int(columns.values.lengths.sum())
        )
        stop = 0
        for entry, rows in zip(entries, row_counts(columns, blocks).tolist(), strict=True):
            start, stop = stop, stop + rows
            self._check_ends(
                entry,
                (columns.keys[start], _MAX_TRAILER - int(columns.trailers[start])),
                (columns.keys[stop - 1], _MAX_TRAILER - int(columns.trailers[stop - 1])),
            )

    def _check_slowly(self, entry: IndexEntry) -> None:
        trailers: list[int] = []
        keys, values = self._sst.read_entries(entry.handle, trailers)
        with located(self._sst.name, entry.handle.offset):
            if not keys:
                raise CorruptionError("the block holds no records")
            if strange := {trailer & 0xFF for trailer in trailers} - {KIND_VALUE}:
                raise CorruptionError(f"a record is {kind_name(min(strange))}, not a value")
            if not all(map(lt, keys, keys[1:])):
                raise CorruptionError("keys do not ascend")
        self._count(len(keys), sum(map(len, keys)), sum(map(len, values)))
        first, last = _MAX_TRAILER - trailers[0], _MAX_TRAILER - trailers[-1]
        self._check_ends(entry, (keys[0], first), (keys[-1], last))

    def _count(self, records: int, key_bytes: int, value_bytes: int) -> None:
        self._records += records
        self._key_bytes += key_bytes + TRAILER_SIZE * records
        self._value_bytes += value_bytes

    def _check_ends(self, entry: IndexEntry, first: _Order, last: _Order) -> None:
        """A block's first and last key, against the block before it and the index."""
        separator = _order(entry)
        with located(self._sst.name, entry.handle.offset):
            if self._last_key is not None and first[0] <= self._last_key:
                raise CorruptionError("keys do not ascend")
            if last > separator or first <= self._separator:
                raise CorruptionError("the block's keys are not where the index says")
            if entry.first_key not in (None, first[0]):
                raise CorruptionError("the index names another first key")
        self._last_key, self._separator = last[0], separator


def _is_usual(columns: Columns) -> bool:
    """Whether all records are values, and their keys ascend."""
    kinds = columns.trailers & _KIND_MASK
    if (kinds != KIND_VALUE).any():
        return False
    return columns.is_distinct or bool(columns.keys.ascends().all())
