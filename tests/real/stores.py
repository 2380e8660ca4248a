"""Stores of a real TiKV, with its own backups as the truth; tests skip where they are not here."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.oracles import require_shared


def require_real(name: str) -> Path:
    """The folder of a real cluster; skips the test without it."""
    folder = require_shared() / "real" / name
    if not folder.is_dir():
        pytest.skip(f"the real store {name} is not here")
    return folder


def unpack(name: str, target: Path) -> list[Path]:
    """Put a real cluster's data directories into `target`; give them in order."""
    content = _read_zst(require_real(name) / "stores.tar.zst")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(target, filter="tar")
    return sorted(path for path in target.iterdir() if path.name.startswith("tikv"))


def truth(name: str) -> dict[str, Any]:
    """What TiKV's own backup endpoint said of the cluster."""
    document: dict[str, Any] = json.loads((require_real(name) / "truth.json").read_bytes())
    return document


def raw_pairs(name: str) -> dict[bytes, bytes]:
    """The live pairs of a raw cluster."""
    document = json.loads(_read_zst(require_real(name) / "raw.json.zst"))
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in document["live"].items()}


def acked_writes(name: str) -> list[tuple[bytes, bytes, int]]:
    """(key, value, commit_ts) of each write that was acknowledged last, in that order."""
    lines = _read_zst(require_real(name) / "acked.tsv.zst").decode().splitlines()
    fields = (line.split() for line in lines)
    return [(bytes.fromhex(key), bytes.fromhex(value), int(ts)) for key, value, ts in fields]


def _read_zst(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()
