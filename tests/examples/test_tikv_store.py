"""The sample stores: their bytes are those of the formats, and the model tells what is in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkctl.errors import UsageError
from bkctl.mvcc.lock import parse_lock
from bkctl.regions import pd
from bkctl.regions.local_state import load_regions
from bkctl.store.ident import StoreIdent, parse_store_ident
from examples.tikv_store import CLUSTER_ID, FAMILIES, TikvStore
from tests.examples.stores import Records, history_of, raw_key_of, read_family, split_key
from tests.histories import histories
from tests.model import HeldLock, History

LOCK_KEY = b"zk" + bytes(7) + b"\xf8"


def made(path: Path, family: str, build: Callable[[TikvStore], None]) -> Records:
    with TikvStore(path) as store:
        build(store)
    return {k: v for k, v in read_family(path, family).items() if k != b"\x01\x01"}


def versioned(ts: int) -> bytes:
    return LOCK_KEY + (0xFFFFFFFFFFFFFFFF - ts).to_bytes(8, "big")


def test_a_short_put_lives_in_its_write_record(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_put(b"k", b"abc", b"k", 5)
        store.must_commit(b"k", 5, 6)

    records = made(tmp_path / "s", "write", build)
    assert records == {versioned(6): bytes.fromhex("50 05 76 03 61 62 63")}
    assert read_family(tmp_path / "s", "lock") == {}
    assert list(read_family(tmp_path / "s", "default")) == [b"\x01\x01"]


def test_a_delete_has_its_start_timestamp_as_varint(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_delete(b"k", b"k", 300)
        store.must_commit(b"k", 300, 301)

    assert made(tmp_path / "s", "write", build) == {versioned(301): bytes.fromhex("44 AC 02")}


def test_a_protected_rollback_carries_its_mark(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_put(b"k", b"v" * 300, b"k", 2)
        store.must_rollback(b"k", 2, protected=True)

    records = made(tmp_path / "s", "write", build)
    assert records == {versioned(2): bytes.fromhex("52 02 76 01 70")}
    assert list(read_family(tmp_path / "s", "default")) == [b"\x01\x01"]


def test_an_overlapped_rollback_marks_the_committed_record(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_put(b"k", b"v" * 256, b"k", 1)
        store.must_commit(b"k", 1, 2)
        store.must_rollback(b"k", 2, protected=True)

    records = made(tmp_path / "s", "write", build)
    assert records == {versioned(2): bytes.fromhex("50 01 52 46") + bytes(8)}


def test_an_overlapped_rollback_is_fenced_by_the_nearest_newer_version(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        for start_ts in (1, 3, 6):
            store.must_prewrite_delete(b"k", b"k", start_ts)
            store.must_commit(b"k", start_ts, start_ts + 1)
        store.must_prewrite_lock(b"k", b"k", 2)
        store.must_commit(b"k", 2, 3)
        store.must_rollback(b"k", 2, protected=True)

    records = made(tmp_path / "s", "write", build)
    assert records[versioned(2)] == b"D\x01RF" + (4).to_bytes(8, "big")


def test_a_long_value_lives_in_default(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_put(b"k", b"v" * 256, b"k", 7)
        store.must_commit(b"k", 7, 8)

    assert made(tmp_path / "s", "default", build) == {versioned(7): b"v" * 256}
    assert read_family(tmp_path / "s", "write") == {versioned(8): b"P\x07"}


def test_a_lock_has_all_its_fields_in_order(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_put(
            b"k",
            b"ab",
            b"p" * 64,
            300,
            ttl=3000,
            min_commit_ts=301,
            use_async_commit=True,
            secondaries=(b"k", b""),
            txn_size=2,
            for_update_ts=5,
        )

    fields = [
        b"P\x80\x01" + b"p" * 64,
        b"\xac\x02" + b"\xb8\x17",
        b"v\x02ab",
        b"f" + (5).to_bytes(8, "big"),
        b"t" + (2).to_bytes(8, "big"),
        b"c" + (301).to_bytes(8, "big"),
        b"a\x02\x02k\x00",
    ]
    records = made(tmp_path / "s", "lock", build)
    assert records == {LOCK_KEY: b"".join(fields)}
    lock = parse_lock(records[LOCK_KEY])
    assert (lock.primary, lock.start_ts, lock.ttl) == (b"p" * 64, 300, 3000)
    assert (lock.short_value, lock.min_commit_ts, lock.use_async_commit) == (b"ab", 301, True)


def test_locks_of_other_types(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_prewrite_delete(b"d", b"d", 1)
        store.must_prewrite_lock(b"l", b"d", 1)
        store.must_acquire_pessimistic_lock(b"s", b"d", 1, 2)
        store.shared_lock(b"h", b"any")

    records = made(tmp_path / "s", "lock", build)
    assert [records[key] for key in sorted(records)] == [
        b"D\x02d\x01\xb8\x17",
        b"Hany",
        b"L\x02d\x01\xb8\x17",
        b"S\x02d\x01\xb8\x17f" + (2).to_bytes(8, "big"),
    ]


def test_a_committed_pessimistic_lock_becomes_a_lock_record(tmp_path: Path) -> None:
    def build(store: TikvStore) -> None:
        store.must_acquire_pessimistic_lock(b"k", b"k", 1, 1)
        store.must_commit(b"k", 1, 2)

    assert made(tmp_path / "s", "write", build) == {versioned(2): b"L\x01"}


def test_a_locked_key_refuses_other_transactions(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "s") as store:
        store.must_acquire_pessimistic_lock(b"k", b"k", 1, 1)
        with pytest.raises(UsageError, match="6B is locked"):
            store.must_prewrite_put(b"k", b"v", b"k", 2)
        with pytest.raises(UsageError, match="holds no lock of 2"):
            store.must_commit(b"k", 2, 3)
        store.must_prewrite_put(b"k", b"v", b"k", 1, for_update_ts=1)
        store.must_commit(b"k", 1, 3)
        store.shared_lock(b"k")
        with pytest.raises(UsageError, match="6B is locked"):
            store.must_prewrite_lock(b"k", b"k", 4)


def test_raw_pairs_have_nothing_but_their_prefix(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "s") as store:
        store.put_raw(b"\x00key", b"value")
        store.put_raw(b"", b"", cf="write")
    assert read_family(tmp_path / "s", "default")[b"z\x00key"] == b"value"
    assert read_family(tmp_path / "s", "write") == {b"z": b""}


def test_a_store_knows_itself(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "s", store_id=9, api_version=1):
        pass
    value = read_family(tmp_path / "s", "default")[b"\x01\x01"]
    assert parse_store_ident(value, tmp_path) == StoreIdent(CLUSTER_ID, 9, 1)
    assert {*FAMILIES} == {"default", "lock", "write", "raft"}


@pytest.mark.parametrize("is_raw", [False, True])
def test_a_stores_regions_and_its_region_map_agree(tmp_path: Path, is_raw: bool) -> None:
    with TikvStore(tmp_path / "s", store_id=4) as store:
        store.set_regions([(1, b"", b"", 1)])
        store.set_regions([(2, b"", b"m", 10), (6, b"m", b"", 11)], is_raw)
        store.write_region_map(tmp_path / "map.json")
    bound = b"m" if is_raw else b"m" + bytes(7) + b"\xf8"
    found = load_regions(read_family(tmp_path / "s", "raft").items(), store_id=4)
    mapped = pd.load(tmp_path / "map.json")
    assert found.skipped == []
    for regions in (found.regions, mapped):
        assert [(r.id, r.start_key, r.end_key, r.epoch.version) for r in regions] == [
            (2, b"", bound, 10),
            (6, bound, b"", 11),
        ]
    assert [region.peers for region in mapped] == [region.peers for region in found.regions]
    assert {region.leader.store_id for region in mapped if region.leader} == {4}
    assert json.loads((tmp_path / "map.json").read_text())["count"] == 2


def test_a_closed_store_holds_only_rocksdbs_files(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "s") as store:
        store.must_rollback(b"k", 1)
        store.compact()
    stems = {path.name.rstrip("0123456789") for path in (tmp_path / "s").iterdir()}
    assert {name for name in stems if not name.endswith((".sst", ".log"))} <= {
        "CURRENT",
        "IDENTITY",
        "LOCK",
        "LOG",
        "MANIFEST-",
        "OPTIONS-",
    }


def test_a_reopened_store_goes_on(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "s") as store:
        store.must_prewrite_put(b"k", b"abc", b"k", 5)
    with TikvStore(tmp_path / "s") as store:
        store.must_commit(b"k", 5, 6)
    assert read_family(tmp_path / "s", "write") == {versioned(6): b"P\x05v\x03abc"}


def test_a_killed_store_keeps_what_its_log_has(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from examples.tikv_store import TikvStore\n"
        "store = TikvStore(Path(sys.argv[1]))\n"
        "store.must_prewrite_put(b'k', b'abc', b'k', 5); store.must_commit(b'k', 5, 6)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert list((tmp_path / "s").glob("*.sst")) == []
    with TikvStore(tmp_path / "s"):
        pass
    assert read_family(tmp_path / "s", "write") == {versioned(6): b"P\x05v\x03abc"}


def locks_of(path: Path) -> dict[bytes, HeldLock]:
    found = {}
    for data_key, record in read_family(path, "lock").items():
        lock = parse_lock(record)
        kind, raw_key = chr(lock.lock_type), raw_key_of(data_key[1:])
        found[raw_key] = HeldLock(
            kind,
            lock.primary,
            lock.start_ts,
            lock.ttl,
            lock.short_value,
            lock.min_commit_ts,
            lock.use_async_commit,
        )
    return found


def without_long_values(history: History) -> dict[bytes, HeldLock]:
    return {
        raw_key: HeldLock(
            lock.kind,
            lock.primary,
            lock.start_ts,
            lock.ttl,
            lock.value if lock.value is None or len(lock.value) <= 255 else None,
            lock.min_commit_ts,
            lock.use_async_commit,
        )
        for raw_key, lock in history.locks.items()
    }


@settings(max_examples=25)
@given(histories(), st.booleans())
def test_a_store_holds_what_the_model_says(history: History, is_batched: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        with TikvStore(path) as store:
            if is_batched:
                with store.batched():
                    history.replay(store)
            else:
                history.replay(store)
        found = history_of(path)
        assert found.versions == {k: v for k, v in history.versions.items() if v}
        assert found.long_values == history.long_values
        assert locks_of(path) == without_long_values(history)
        assert all(split_key(key)[1] > 0 for key in read_family(path, "write"))
