"""The SST files of a pinned view, opened for reading block by block, and kept open a while.

Which files make up a family comes from the view's MANIFEST; what cannot be read this way (range
deletions, merge operands, keys in another order than that of their bytes) is refused with
UnreadableError, and is RocksDB's to read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bkctl.errors import BkctlError
from bkctl.sst.columns import Columns, decode_blocks, row_counts
from bkctl.sst.format import BlockHandle
from bkctl.sst.properties import EXTERNAL_VERSION
from bkctl.sst.reader import RANGE_DELETIONS, FileReader, SstReader
from bkctl.store.manifest import LiveFile, ManifestState, read_manifest
from bkctl.store.view_files import ViewFiles, reader_blocks

# What is kept of an open file is its index: about 100 bytes a block.
_OPEN_TABLES = 64
_OPEN_BLOCKS = 1 << 17
_GLOBAL_SEQNO_VERSION = 2
# Reading past so many bytes that nobody wants costs less than another read.
_NEAR = 32 << 10
KIND_BITS = 8
_KIND_MASK = 0xFF


class UnreadableError(BkctlError):
    """Something that only RocksDB can read, or that it has to judge."""


class Table:
    """One open SST file: its blocks by key.

    `sequence` is the sequence number of all its records, None where each has its own.
    """

    def __init__(self, reader: FileReader, file: LiveFile) -> None:
        """Open what `reader`, the table's from here on, reads.

        Raises UnreadableError for what this module does not read, CorruptionError.
        """
        self._reader = reader
        try:
            sst = SstReader(reader, file.name, ingested=True)
            _check_readable(sst)
            self._sst = sst
            self._separators, self._offsets, self._sizes = _index(sst)
        except BaseException:
            self._reader.close()
            raise
        version = int.from_bytes(sst.properties.user.get(EXTERNAL_VERSION, b""), "little")
        # Of an ingested file the MANIFEST knows the one sequence number of all its records.
        self.sequence = file.largest_sequence if version >= _GLOBAL_SEQNO_VERSION else None

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __len__(self) -> int:
        return len(self._separators)

    def forget(self) -> None:
        """Keep nothing but the index: what was read ahead is not wanted for now."""
        self._sst.forget()

    def blocks(self, lower: bytes, upper: bytes) -> tuple[int, int]:
        """The numbers of the blocks that can hold keys of `[lower, upper)`, and others beside."""
        first = bisect_left(self._separators, lower)
        # No key of a block is above its separator, nor below the one of the block before.
        stop = bisect_left(self._separators, upper, first) + 1
        return first, min(stop, len(self))

    def block_of(self, key: bytes, first: int) -> int | None:
        """The number of the one block from `first` on that can hold `key`'s newest record."""
        block = bisect_left(self._separators, key, first)
        return block if block < len(self) else None

    def offset_of(self, block: int) -> int:
        """Where the block lies in the file."""
        return self._offsets[block]

    def stored_size(self, block: int) -> int:
        """The block's size as stored, in bytes."""
        return self._sizes[block]

    def read(self, first: int, stop: int, plain_bytes: int) -> list[bytes]:
        """The plain blocks `[first, stop)`, or fewer, one at least, where they reach `plain_bytes`.

        Raises CorruptionError, StorageError.
        """
        # Blocks are hardly ever larger as stored than plain.
        within = bisect_right(self._offsets, self._offsets[first] + plain_bytes, first + 1, stop)
        offsets, sizes = self._offsets[first:within], self._sizes[first:within]
        handles = list(map(BlockHandle, offsets, sizes))
        return self._sst.read_blocks(handles, plain_bytes)

    def read_single(self, numbers: Sequence[int], plain_bytes: int) -> list[bytes]:
        """As `read`, of single blocks, by their ascending numbers."""
        blocks: list[bytes] = []
        for near in self._near(numbers):
            more = self._sst.read_blocks(near, plain_bytes)
            blocks += more
            plain_bytes -= sum(map(len, more))
            if plain_bytes <= 0:
                break
        return blocks

    def _near(self, numbers: Sequence[int]) -> Iterator[list[BlockHandle]]:
        """Blocks by groups of those that lie close enough together to be read in one go."""
        group: list[BlockHandle] = []
        for number in numbers:
            handle = BlockHandle(self._offsets[number], self._sizes[number])
            if group and handle.offset - group[-1].end > _NEAR:
                yield group
                group = []
            group.append(handle)
        yield group


@dataclass(frozen=True, slots=True)
class Stretch:
    """Plain blocks of one file, and what `Table.sequence` says of it."""

    blocks: list[bytes]
    sequence: int | None


def records(stretches: Sequence[Stretch]) -> Columns:
    """The records of stretches that follow each other in key order.

    Raises UnreadableError, CorruptionError.
    """
    blocks = [block for stretch in stretches for block in stretch.blocks]
    columns = decode_blocks(blocks)
    if any(stretch.sequence is not None for stretch in stretches):
        counts = [len(stretch.blocks) for stretch in stretches]
        ingested = np.repeat([stretch.sequence is not None for stretch in stretches], counts)
        sequences = np.array([stretch.sequence or 0 for stretch in stretches], np.uint64)
        rows = row_counts(columns, blocks)
        if (columns.trailers[np.repeat(ingested, rows)] > _KIND_MASK).any():
            raise UnreadableError("an ingested file's records have sequence numbers")
        trailers = np.repeat(sequences << np.uint64(KIND_BITS), counts)
        columns.trailers |= np.repeat(trailers, rows)
    return columns


def _index(sst: SstReader) -> tuple[list[bytes], array[int], array[int]]:
    """(separators, offsets, sizes) of all data blocks."""
    separators: list[bytes] = []
    offsets, sizes = array("Q"), array("Q")
    shape = sst.properties.index
    for partition in sst.index_partitions(shape):
        more = sst.partition_columns(partition, shape)
        separators += more[0]
        offsets.extend(more[1])
        sizes.extend(more[2])
    return separators, offsets, sizes


def _check_readable(sst: SstReader) -> None:
    properties = sst.properties
    if not properties.is_bytewise:
        raise UnreadableError(f"{sst.name}: keys are in the order of {properties.comparator}")
    if properties.num_range_deletions or RANGE_DELETIONS in sst.meta_blocks:
        raise UnreadableError(f"{sst.name}: holds range deletions")
    if properties.num_merge_operands:
        raise UnreadableError(f"{sst.name}: holds merge operands")


@dataclass(frozen=True, slots=True)
class Run:
    """Files of one family whose keys do not overlap, in key order."""

    files: tuple[LiveFile, ...]


class Tables:
    """The files of a view, by family; open ones are kept, the last used ones longest."""

    def __init__(self, db_dir: Path, files: ViewFiles | None = None) -> None:
        """Nothing is read before the first `runs`; `files` opens files, if not as `db_dir` says."""
        self.db_dir = db_dir
        self._view_files = files
        self._state: ManifestState | None = None
        self._files: dict[str, list[LiveFile]] | None = None
        self._open: OrderedDict[int, Table] = OrderedDict()
        # Those of the open files' indexes.
        self._blocks = 0

    def close(self) -> None:
        """Close all files."""
        for table in self._open.values():
            table.close()
        self._open.clear()
        self._blocks = 0

    def state(self) -> ManifestState:
        """What the MANIFEST adds up to; raises CorruptionError, OSError."""
        if self._state is None:
            current = (self.db_dir / "CURRENT").read_text().strip()
            with self.view().open(current) as log:
                self._state = read_manifest(reader_blocks(log), self.db_dir / current)
        return self._state

    def files(self) -> dict[str, list[LiveFile]]:
        """All files by family, as the MANIFEST has them; raises CorruptionError, OSError."""
        if self._files is None:
            state = self.state()
            self._files = {name: [] for name in state.families}
            for file in state.live_files:
                self._files[file.family].append(file)
        return self._files

    def runs(self, family: str, lower: bytes, upper: bytes) -> list[Run]:
        """The family's files with keys in `[lower, upper)`: levels, and each file of level 0."""
        levels: dict[int, list[LiveFile]] = {}
        runs = []
        for file in self.files().get(family, []):
            if file.smallest_key >= upper or file.largest_key < lower:
                continue
            if file.level == 0:
                runs.append(Run((file,)))
            else:
                levels.setdefault(file.level, []).append(file)
        for level in levels.values():
            level.sort(key=lambda file: (file.smallest_key, file.largest_key))
            runs.append(Run(tuple(level)))
        return runs

    def open(self, file: LiveFile) -> Table:
        """The file, opened or still open; a later call may close it again."""
        table = self._open.get(file.number)
        if table is None:
            table = Table(self.view().open(file.name), file)
            self._open[file.number] = table
            self._blocks += len(table)
            while len(self._open) > 1 and (
                len(self._open) > _OPEN_TABLES or self._blocks > _OPEN_BLOCKS
            ):
                oldest = self._open.popitem(last=False)[1]
                self._blocks -= len(oldest)
                oldest.close()
        self._open.move_to_end(file.number)
        return table

    def view(self) -> ViewFiles:
        """Opens the files of the view."""
        if self._view_files is None:
            self._view_files = ViewFiles(self.db_dir)
        return self._view_files
