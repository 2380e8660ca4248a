"""Reads the entries of a batch when they are asked for, and keeps those read last at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bkctl.errors import CorruptionError
from bkctl.raft.batch import (
    CHECKSUM_SIZE,
    HEADER,
    Header,
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
# What a span takes, beside the entries' bytes.
_SPAN_BYTES = 200


@dataclass(frozen=True, slots=True)
class Block:
    """The entries of one batch: their plain bytes, and where each lies in them."""

    plain: bytes
    spans: dict[int, list[Span]]

    def entry(self, region_id: int, index: int) -> bytes | None:
        """An entry's bytes; None if it is not in the batch."""
        for first, bounds in reversed(self.spans.get(region_id, [])):
            place = index - first
            if 0 <= place < len(bounds) - 1:
                return self.plain[bounds[place] : bounds[place + 1]]
        return None


class Blocks:
    """The blocks of a list of files, by their batches' places (`table`)."""

    def __init__(self, files: Sequence[tuple[LogFile, int]]) -> None:
        """Read from `files`, each with its signature; places number them in this order."""
        self._files = files
        self._cache: OrderedDict[int, tuple[Block, int]] = OrderedDict()
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
            return cached[0]
        stored, header = self.stored(place)
        try:
            plain = plain_entries(memoryview(stored), header)
            spans = read_spans(read_items(stored[header.items_at : -CHECKSUM_SIZE]), len(plain))
        except CorruptionError as e:
            raise CorruptionError(f"{self.where(place)} makes no sense: {e}") from None
        block = Block(plain, spans)
        self._keep(place, block, len(plain) + _SPAN_BYTES * len(spans))
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

    def _keep(self, place: int, block: Block, size: int) -> None:
        self._cache[place] = block, size
        self._cached += size
        while self._cached > _CACHE_BYTES and len(self._cache) > 1:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._cached -= dropped
