"""Writes raft-engine's files from their format, by other code than reads them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import lz4.block

from bkctl.proto import eraftpb_pb2

MAGIC = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5"
GROUP_KEY = b"__\x01"
BEGIN, MIDDLE, END = b"\x00", b"\x01", b"\x02"


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first."""
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        if not number:
            return out + bytes([low])
        out += bytes([low | 0x80])


def entry(index: int, term: int, data: bytes = b"") -> bytes:
    """An eraftpb.Entry."""
    return eraftpb_pb2.Entry(index=index, term=term, data=data).SerializeToString()


@dataclass(slots=True)
class Batch:
    """A log batch to be written."""

    entries_bytes: bytearray = field(default_factory=bytearray)
    items: list[bytes] = field(default_factory=list)

    def entries(self, region_id: int, first: int, entries: list[bytes]) -> Batch:
        ends = []
        for one in entries:
            self.entries_bytes += one
            ends.append(len(self.entries_bytes))
        item = varint(region_id) + b"\x01" + varint(len(entries))
        if entries:
            item += varint(first)
        self.items.append(item + b"".join(map(varint, ends)))
        return self

    def clean(self, region_id: int) -> Batch:
        self.items.append(varint(region_id) + b"\x02\x01")
        return self

    def compact(self, region_id: int, index: int) -> Batch:
        self.items.append(varint(region_id) + b"\x02\x02" + varint(index))
        return self

    def put(self, region_id: int, key: bytes, value: bytes) -> Batch:
        pair = varint(len(key)) + key + varint(len(value)) + value
        self.items.append(varint(region_id) + b"\x03\x01" + pair)
        return self

    def delete(self, region_id: int, key: bytes) -> Batch:
        self.items.append(varint(region_id) + b"\x03\x02" + varint(len(key)) + key)
        return self

    def encode(self, signature: int = 0, *, compress: bool = False) -> bytes:
        stored = bytes(self.entries_bytes)
        if compress and stored:
            packed = lz4.block.compress(stored, store_size=False)
            stored = len(stored).to_bytes(4, "little") + packed
        if stored:
            stored += zlib.crc32(stored).to_bytes(4, "little")
        items = varint(len(self.items)) + b"".join(self.items)
        items += (zlib.crc32(items) ^ signature).to_bytes(4, "little")
        items_at = 16 + len(stored)
        lead = (items_at + len(items)) << 8 | (compress and bool(self.entries_bytes))
        return lead.to_bytes(8, "big") + items_at.to_bytes(8, "big") + stored + items


@dataclass(slots=True)
class FileWriter:
    """One file of a queue; `places` are the offsets of its batches."""

    folder: Path
    number: int
    suffix: str = "raftlog"
    version: int = 2
    alignment: int = 0
    content: bytearray = field(default_factory=bytearray)
    places: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.content += MAGIC + self.version.to_bytes(8, "big")
        if self.version == 2:
            self.content += self.alignment.to_bytes(8, "big")

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number:016}.{self.suffix}"

    @property
    def signature(self) -> int:
        return self.number & 0xFFFFFFFF if self.version == 2 else 0

    def add(self, batch: Batch, *, compress: bool = False) -> FileWriter:
        if self.alignment:
            self.content += bytes(-len(self.content) % self.alignment)
        self.places.append(len(self.content))
        self.content += batch.encode(self.signature, compress=compress)
        return self

    def write(self, left: bytes = b"") -> Path:
        """Write the file, with `left` behind its last batch."""
        self.path.write_bytes(bytes(self.content) + left)
        return self.path
