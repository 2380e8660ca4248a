"""Values in blob files are read nearly as fast as those in SST files, and in as little memory."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.accounting import Accounting
from bkctl.store.layout import locate
from bkctl.store.view import PinnedView
from examples.tikv_store import TikvStore
from tests.mvcc.test_scan import scan
from tests.titan.blob_writer import LZ4
from tests.titan.titan_store import TitanStore

VALUES = int(os.environ.get("BKCTL_TITAN_VALUES", "8000"))
_SIZE = 4096
_ROUNDS = 3
_AT_MOST = 1.3
_FLAT = 24 << 20


def fill(store: TikvStore, count: int) -> None:
    """Values of 4 KiB, half of which is noise."""
    rng = random.Random(1)
    noise = rng.randbytes(1 << 20)
    with store, store.batched():
        for i in range(count):
            key, at = b"key%08d" % i, rng.randrange(len(noise) - _SIZE)
            store.default_record(key, 10, noise[at : at + _SIZE // 2].ljust(_SIZE, b"v"))
            store.write_record(key, 11, b"P" + encode_uvarint(10))
        store.compact()


def scanned(path: Path) -> tuple[float, Accounting]:
    """How many seconds of the processor's time it takes to scan a store, and what is in it."""
    with PinnedView(locate(path)) as view:
        source: Any = SimpleNamespace(db_dir=view.db_dir, path=view.source)
        begun = time.process_time()
        _, counted, default_kvs = scan(source, 0, 20)
        assert default_kvs == counted.total_kvs
        return time.process_time() - begun, counted


def test_values_in_blob_files_are_read_as_fast_as_others(tmp_path: Path) -> None:
    fill(TikvStore(tmp_path / "plain"), VALUES)
    fill(TitanStore(tmp_path / "titan", per_file=20_000, forms=({"codec": LZ4},)), VALUES)
    seconds: dict[str, float] = {}
    found = set()
    for _ in range(_ROUNDS):
        for name in ("plain", "titan"):
            taken, counted = scanned(tmp_path / name)
            seconds[name] = min(taken, seconds.get(name, taken))
            found.add((counted.total_kvs, counted.total_bytes, counted.crc64xor))
    assert len(found) == 1
    assert seconds["titan"] <= _AT_MOST * seconds["plain"], seconds


def test_memory_does_not_grow_with_the_values(tmp_path: Path) -> None:
    fill(TitanStore(tmp_path / "titan", per_file=20_000), VALUES)
    assert VALUES * _SIZE >= _FLAT
    tracemalloc.start()
    try:
        scanned(tmp_path / "titan")
        assert tracemalloc.get_traced_memory()[1] < _FLAT
    finally:
        tracemalloc.stop()
