"""The options of commands that make SST files and store them: how, of what size, how fast."""

from __future__ import annotations

from typing import Annotated

from bkctl.commands import options

Compression = Annotated[
    str,
    options.option("--compression", metavar="CODEC", help="zstd, lz4, snappy or none."),
]
CompressionLevel = Annotated[
    int | None,
    options.option("--compression-level", metavar="N", help="The codec's level; default: its own."),
]
SstMaxSize = Annotated[
    str,
    options.option("--sst-max-size", metavar="SIZE", help="Plain bytes after which a file is cut."),
]
RateLimit = Annotated[
    str | None,
    options.option(
        "--rate-limit", metavar="SIZE", help="Bytes a second to storage, like 50MiB; default: all."
    ),
]
