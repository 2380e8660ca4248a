"""A second reader of raft-engine's files: plain, slow, one entry at a time, all in memory.

It knows nothing of pinning, of memory or of damage: it stops at the first batch that is not sound.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lz4.block

HEADER = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5"
INTERNAL = b"__\x01"


@dataclass
class Region:
    """What a log holds of a region: entries by index, values by key."""

    entries: dict[int, bytes] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)

    def add(self, first: int, entries: list[bytes]) -> None:
        follows = not self.entries or min(self.entries) <= first <= max(self.entries) + 1
        for index in [index for index in self.entries if index >= first or not follows]:
            del self.entries[index]
        self.entries.update(enumerate(entries, first))

    def compact(self, index: int) -> None:
        for old in [old for old in self.entries if old < index]:
            del self.entries[old]


State = dict[int, Region]
# (region id, what, arguments); what is add, clean, compact, put or delete.
Item = tuple[int, str, tuple[object, ...]]


class Bytes:
    """Reads numbers and strings off the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        assert len(taken) == size
        return taken

    def varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self.take(1)
            number += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return number

    def string(self) -> bytes:
        return self.take(self.varint())


def read_log(folder: Path) -> State:
    """Everything that a log holds, as raft-engine would have it after opening."""
    rewritten: State = {}
    groups: dict[int, list[list[Item]]] = {}
    for path in files(folder, "rewrite"):
        for items in batches(path):
            marks = [i for i in items if i[1] == "put" and i[2][0] == INTERNAL]
            if not marks:
                apply(rewritten, items)
                continue
            group = marks[0][0]
            status = marks[0][2][1]
            if status == b"\x00":
                groups[group] = [items]
            elif group in groups:
                groups[group].append(items)
                if status == b"\x02":
                    for part in groups.pop(group):
                        apply(rewritten, part)
    appended: State = {}
    for path in files(folder, "raftlog"):
        for items in batches(path):
            apply(appended, items)
            apply(rewritten, [i for i in items if i[1] in ("clean", "compact", "delete")])
    for region_id, region in appended.items():
        below = rewritten.setdefault(region_id, Region())
        if region.entries:
            below.add(min(region.entries), [region.entries[i] for i in sorted(region.entries)])
        below.values.update(region.values)
    return {i: region for i, region in rewritten.items() if region.entries or region.values}


def files(folder: Path, suffix: str) -> list[Path]:
    """A queue's files from the last hole in their numbers on."""
    numbers = sorted(
        int(match[1])
        for path in folder.iterdir()
        if (match := re.fullmatch(rf"(\d{{16}})\.{suffix}", path.name))
    )
    kept: list[int] = []
    for number in reversed(numbers):
        if kept and kept[-1] != number + 1:
            break
        kept.append(number)
    return [folder / f"{number:016}.{suffix}" for number in reversed(kept)]


def batches(path: Path) -> Iterator[list[Item]]:
    """The items of each sound batch, up to the first that is not."""
    data = path.read_bytes()
    if not data.startswith(HEADER):
        return
    version = int.from_bytes(data[53:61], "big")
    signature, alignment, pos = 0, 0, 61
    if version == 2:
        signature, alignment, pos = int(path.name[:16]), int.from_bytes(data[61:69], "big"), 69
    while True:
        items = batch(data, pos, signature)
        if items is not None:
            yield items
            pos += int.from_bytes(data[pos : pos + 7], "big")
            continue
        padding = -pos % alignment if alignment else 0
        if padding == 0 or any(data[pos : pos + padding]):
            return
        pos += padding


def batch(data: bytes, pos: int, signature: int) -> list[Item] | None:
    """The items of the batch at `pos`; None if there is no sound one."""
    size = int.from_bytes(data[pos : pos + 7], "big")
    kind = int.from_bytes(data[pos + 7 : pos + 8], "big")
    items_at = int.from_bytes(data[pos + 8 : pos + 16], "big")
    whole = data[pos : pos + size]
    if len(whole) < size or not 16 <= items_at < size - 4 or kind > 1:
        return None
    stored, items = whole[16:items_at], whole[items_at:]
    if zlib.crc32(items[:-4]) ^ signature != int.from_bytes(items[-4:], "little"):
        return None
    if stored:
        if zlib.crc32(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
            return None
        stored = stored[:-4]
        if kind == 1:
            plain_size = int.from_bytes(stored[:4], "little")
            stored = lz4.block.decompress(stored[4:], uncompressed_size=plain_size)
    return [*parse(Bytes(items[:-4]), stored)]


def parse(items: Bytes, plain: bytes) -> Iterator[Item]:
    end = 0
    for _ in range(items.varint()):
        region_id = items.varint()
        kind = items.take(1)
        if kind == b"\x01":
            count = items.varint()
            first = items.varint() if count else 0
            entries = []
            for _ in range(count):
                start, end = end, items.varint()
                entries.append(plain[start:end])
            if entries:
                yield region_id, "add", (first, entries)
        elif kind == b"\x02":
            if items.take(1) == b"\x01":
                yield region_id, "clean", ()
            else:
                yield region_id, "compact", (items.varint(),)
        else:
            put = items.take(1) == b"\x01"
            key = items.string()
            yield (
                (region_id, "put", (key, items.string())) if put else (region_id, "delete", (key,))
            )


def apply(state: State, items: list[Item]) -> None:
    for region_id, what, arguments in items:
        if what in ("put", "delete") and arguments[0] == INTERNAL:
            continue
        if what == "clean":
            state.pop(region_id, None)
            continue
        region = state.setdefault(region_id, Region())
        if what == "put":
            key, value = arguments
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            region.values[key] = value
        elif what == "delete":
            (key,) = arguments
            assert isinstance(key, bytes)
            region.values.pop(key, None)
        else:
            getattr(region, what)(*arguments)
