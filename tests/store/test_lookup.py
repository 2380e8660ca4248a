"""Looked-up values are those that RocksDB gets, wherever among the files they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.codec.strings import ByteStrings
from bkctl.store.database import Database
from tests.store.test_column_scan import Store, by_rocksdb, delete_a_range, opened

keys = st.integers(0, 60).map(lambda n: b"row%04d" % n)
values = st.binary(max_size=40)
steps = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(keys, values), min_size=1, max_size=60)),
    st.tuples(st.just("delete"), st.lists(keys, min_size=1, max_size=10)),
    st.tuples(st.just("ingest"), st.dictionaries(keys, values, min_size=1)),
    st.just(("flush", None)),
    st.just(("compact", None)),
)


def looked_up(database: Database, wanted: list[bytes], plain_bytes: int) -> list[bytes] | None:
    scan = database.scan_columns("write", b"", b"\xff")
    strings = ByteStrings.of(wanted)
    found: list[bytes] = []
    while len(found) < len(wanted):
        values = scan.lookup(strings.slice(len(found), len(wanted)), plain_bytes)
        if values is None:
            return None
        assert len(values)
        found += values.strings.tolist()
    return found


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    st.lists(steps, min_size=1, max_size=9),
    st.sampled_from([2, 4, 5, 6]),
    st.sampled_from([1, 200, 1 << 20]),
    st.sets(keys, max_size=3),
    st.data(),
)
def test_values_are_those_that_rocksdb_gets(
    changes: list[tuple[str, object]],
    version: int,
    plain_bytes: int,
    absent: set[bytes],
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store", version)
        for name, argument in changes:
            getattr(store, name)(argument)
        store.close()

        def check(database: Database) -> None:
            there = dict(by_rocksdb(database, b"", b"\xff"))
            chosen = data.draw(st.sets(st.sampled_from(sorted(there)))) if there else set()
            wanted = sorted(chosen)
            assert looked_up(database, wanted, plain_bytes) == [there[key] for key in wanted]
            if absent - there.keys():
                assert looked_up(database, sorted(chosen | absent), plain_bytes) is None

        opened(store.path, check)


def test_only_blocks_with_wanted_keys_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bkctl.sst.reader import SstReader

    read: list[int] = []
    read_blocks = SstReader.read_blocks

    def counting(self: SstReader, *args: object) -> list[bytes]:
        blocks = read_blocks(self, *args)  # type: ignore[arg-type]
        read.append(len(blocks))
        return blocks

    store = Store(tmp_path / "store")
    store.ingest({b"k%05d" % i: b"old" * 30 for i in range(20_000)})
    store.ingest({b"k%05d" % i: b"new" for i in range(0, 20_000, 400)})
    store.close()

    def check(database: Database) -> None:
        wanted = [b"k%05d" % i for i in range(0, 20_000, 400)]
        monkeypatch.setattr(SstReader, "read_blocks", counting)
        assert looked_up(database, wanted, 1 << 20) == [b"new"] * 50
        # None of the lower level, where a block has one record.
        assert sum(read) < 60
        assert looked_up(database, [b"k00001", b"k00400", b"k19999"], 1 << 20) == [
            b"old" * 30,
            b"new",
            b"old" * 30,
        ]
        assert sum(read) < 70

    opened(store.path, check)


def test_what_only_rocksdb_reads_is_not_looked_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, b"v") for i in range(300)])
    store.flush()
    delete_a_range(store)
    store.close()
    opened(store.path, lambda database: _is_left_alone(database, b"k0150"))


def test_keys_of_several_lengths_are_not_looked_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k" * i, b"v") for i in range(1, 30)])
    store.close()
    opened(store.path, lambda database: _is_left_alone(database, b"kkk"))


def _is_left_alone(database: Database, key: bytes) -> None:
    assert looked_up(database, [key], 1 << 20) is None


def test_a_prefix_is_given_where_room_ends(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put([(b"k%04d" % i, bytes(1000)) for i in range(300)])
    store.close()

    def check(database: Database) -> None:
        scan = database.scan_columns("write", b"", b"z")
        wanted = ByteStrings.of([b"k%04d" % i for i in range(300)])
        values = scan.lookup(wanted, 10_000)
        assert values is not None
        assert 9 <= len(values) <= 12
        rest = scan.lookup(wanted.take(np.arange(299, 300)), 1)
        assert rest is not None
        assert rest.strings.tolist() == [bytes(1000)]

    opened(store.path, check)
