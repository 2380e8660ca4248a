"""Writes SST files with RocksDB itself, for the reader to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rocksdict import BlockBasedOptions, ChecksumType, DBCompressionType, Options, SstFileWriter

SHARED = Path(__file__).parents[3] / "shared"


def records(count: int, value_size: int = 40) -> list[tuple[bytes, bytes]]:
    """Ascending records whose keys share their beginnings and whose values half compress."""
    return [
        (
            b"zrow%08d" % (number * 7),
            (b"%d/" % (number * 2654435761)) + bytes([97 + number % 26]) * (number % value_size),
        )
        for number in range(count)
    ]


def write_sst(
    path: Path,
    content: list[tuple[bytes, bytes]],
    *,
    version: int = 5,
    checksum: ChecksumType | None = None,
    compression: DBCompressionType | None = None,
    block_size: int = 4096,
    tune: Callable[[BlockBasedOptions, Options], None] = lambda table, options: None,
) -> Path:
    """Write `content` to `path`."""
    options = Options(raw_mode=True)
    table = BlockBasedOptions()
    table.set_format_version(version)
    table.set_checksum_type(checksum or ChecksumType.crc32c())
    table.set_block_size(block_size)
    options.set_compression_type(compression or DBCompressionType.none())
    tune(table, options)
    options.set_block_based_table_factory(table)
    writer = SstFileWriter(options)
    writer.open(str(path))
    for key, value in content:
        writer[key] = value
    writer.finish()
    return path
