"""Changes SST files in ways that no checksum shows, as those of changed blocks are made anew.

What a mutation changes is one or more blocks of a kind: of those that describe others as often as
of data, so that most of what a reader trusts in is changed sooner or later. Seeded: a number gives
the same mutation of the same file at all times.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rocksdict import BlockBasedIndexType, BlockBasedOptions, DBCompressionType, Options

from bkctl.sst.checksums import context_modifier, stored_checksum
from bkctl.sst.format import FOOTER_SIZE, BlockHandle, Footer
from bkctl.sst.reader import SstReader
from bkctl.sst.writer import Compression, SstWriter
from tests.sst.rocks import records, write_sst
from tests.sst.table_builder import (
    MAGIC,
    BytesReader,
    TableBuilder,
    encode_block,
    internal,
    varints,
)

_TELLING_BYTES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF)
_TELLING_VARINTS = (
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x08",
    bytes(5),
)
_CHANGES_AT_ONCE = (1, 1, 1, 2, 3)
_MAGIC_SIZE = 8


@dataclass(frozen=True, slots=True)
class _Block:
    kind: str
    handle: BlockHandle


def mutated(data: bytes, seed: int) -> bytes:
    """A sound file, changed."""
    rng = random.Random(seed)
    footer, blocks = _blocks_of(data)
    out = bytearray(data)
    kinds = sorted({block.kind for block in blocks})
    for _ in range(rng.choice(_CHANGES_AT_ONCE)):
        kind = rng.choice([*kinds, "footer"])
        if kind == "footer":
            _change(out, rng, len(out) - FOOTER_SIZE, len(out) - _MAGIC_SIZE)
            continue
        handle = rng.choice([block.handle for block in blocks if block.kind == kind])
        for _ in range(rng.choice(_CHANGES_AT_ONCE)):
            _change(out, rng, handle.offset, handle.offset + handle.size)
        if rng.random() < 0.05:
            out[handle.offset + handle.size] = rng.randrange(9)  # another codec
    for block in blocks:
        _sign(out, footer, block.handle)
    return bytes(out)


def _blocks_of(data: bytes) -> tuple[Footer, list[_Block]]:
    sst = SstReader(BytesReader(data), "a sound file", ingested=True)
    shape = sst.properties.index
    blocks = [_Block("metaindex", sst.footer.metaindex)]
    for name, handle in sst.meta_blocks.items():
        blocks.append(_Block(name, handle))
        if name.startswith("partitionedfilter."):
            partitions = sst.filter_partitions(handle, shape)
            blocks += [_Block("filter partition", partition) for partition in partitions]
    indexes = {sst.index_handle, *sst.index_partitions(shape)}
    blocks += [_Block("index", handle) for handle in sorted(indexes, key=lambda h: h.offset)]
    blocks += [_Block("data", handle) for handle in sst.blocks()]
    return sst.footer, blocks


def _change(out: bytearray, rng: random.Random, start: int, stop: int) -> None:
    """Change a few bytes of a stretch: anywhere, near its ends, or a number in it."""
    size = stop - start
    how = rng.randrange(6)
    if how == 0:
        out[start + rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif how == 1:
        out[start + rng.randrange(size)] = rng.choice(_TELLING_BYTES)
    elif how == 2:
        out[stop - 1 - rng.randrange(min(size, 12))] = rng.randrange(256)
    elif how == 3:
        out[start + rng.randrange(min(size, 24))] = rng.randrange(256)
    elif how == 4 and size >= 5:
        at = start + rng.randrange(size - 4)
        out[at : at + 5] = rng.choice(_TELLING_VARINTS)
    elif size >= 4:
        at = stop - 4 * rng.randrange(1, max(2, min(size // 4, 6)))
        numbers = (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000001, size, rng.randrange(1 << 32))
        out[at : at + 4] = struct.pack("<I", rng.choice(numbers))


def _sign(out: bytearray, footer: Footer, handle: BlockHandle) -> None:
    end = handle.offset + handle.size + 1
    plain = stored_checksum(footer.checksum_type, bytes(out[handle.offset : end]))
    checksum = plain + context_modifier(footer.base_context, handle.offset)
    out[end : end + 4] = struct.pack("<I", checksum & 0xFFFFFFFF)


def _plain(table: BlockBasedOptions, options: Options) -> None:
    pass


def _filter(table: BlockBasedOptions, options: Options) -> None:
    table.set_bloom_filter(10, False)


def _two_level(table: BlockBasedOptions, options: Options) -> None:
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_metadata_block_size(64)


def _partitioned(table: BlockBasedOptions, options: Options) -> None:
    _two_level(table, options)
    _filter(table, options)
    table.set_partition_filters(True)


_SHAPES: tuple[tuple[int, str, Callable[[BlockBasedOptions, Options], None]], ...] = (
    (2, "none", _filter),
    (4, "none", _two_level),
    (5, "none", _plain),
    (5, "none", _partitioned),
    (5, "lz4", _filter),
    (5, "zstd", _plain),
    (6, "none", _filter),
)


def sound_files(folder: Path) -> list[bytes]:
    """Files of all kinds, made by RocksDB and by bkctl; `folder` is where they are made."""
    files = []
    for version, codec, tune in _SHAPES:
        for count in (30, 400):
            path = write_sst(
                folder / "made.sst",
                records(count),
                version=version,
                compression=getattr(DBCompressionType, codec)(),
                block_size=512,
                tune=tune,
            )
            files.append(path.read_bytes())
    for codec in ("none", "zstd"):
        writer = SstWriter(folder / "made.sst", Compression(codec))
        content = records(400)
        writer.write([key for key, _ in content], [value for _, value in content])
        files.append(writer.finish().path.read_bytes())
    (folder / "made.sst").unlink()
    return files


def with_wild_restart(data: bytes) -> bytes:
    """A sound file whose metaindex leads far outside of itself: RocksDB crashes following it."""
    sst = SstReader(BytesReader(data), "a sound file", ingested=True)
    handle = sst.footer.metaindex
    end = handle.offset + handle.size
    out = bytearray(data)
    # The last one of several, among which RocksDB searches.
    out[end - 8 : end - 4] = struct.pack("<I", 0x3FFFFF00)
    _sign(out, sst.footer, handle)
    return bytes(out)


def without_properties() -> bytes:
    """A file whose checksums are right, and that RocksDB crashes on as it takes it in."""
    builder = TableBuilder()
    block = builder.add(encode_block([(internal(b"z"), b"")]))
    index = builder.add(encode_block([(internal(b"z"), varints(block.offset, block.size))], 1))
    metaindex = builder.add(encode_block([], 1))
    handles = varints(metaindex.offset, metaindex.size, index.offset, index.size)
    footer = bytes([builder.checksum]) + handles.ljust(40, b"\0")
    return builder.out + footer + struct.pack("<I", builder.version) + MAGIC
