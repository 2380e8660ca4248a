"""Proves an SST file of a backup whole, or tells all that is wrong with it.

Checksums alone do not cover every byte (the footer before format 6 has none) nor what the blocks
say of each other. So besides every block's checksum and every record's form this checks that

- the blocks lie side by side from the file's first byte to the footer, none missing, none twice;
- keys ascend strictly, and each block's keys fit the index's separators;
- the properties' counts and sizes are those of the records read;
- the footer is in the one form that RocksDB writes, of the format that the properties show.

A single flipped bit is found wherever it is, but for one: between format 4 and 5 in the footer of
a file whose writer did not note its format among the properties. The two differ in filters only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import lt

from bkctl.errors import CorruptionError
from bkctl.sst.blocks import TRAILER_SIZE
from bkctl.sst.damage import Damage, DamageList
from bkctl.sst.format import FOOTER_SIZE, BlockHandle
from bkctl.sst.index import BINARY_SEARCH, TWO_LEVEL, IndexEntry, IndexShape
from bkctl.sst.properties import TableProperties
from bkctl.sst.reader import RANGE_DELETIONS, SstReader
from bkctl.sst.source import RandomReader

EntriesCallback = Callable[[int, list[bytes], list[bytes]], None]

# A stretch of the file: where it starts, and the offset behind it.
Span = tuple[int, int]

_USER_KEY_FORMAT = 3
_DELTA_FORMAT = 4
_PARTITIONED_FILTER = "partitionedfilter."


def verify_sst(
    reader: RandomReader, name: str, on_entries: EntriesCallback | None = None
) -> list[Damage]:
    """Read all of an SST file and return what is wrong with it; an empty list if nothing is.

    `on_entries` is given (offset, user keys, values) of each sound data block, in key order; a
    CorruptionError it raises counts as damage of that block. A damaged block is skipped. Raises
    only what `reader` and `on_entries` raise otherwise. Files with range deletions, deletions or
    merge operands, as live stores have them, count as damaged: a backup has none.
    """
    damages = DamageList(name)
    try:
        sst = SstReader(reader, name)
    except CorruptionError as e:
        damages.add_error(max(0, reader.size - FOOTER_SIZE), e)
        return damages.all()
    _Verification(sst, damages, on_entries).run()
    return damages.all()


class _Verification:
    """One pass over one file."""

    def __init__(
        self, sst: SstReader, damages: DamageList, on_entries: EntriesCallback | None
    ) -> None:
        self._sst = sst
        self._damages = damages
        self._on_entries = on_entries
        # Whether all blocks' places are known, and whether all records were read: without the
        # one, gaps mean nothing, without the other, sums.
        self._places_known = True
        self._records_read = True
        # The places of blocks that are not data, and how far the data blocks reach (None: unknown).
        self._others: set[Span] = set()
        self._data_end: int | None = 0
        self._last_key: bytes | None = None
        self._separator: bytes | None = None
        self._blocks = self._entries = self._key_bytes = self._value_bytes = 0

    def run(self) -> None:
        footer = self._sst.footer
        for flaw in footer.flaws:
            self._damages.add(footer.offset, flaw)
        properties = self._read_properties()
        if properties is None:
            version = footer.format_version
            shape = IndexShape(BINARY_SEARCH, version >= _USER_KEY_FORMAT, version >= _DELTA_FORMAT)
        else:
            shape = properties.index
            self._check_format(properties)
        self._check_meta_blocks(shape)
        self._check_index(shape)
        if self._places_known:
            self._check_tiling()
        if properties is not None and self._places_known and self._records_read:
            self._check_sums(properties)

    @contextmanager
    def _collecting(self, offset: int) -> Iterator[None]:
        """Note damage in a block that says where others are."""
        try:
            yield
        except CorruptionError as e:
            self._damages.add_error(offset, e)
            self._places_known = False

    def _read_properties(self) -> TableProperties | None:
        try:
            return self._sst.properties
        except CorruptionError as e:
            self._damages.add_error(self._sst.footer.metaindex.offset, e)
            return None

    def _check_format(self, properties: TableProperties) -> None:
        footer = self._sst.footer
        shape = properties.index
        if not properties.is_bytewise:
            self._damages.add(
                footer.offset, f"keys are in the order of {properties.comparator}, not of bytes"
            )
        noted = properties.format_version
        version = footer.format_version
        fits = shape.user_keys == (version >= _USER_KEY_FORMAT) and (
            version >= _DELTA_FORMAT or not shape.delta_values
        )
        if noted not in (0, version) or not fits:
            self._damages.add(
                footer.offset, f"the footer says format {version}, the properties contradict it"
            )

    def _check_meta_blocks(self, shape: IndexShape) -> None:
        """Verify the checksums of all blocks that the metaindex names, and note their places."""
        sst = self._sst
        self._others.add(_span(sst.footer.metaindex))
        if sst.footer.index is not None:
            self._others.add(_span(sst.footer.index))
        with self._collecting(sst.footer.metaindex.offset):
            for name, handle in sst.meta_blocks.items():
                self._others.add(_span(handle))
                self._check_checksum(handle)
                if name == RANGE_DELETIONS:
                    self._damages.add(handle.offset, "the file holds range deletions")
                    self._records_read = False
                if name.startswith(_PARTITIONED_FILTER):
                    with self._collecting(handle.offset):
                        partitions = sst.filter_partitions(handle, shape)
                        for partition in self._joined(partitions):
                            self._check_checksum(partition)

    def _joined(self, partitions: Iterator[BlockHandle]) -> Iterator[BlockHandle]:
        """Pass on blocks that must lie side by side, and note the place they take together."""
        start = end = -1
        for partition in partitions:
            if start < 0:
                start = end = partition.offset
            if partition.offset != end:
                raise CorruptionError(f"an index skips from {end} to {partition.offset}")
            end = partition.end
            yield partition
        if start >= 0:
            self._others.add((start, end))

    def _check_checksum(self, handle: BlockHandle) -> None:
        try:
            self._sst.check_block(handle)
        except CorruptionError as e:
            self._damages.add_error(handle.offset, e)

    def _check_index(self, shape: IndexShape) -> None:
        with self._collecting(self._sst.footer.metaindex.offset):
            for partition in self._joined(self._sst.index_partitions(shape)):
                with self._collecting(partition.offset):
                    for entry in self._sst.partition_entries(partition, shape):
                        self._check_data_block(partition, entry)
                if not self._places_known and shape.type == TWO_LEVEL:
                    # What this partition would have led to is missing, which is told already.
                    self._data_end = self._separator = None

    def _check_data_block(self, partition: BlockHandle, entry: IndexEntry) -> None:
        handle = entry.handle
        if self._data_end is not None and handle.offset != self._data_end:
            self._damages.add(
                partition.offset,
                f"the index skips from {self._data_end} to a block at {handle.offset}",
            )
        self._data_end = handle.end
        self._blocks += 1
        before, self._separator = self._separator, entry.separator
        try:
            keys, values = self._sst.read_entries(handle)
        except CorruptionError as e:
            self._damages.add_error(handle.offset, e)
            self._records_read = False
            return
        if not keys:
            self._damages.add(handle.offset, "the block holds no records")
            return
        self._check_order(entry, before, keys)
        self._entries += len(keys)
        self._key_bytes += sum(map(len, keys)) + TRAILER_SIZE * len(keys)
        self._value_bytes += sum(map(len, values))
        if self._on_entries is not None:
            try:
                self._on_entries(handle.offset, keys, values)
            except CorruptionError as e:
                self._damages.add_error(handle.offset, e)

    def _check_order(self, entry: IndexEntry, before: bytes | None, keys: list[bytes]) -> None:
        """Check a block's keys against each other, the block before and the index."""
        first, last = keys[0], keys[-1]
        ascending = all(map(lt, keys, keys[1:]))
        if not ascending or (self._last_key is not None and first <= self._last_key):
            self._damages.add(entry.handle.offset, "keys do not ascend")
        self._last_key = last
        if last > entry.separator or (before is not None and first <= before):
            self._damages.add(entry.handle.offset, "the block's keys are not where the index says")
        if entry.first_key not in (None, first):
            self._damages.add(entry.handle.offset, "the index names another first key")

    def _check_tiling(self) -> None:
        """Check that the other blocks lie side by side from the data's end to the footer."""
        reached = self._data_end or 0
        for start, end in sorted(self._others):
            if start > reached:
                self._damages.add(reached, f"{start - reached} bytes belong to no block")
            elif start < reached:
                self._damages.add(start, "two blocks overlap")
            reached = max(reached, end)
        if reached != self._sst.footer.offset:
            rest = self._sst.footer.offset - reached
            self._damages.add(reached, f"{rest} bytes belong to no block")

    def _check_sums(self, properties: TableProperties) -> None:
        sums = (
            ("rocksdb.num.entries", properties.num_entries, self._entries),
            ("rocksdb.num.data.blocks", properties.num_data_blocks, self._blocks),
            ("rocksdb.raw.key.size", properties.raw_key_size, self._key_bytes),
            ("rocksdb.raw.value.size", properties.raw_value_size, self._value_bytes),
            ("rocksdb.data.size", properties.data_size, self._data_end),
        )
        for name, noted, found in sums:
            if name in properties.user and noted != found:
                self._damages.add(
                    self._sst.footer.offset, f"the property {name} is {noted}, the file has {found}"
                )


def _span(handle: BlockHandle) -> Span:
    return handle.offset, handle.end
