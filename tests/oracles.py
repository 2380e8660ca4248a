"""Where the shared stores, their oracles and the native yardsticks are; tests skip without them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class OracleLine:
    """What a backup over (start_ts, end_ts] must hold; `kind` is full or inc."""

    kind: str
    start_ts: int
    end_ts: int
    kvs: int
    bytes: int
    crc64xor: int
    puts: int
    deletes: int
    default_kvs: int


def shared_dir() -> Path | None:
    """The folder of shared stores: beside the project, or where BKCTL_SHARED says."""
    path = Path(os.environ.get("BKCTL_SHARED", ROOT.parent / "shared"))
    return path if (path / "stores").is_dir() else None


def require_shared() -> Path:
    """The folder of shared stores; skips the test without it."""
    path = shared_dir()
    if path is None:
        pytest.skip("the shared stores are not here (set BKCTL_SHARED)")
    return path


def read_oracle(path: Path) -> list[OracleLine]:
    """The probes of a store's oracle file, in its order."""
    lines = []
    for line in path.read_text().splitlines():
        kind, *numbers = line.split()
        lines.append(OracleLine(kind, *map(int, numbers)))
    return lines


def require_tool(name: str) -> Path:
    """Where one of RocksDB's own tools (`ldb`, `sst_dump`) is; skips the test without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's rocksdb-tools)")
    return Path(found)


def bench_tool(name: str) -> Path:
    """One of the native tools, built from the shared sources once for all test processes.

    The cache is keyed by the sources, so it never serves an old build; a build that was broken off
    leaves nothing in it. Skips the test where the tools cannot be built.
    """
    source = require_shared() / "bench"
    for needed in ("make", "g++"):
        if shutil.which(needed) is None:
            pytest.skip(f"{name} cannot be built here: {needed} is not installed")
    digest = hashlib.sha256()
    for file in sorted(source.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    out = Path(tempfile.gettempdir()) / f"bkctl-bench-{digest.hexdigest()[:16]}"
    out.mkdir(exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / name).exists():
            _build(source, out, name)
    return out / name


def _build(source: Path, out: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=out) as fresh:
        made = subprocess.run(
            ["make", "-C", str(source), f"OUT={fresh}"], capture_output=True, text=True
        )
        if made.returncode != 0:
            pytest.skip(f"{name} cannot be built here: {made.stderr.strip()[-200:]}")
        for tool in Path(fresh).iterdir():
            tool.rename(out / tool.name)
