"""Values in blob files are read nearly as fast as those in SST files, and in as little memory."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from pathlib import Path

from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.entries import account_long
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX
from bkctl.mvcc.scan import EntryScanner
from bkctl.store.database import Database
from bkctl.store.layout import locate
from bkctl.store.view import PinnedView
from examples.tikv_store import TikvStore
from tests.titan.blob_writer import LZ4
from tests.titan.titan_store import TitanStore

VALUES = int(os.environ.get("BKCTL_TITAN_VALUES", "8000"))
_SIZE = 4096
_ROUNDS = 3
_AT_MOST = 1.3


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
    counted = Accounting()
    with PinnedView(locate(path)) as view:
        begun = time.process_time()
        database = Database(view.db_dir, view.source)
        scanner = EntryScanner(database, DATA_PREFIX, DATA_END, 0, 20)
        while (batch := scanner.scan_entries()) is not None:
            for segment in batch.segments:
                segment.account(counted)
                for keys, values in scanner.long_values.fetch(segment.default_keys):
                    account_long(counted, keys, values)
        del scanner
        database.close()
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


def test_values_in_blob_files_take_no_more_memory_than_others(tmp_path: Path) -> None:
    fill(TikvStore(tmp_path / "plain"), VALUES)
    fill(TitanStore(tmp_path / "titan", per_file=20_000), VALUES)
    peaks = {}
    for name in ("plain", "titan"):
        tracemalloc.start()
        scanned(tmp_path / name)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["titan"] <= _AT_MOST * peaks["plain"], peaks
