"""Reading SST files record by record shows what RocksDB's iterator shows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.store import rows
from bkctl.store.database import Database
from bkctl.store.rows import RowScan
from bkctl.store.tables import UnreadableError
from tests.store.test_column_scan import (
    Pairs,
    Store,
    add_a_wide_column,
    by_rocksdb,
    keys,
    opened,
    steps,
)


def by_rows(database: Database, lower: bytes, upper: bytes) -> Pairs:
    scan = RowScan(database.tables("write"), "write", lower, upper)
    found: Pairs = []
    while (read := scan.take()) is not None:
        assert len(read[0])
        assert read[1].is_blob is None
        found += zip(read[0].tolist(), read[1].strings.tolist(), strict=True)
        assert scan.last_key == found[-1][0]
    return found


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.lists(steps, min_size=1, max_size=9),
    st.sampled_from([2, 4, 5, 6]),
    st.sampled_from([1, 1000]),
    keys,
    keys,
)
def test_rows_show_what_rocksdb_shows(
    changes: list[tuple[str, object]], version: int, taken: int, low: bytes, high: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_TAKEN_RECORDS", taken)
        patch.setattr(rows, "_READ_BYTES", taken)
        store = Store(Path(folder) / "store", version)
        for name, argument in changes:
            getattr(store, name)(argument)
        store.close()

        def check(database: Database) -> None:
            for lower, upper in ((b"", b"\xff" * 4), (min(low, high), max(low, high))):
                assert by_rows(database, lower, upper) == by_rocksdb(database, lower, upper)

        opened(store.path, check)


def damage_a_block(store: Path) -> None:
    (file,) = store.glob("*.sst")
    content = bytearray(file.read_bytes())
    content[1000] ^= 0x40
    file.write_bytes(content)


def test_what_it_does_not_know_or_finds_damaged_is_not_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v%d" % i) for i in range(300)])
    store.flush()
    store.close()
    damage_a_block(store.path)

    def check(error: type[Exception], told: str) -> Callable[[Database], None]:
        def check(database: Database) -> None:
            with pytest.raises(error, match=told):
                by_rows(database, b"", b"z")

        return check

    opened(store.path, check(CorruptionError, r"\.sst: at offset \d+: .*checksum"))
    other = Store(tmp_path / "other")
    other.put([(b"k%04d" % i, b"v%d" % i) for i in range(300)])
    add_a_wide_column(other)
    other.close()
    opened(other.path, check(UnreadableError, "a record is"))
