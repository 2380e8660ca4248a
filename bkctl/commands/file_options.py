"""The options of commands that make files: how, of what size, how fast, for whom."""

from __future__ import annotations

from typing import Annotated

from bkctl.commands import options
from bkctl.files import access

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


def _use_group_readable(group_readable: bool) -> bool:
    if group_readable:
        access.let_group_read()
    return group_readable


GroupReadable = Annotated[
    bool,
    options.option(
        "--group-readable",
        callback=_use_group_readable,
        help="Let the group read what is made (0640, 0750); otherwise only its user can.",
    ),
]
