"""A raft log is applied to a store whose values lie in blob files, as to any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.mvcc.keys import versioned_key
from bkctl.raft.rocks_kv import RocksKv
from bkctl.store.database import Database
from bkctl.store.layout import locate
from bkctl.store.view import PinnedView
from tests.titan.titan_store import TitanStore


@pytest.mark.parametrize("flush", [True, False])
def test_ranges_with_values_in_blob_files_are_deleted(flush: bool, tmp_path: Path) -> None:
    store = TitanStore(tmp_path / "store", per_file=20)
    keys = [versioned_key(b"k%03d" % i, 10) for i in range(60)]
    for i in range(60):
        store.default_record(b"k%03d" % i, 10, b"%03d" % i * (200 if i % 3 else 2))
        if i == 40:
            store.flush()
    store.close(flush=flush)
    with PinnedView(locate(tmp_path / "store")) as view:
        with view.replaying() as folder:
            kv = RocksKv(folder, view.source)
            kv.delete("default", keys[5])
            kv.put("default", keys[12], b"short")
            kv.delete_range("default", keys[10], keys[50])
            kv.put("default", keys[30], b"anew")
            kv.delete_range("default", keys[10], keys[11])
            kv.finish()
        database = Database(view.db_dir, view.source)
        scan = database.scan_columns("default", b"z", b"{")
        found: dict[bytes, bytes] = {}
        while (read := scan.take()) is not None:
            found |= zip(read[0].tolist(), read[1].tolist(), strict=True)
        assert scan.is_merged
        left = {i: b"%03d" % i * (200 if i % 3 else 2) for i in range(60) if not 10 <= i < 50}
        del left[5]
        assert found == {keys[i]: value for i, value in (left | {30: b"anew"}).items()}
        del scan
        database.close()
