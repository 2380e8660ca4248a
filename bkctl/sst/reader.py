"""Reads an SST file block by block, in Python alone, independent of the library that wrote it.

Nothing is believed before it is checked: every length against the file and the limits, every
block against its checksum. All damage is a CorruptionError that names the file and the offset of
the block it was found in. `format`, `index`, `blocks` and `properties` show the format itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from bkctl.codec.crc32c import masked_crc32c
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import data_entries, meta_entries
from bkctl.sst.checksums import (
    ChecksumType,
    context_modifier,
    stored_checksum,
)
from bkctl.sst.columns import index_columns, user_keys
from bkctl.sst.compression import Decompressor
from bkctl.sst.damage import located
from bkctl.sst.format import (
    BLOCK_TRAILER_SIZE,
    FOOTER_SIZE,
    MAX_BLOCK_SIZE,
    MAX_META_BLOCK_SIZE,
    BlockHandle,
    Footer,
    decode_handle,
    parse_footer,
)
from bkctl.sst.index import TWO_LEVEL, WITH_FIRST_KEY, IndexEntry, IndexShape, index_entries
from bkctl.sst.properties import TableProperties, parse_properties, without_global_seqno
from bkctl.sst.source import CachedReader, FileReader, RandomReader

__all__ = ["FileReader", "RandomReader", "SstReader", "TableProperties"]

PROPERTIES = "rocksdb.properties"
INDEX = "rocksdb.index"
RANGE_DELETIONS = "rocksdb.range_del"
DICTIONARY = "rocksdb.compression_dict"
# Of so few entries (some twenty) one after the other is read faster than all in step.
_SMALL_INDEX = 1 << 10


class SstReader:
    """One SST file, opened through `reader`; `name` is what errors call it.

    Opening reads the last 64 KiB, which mostly hold all but the data. Not for two threads at a
    time. `reader` stays the caller's to close.
    """

    def __init__(self, reader: RandomReader, name: str, *, ingested: bool = False) -> None:
        """Read and check the footer; raises CorruptionError if the file is no sound SST file.

        `ingested` accepts a global sequence number that a store wrote into the file when it took
        it in, which the checksum does not cover.
        """
        self.name = name
        self._ingested = ingested
        size = reader.size
        tail_size = min(size, FOOTER_SIZE)
        with located(name, size - tail_size):
            self._bytes = CachedReader(reader)
            self.footer: Footer = parse_footer(self._bytes.read(size - tail_size, tail_size), size)
        self._meta_codec = Decompressor(self.footer.format_version)

    @cached_property
    def meta_blocks(self) -> Mapping[str, BlockHandle]:
        """The blocks the metaindex names: properties, filters, and what else there is."""
        with located(self.name, self.footer.metaindex.offset):
            block = self._plain_meta(self.footer.metaindex)
            return {
                name.decode("utf-8", "backslashreplace"): decode_handle(block[start:end], 0)[0]
                for name, start, end in meta_entries(block)
            }

    @cached_property
    def properties(self) -> TableProperties:
        """The file's properties; from the tail, so mostly without a further read."""
        handle = self._required(PROPERTIES)
        with located(self.name, handle.offset):
            block = self._plain_meta(handle, changed=self._ingested)
            return parse_properties(block)

    @property
    def index_handle(self) -> BlockHandle:
        """Where the index (of two levels, the upper) is."""
        return self.footer.index or self._required(INDEX)

    def index_partitions(self, shape: IndexShape) -> Iterator[BlockHandle]:
        """Yield the index blocks that lead to data: one, or the lower level of two."""
        for entry in self.index_tops(shape):
            yield entry.handle

    def index_tops(self, shape: IndexShape) -> Iterator[IndexEntry]:
        """The same, each with the separator that the upper of two levels has; else it is empty."""
        return self._partitions(shape, self.index_handle)

    def partition_entries(self, handle: BlockHandle, shape: IndexShape) -> Iterator[IndexEntry]:
        """Yield the data blocks that the index block at `handle` leads to, as yet unread."""
        with located(self.name, handle.offset):
            for entry in index_entries(self._plain_meta(handle), shape):
                self.footer.check_handle(entry.handle)
                yield entry

    def partition_columns(
        self, handle: BlockHandle, shape: IndexShape
    ) -> tuple[list[bytes], Sequence[int], Sequence[int]]:
        """(separators, offsets, sizes) of the data blocks that an index block leads to."""
        with located(self.name, handle.offset):
            block = self._plain_meta(handle)
            columns = None
            if shape.type != WITH_FIRST_KEY and len(block) > _SMALL_INDEX:
                columns = index_columns(block, delta_values=shape.delta_values)
        if columns is None:
            entries = list(self.partition_entries(handle, shape))
            return (
                [entry.separator for entry in entries],
                [entry.handle.offset for entry in entries],
                [entry.handle.size for entry in entries],
            )
        keys, offsets, sizes = columns
        with located(self.name, handle.offset):
            self.footer.check_handle(BlockHandle(int(offsets[-1]), int(sizes[-1])))
            if not shape.user_keys:
                keys = user_keys(keys)
        return keys.tolist(), offsets.tolist(), sizes.tolist()

    def filter_partitions(self, handle: BlockHandle, shape: IndexShape) -> Iterator[BlockHandle]:
        """Yield the blocks of a partitioned filter, whose own index is at `handle`."""
        two_level = IndexShape(TWO_LEVEL, shape.user_keys, shape.delta_values)
        for entry in self._partitions(two_level, handle):
            yield entry.handle

    def blocks(self) -> Iterator[BlockHandle]:
        """Yield the data blocks in the order of the file, which is that of their keys."""
        for entry in self._data_index():
            yield entry.handle

    def read_block(self, handle: BlockHandle) -> bytes:
        """Return a data block, its checksum verified, decompressed."""
        with located(self.name, handle.offset):
            return self._plain_data(handle)

    def read_blocks(self, handles: Sequence[BlockHandle], plain_bytes: int) -> list[bytes]:
        """Return data blocks that follow each other in the file, as `read_block` does.

        The file is read up to the last one's end in few reads. The list ends early, but never
        before its first block, once it holds `plain_bytes`.
        """
        ahead_to = handles[-1].end
        decompress, read = self._data_codec.decompress, self._bytes.read
        footer = self.footer
        is_plain_crc = footer.checksum_type is ChecksumType.CRC32C and footer.base_context == 0
        is_usual = is_plain_crc and ahead_to <= footer.offset
        plain: list[bytes] = []
        try:
            for handle in handles:
                content = None
                if is_usual and handle.size <= MAX_BLOCK_SIZE:
                    raw = read(handle.offset, handle.size + BLOCK_TRAILER_SIZE, ahead_to)
                    whole = raw[:-4]
                    if masked_crc32c(whole) == int.from_bytes(raw[-4:], "little"):
                        content = memoryview(whole)
                if content is None:  # another kind of checksum, or whatever is wrong
                    content = self._stored(handle, ahead_to)
                plain.append(decompress(content[-1], content[:-1], MAX_BLOCK_SIZE))
                plain_bytes -= len(plain[-1])
                if plain_bytes <= 0:
                    break
        except CorruptionError:
            with located(self.name, handle.offset):
                raise
        return plain

    def forget(self) -> None:
        """Give up what was read ahead; what is read next is fetched anew."""
        self._bytes.forget()

    def check_block(self, handle: BlockHandle) -> None:
        """Verify a block's checksum only, whatever kind of block it is."""
        with located(self.name, handle.offset):
            self._stored(handle)

    def read_entries(
        self, handle: BlockHandle, trailers: list[int] | None = None
    ) -> tuple[list[bytes], list[bytes]]:
        """Return (user keys, values) of one data block; `trailers` as for `block_entries`."""
        with located(self.name, handle.offset):
            return data_entries(self._plain_data(handle, ahead=True), trailers)

    def block_entries(
        self, trailers: list[int] | None = None
    ) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
        """Yield (offset, user keys, values) of each data block.

        A record that is no plain value (a deletion, a merge operand, ...) is a CorruptionError,
        as is a range deletion anywhere in the file: a backup's files have none. With `trailers`,
        all records are taken, and the list holds `sequence number << 8 | kind` of each record of
        the block just yielded.
        """
        if trailers is None:
            self.check_values_only()
        for entry in self._data_index():
            if trailers is not None:
                trailers.clear()
            keys, values = self.read_entries(entry.handle, trailers)
            yield entry.handle.offset, keys, values

    def entries(self, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (user key, value) in key order, from the first key not below `start` on.

        Blocks before `start` are not read. Records that are no plain values are CorruptionErrors.
        """
        self.check_values_only()
        for entry in self._data_index(start):
            keys, values = self.read_entries(entry.handle)
            first = 0 if start is None else bisect_left(keys, start)
            if first:
                yield from zip(keys[first:], values[first:], strict=True)
            else:
                yield from zip(keys, values, strict=True)
                start = None

    def check_values_only(self) -> None:
        """Raise CorruptionError if the file holds range deletions or keys not in byte order."""
        deletions = self.meta_blocks.get(RANGE_DELETIONS)
        if deletions is not None:
            with located(self.name, deletions.offset):
                raise CorruptionError("the file holds range deletions; a backup's files have none")
        if not self.properties.is_bytewise:
            with located(self.name, self._required(PROPERTIES).offset):
                raise CorruptionError(
                    f"the keys are in the order of {self.properties.comparator}, not of their bytes"
                )

    def _data_index(self, start: bytes | None = None) -> Iterator[IndexEntry]:
        """Yield the index entries of the data blocks, without those that end before `start`."""
        shape = self.properties.index
        lowest = 0
        for partition in self._partitions(shape, self.index_handle):
            if start is not None and partition.separator < start and shape.type == TWO_LEVEL:
                continue
            for entry in self.partition_entries(partition.handle, shape):
                if entry.handle.offset < lowest:
                    with located(self.name, partition.handle.offset):
                        raise CorruptionError("the index leads to the same blocks twice")
                lowest = entry.handle.end
                if start is None or entry.separator >= start:
                    yield entry

    def _partitions(self, shape: IndexShape, handle: BlockHandle) -> Iterator[IndexEntry]:
        if shape.type != TWO_LEVEL:
            yield IndexEntry(b"", handle)
            return
        with located(self.name, handle.offset):
            for entry in index_entries(self._plain_meta(handle), shape, top=True):
                self.footer.check_handle(entry.handle)
                yield entry

    def _required(self, name: str) -> BlockHandle:
        handle = self.meta_blocks.get(name)
        if handle is None:
            with located(self.name, self.footer.metaindex.offset):
                raise CorruptionError(f"the metaindex does not name {name}")
        return handle

    @cached_property
    def _data_codec(self) -> Decompressor:
        """Undoes the compression of data blocks, which alone may need the file's dictionary."""
        try:
            handle = self.meta_blocks.get(DICTIONARY)
        except CorruptionError:
            # A file whose metaindex is damaged can still show most of its records: only those
            # compressed with a dictionary are lost, and say so.
            handle = None
        if handle is None:
            return self._meta_codec
        with located(self.name, handle.offset):
            return Decompressor(self.footer.format_version, self._plain_meta(handle))

    def _plain_data(self, handle: BlockHandle, *, ahead: bool = False) -> bytes:
        content = self._stored(handle, self.footer.offset if ahead else 0)
        return self._data_codec.decompress(content[-1], content[:-1], MAX_BLOCK_SIZE)

    def _plain_meta(self, handle: BlockHandle, *, changed: bool = False) -> bytes:
        """Return a block that is not data; `changed`: a store may have set its sequence number."""
        if handle.size > MAX_META_BLOCK_SIZE:
            raise CorruptionError(
                f"a block of {handle.size} bytes that is not data is over the limit of "
                f"{MAX_META_BLOCK_SIZE}"
            )
        content = self._stored(handle, changed=changed)
        return self._meta_codec.decompress(content[-1], content[:-1], MAX_META_BLOCK_SIZE)

    def _stored(
        self, handle: BlockHandle, ahead_to: int = 0, *, changed: bool = False
    ) -> memoryview:
        """Return a block as stored, its compression type behind it, its checksum verified."""
        footer = self.footer
        footer.check_handle(handle)
        if handle.size > MAX_BLOCK_SIZE:
            raise CorruptionError(
                f"a block of {handle.size} bytes is over the limit of {MAX_BLOCK_SIZE}"
            )
        raw = self._bytes.read(handle.offset, handle.size + BLOCK_TRAILER_SIZE, ahead_to)
        # One copy for all uses: the checksum's functions take whole bytes only.
        content = raw[:-4]
        stored = int.from_bytes(raw[-4:], "little")
        computed = self._checksum(content, handle.offset)
        if changed and computed != stored:
            plain = without_global_seqno(content[:-1])
            computed = self._checksum(plain + content[-1:], handle.offset)
        if computed != stored:
            raise CorruptionError(
                f"the block's checksum is {stored:08x}, its content gives {computed:08x}"
            )
        return memoryview(content)

    def _checksum(self, content: bytes, offset: int) -> int:
        footer = self.footer
        plain = stored_checksum(footer.checksum_type, content)
        return (plain + context_modifier(footer.base_context, offset)) & 0xFFFFFFFF
