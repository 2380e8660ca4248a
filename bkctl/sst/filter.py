"""Rewrites the part of an SST file that lies in a window of keys.

For a restore of some keys: the files at the window's edges hold more than is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bkctl.sst.reader import SstReader
from bkctl.sst.source import RandomReader
from bkctl.sst.writer import Compression, FinishedSst, SstWriter

_BATCH_RECORDS = 1024
_BATCH_BYTES = 1 << 20
_CODECS = {
    "ZSTD": "zstd",
    "LZ4": "lz4",
    "LZ4HC": "lz4",
    "Snappy": "snappy",
    "NoCompression": "none",
}


def write_window(
    reader: RandomReader,
    name: str,
    path: Path,
    lower: bytes,
    upper: bytes,
    advance: Callable[[], None] = lambda: None,
) -> FinishedSst | None:
    """Write the records with keys in `[lower, upper)`, as stored, to a new file at `path`.

    Blocks before the window are not read, memory is bounded, and the codec is the file's own where
    bkctl writes it, else zstd. None, and no file, if the window holds no record. `advance` is
    called now and then, and may raise to stop. Raises CorruptionError, naming the file `name`,
    where it is damaged, and StorageError where `path` cannot be written.
    """
    sst = SstReader(reader, name)
    codec = _CODECS.get(sst.properties.compression_name, "zstd")
    writer: SstWriter | None = None
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    try:
        for key, value in sst.entries(lower):
            if key >= upper:
                break
            keys.append(key)
            values.append(value)
            size += len(value)
            if len(keys) == _BATCH_RECORDS or size >= _BATCH_BYTES:
                advance()
                writer = writer or SstWriter(path, Compression(codec))
                writer.write(keys, values)
                keys, values, size = [], [], 0
        if keys:
            writer = writer or SstWriter(path, Compression(codec))
            writer.write(keys, values)
        return writer.finish() if writer is not None else None
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
