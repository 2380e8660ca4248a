"""Reads the entries of a batch when they are asked for, and keeps those read last at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from bkctl.errors import CorruptionError
from bkctl.raft.batch import (
    CHECKSUM_SIZE,
    HEADER,
    Header,
    Item,
    Span,
    check_sums,
    plain_entries,
    read_header,
    read_items,
    read_spans,
)
from bkctl.raft.log_file import LogFile
from bkctl.raft.table import split_place

_CACHE_BYTES = 16 << 20
_ITEM_BYTES = 300


class Block:
    """The entries of one batch: their plain bytes, and the items that say where each lies."""

    def __init__(self, plain: bytes, items: list[Item]) -> None:
        """Of a batch's `plain` entries and all its items."""
        self._plain, self._items = plain, items
        self._spans: dict[int, list[Span]] = {}
        # What it takes of memory, in bytes, or somewhat more.
        self.size = len(plain) + _ITEM_BYTES * len(items) + sum(len(i.value) for i in items) * 8

    def entry(self, region_id: int, index: int) -> bytes | None:
        """An entry's bytes; None if it is not in the batch, CorruptionError if it cannot be."""
        spans = self._spans.get(region_id)
        if spans is None:
            spans = read_spans(self._items, region_id, len(self._plain))
            self._spans[region_id] = spans
        for first, bounds in reversed(spans):
            place = index - first
            if 0 <= place < len(bounds) - 1:
                return self._plain[bounds[place] : bounds[place + 1]]
        return None


class Blocks:
    """The blocks of a list of files, by their batches' places (`table`)."""

    def __init__(self, files: Sequence[tuple[LogFile, int]]) -> None:
        """Read from `files`, each with its signature; places number them in this order."""
        self._files = files
        self._cache: OrderedDict[int, Block] = OrderedDict()
        self._cached = 0

    def where(self, place: int) -> str:
        """A place in words."""
        slot, offset = split_place(place)
        return f"{self._files[slot][0].path}: the log batch at offset {offset}"

    def signature(self, place: int) -> int:
        """What the items' checksum of the batch at `place` is XORed with."""
        return self._files[split_place(place)[0]][1]

    def block(self, place: int) -> Block:
        """The block of the batch at `place`; CorruptionError where it is damaged by now."""
        cached = self._cache.get(place)
        if cached is not None:
            self._cache.move_to_end(place)
            return cached
        stored, header = self.stored(place)
        try:
            items = read_items(stored[header.items_at : -CHECKSUM_SIZE])
            block = Block(plain_entries(memoryview(stored), header), items)
        except CorruptionError as e:
            raise CorruptionError(f"{self.where(place)} makes no sense: {e}") from None
        self._cache[place] = block
        self._cached += block.size
        while self._cached > _CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].size
        return block

    def stored(self, place: int) -> tuple[bytes, Header]:
        """The whole batch at `place`, checksums verified; CorruptionError if it is not sound."""
        slot, offset = split_place(place)
        file, signature = self._files[slot]
        try:
            header = read_header(file.read_at(offset, HEADER.size))
            if header.size > file.size - offset:
                raise CorruptionError("it is cut short")
            data = file.read_at(offset, header.size)
            check_sums(memoryview(data), header, signature)
        except CorruptionError as e:
            raise CorruptionError(
                f"{self.where(place)} is damaged: {e}, though it was sound when the log was opened"
            ) from None
        return data, header
