"""Locks count as what their transactions came to, where the store knows it."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.errors import CorruptionError, KeyIsLockedError
from bkctl.mvcc.decide import LockDecider
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX, split_versioned
from bkctl.mvcc.lock import DecidedLock
from bkctl.mvcc.scan import EntryScanner
from bkctl.store.database import Database
from bkctl.store.source import Source, SourceOptions
from examples.tikv_store import TikvStore
from tests.histories import histories
from tests.model import MAX_TS, SHORT_VALUE_MAX, HeldLock, History, Version

Scanned = tuple[list[tuple[bytes, int]], int, list[DecidedLock]]
UNDECIDED = -1


def scan(source: Source, start_ts: int, end_ts: int) -> Scanned:
    """(raw key, commit_ts) of what is emitted, how many long values, and the locks decided."""
    database = Database(source.db_dir, source.path)
    try:
        scanner = EntryScanner(database, DATA_PREFIX, DATA_END, start_ts, end_ts)
        locks = scanner.check_locks(LockDecider(lambda: [database]))
        emitted: list[tuple[bytes, int]] = []
        long_values = 0
        while (batch := scanner.scan_entries()) is not None:
            for segment in batch.segments:
                emitted += map(split_versioned, segment.keys.tolist())
                for keys, _ in scanner.long_values.fetch(segment.default_keys):
                    long_values += len(keys)
        del scanner
        return emitted, long_values, locks
    finally:
        database.close()


def end_of(history: History, lock: HeldLock) -> int | None:
    """A lock's commit_ts by its primary's versions; None if rolled back, else UNDECIDED."""
    for commit_ts, version in history.versions.get(lock.primary, {}).items():
        if version.start_ts == lock.start_ts:
            return None if version.kind == "R" else commit_ts
        if commit_ts == lock.start_ts and version.has_overlapped_rollback:
            return None
    return UNDECIDED


def resolved(history: History, end_ts: int) -> History | None:
    """The history once the locks that block are resolved; None where one is undecided."""
    after = copy.deepcopy(history)
    for blocking in history.blocking_locks(end_ts):
        lock = after.locks.pop(blocking.raw_key)
        commit_ts = end_of(history, lock)
        if commit_ts == UNDECIDED:
            return None
        if commit_ts is not None:
            is_short = lock.value is not None and len(lock.value) <= SHORT_VALUE_MAX
            version = Version(lock.kind, lock.start_ts, lock.value if is_short else None)
            after.versions.setdefault(blocking.raw_key, {})[commit_ts] = version
    return after


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(histories(), st.data())
def test_a_scan_shows_what_resolving_the_locks_would_have_left(
    history: History, data: st.DataObject
) -> None:
    moments = sorted({0, *history.timestamps(), MAX_TS - 1})
    with tempfile.TemporaryDirectory() as folder:
        with TikvStore(Path(folder) / "store") as tikv:
            history.replay(tikv)
        with Source(SourceOptions(tikv.path, work_dir=Path(folder))) as source:
            for _ in range(3):
                start_ts, end_ts = sorted(
                    (data.draw(st.sampled_from(moments)), data.draw(st.sampled_from(moments)))
                )
                after = resolved(history, end_ts)
                if after is None:
                    with pytest.raises(KeyIsLockedError, match="primary"):
                        scan(source, start_ts, end_ts)
                    continue
                expected = after.expected(start_ts, end_ts)
                emitted, long_values, locks = scan(source, start_ts, end_ts)
                assert emitted == [(entry[0], entry[1]) for entry in expected.entries]
                assert long_values == expected.default_kvs
                assert [lock.key for lock in locks] == [
                    lock.raw_key for lock in history.blocking_locks(end_ts)
                ]


def test_each_end_of_a_transaction(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        for number, name in enumerate([b"committed", b"rolled-back", b"later", b"long"], 1):
            value = b"v" * 300 if name == b"long" else b"v"
            start_ts = number * 10
            tikv.must_prewrite_put(b"p-" + name, value, b"p-" + name, start_ts)
            tikv.must_prewrite_put(b"s-" + name, value, b"p-" + name, start_ts)
            if name == b"rolled-back":
                tikv.must_rollback(b"p-" + name, start_ts)
            else:
                tikv.must_commit(b"p-" + name, start_ts, 90 if name == b"later" else start_ts + 5)
    with Source(SourceOptions(tmp_path / "store")) as source:
        emitted, long_values, locks = scan(source, 0, 50)
    assert emitted == [(b"p-committed", 15), (b"p-long", 45), (b"s-committed", 15), (b"s-long", 45)]
    assert long_values == 2
    assert locks == [
        DecidedLock(b"s-committed", b"p-committed", 10, 15),
        DecidedLock(b"s-later", b"p-later", 30, 90),
        DecidedLock(b"s-long", b"p-long", 40, 45),
        DecidedLock(b"s-rolled-back", b"p-rolled-back", 20, None),
    ]


def test_a_delete_hides_what_was_there(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.must_prewrite_put(b"key", b"old", b"key", 10)
        tikv.must_commit(b"key", 10, 11)
        tikv.must_prewrite_put(b"primary", b"v", b"primary", 20)
        tikv.must_prewrite_delete(b"key", b"primary", 20)
        tikv.must_commit(b"primary", 20, 21)
    with Source(SourceOptions(tmp_path / "store")) as source:
        assert scan(source, 0, 30)[0] == [(b"primary", 21)]
        assert scan(source, 15, 30)[0] == [(b"key", 21), (b"primary", 21)]


@pytest.mark.parametrize(
    ("primary", "message"),
    [(b"here", "its primary is locked too"), (b"elsewhere", "holds no trace of its primary")],
)
def test_what_is_undecided_still_blocks(primary: bytes, message: str, tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.must_prewrite_put(b"a", b"v", primary, 10)
        tikv.must_prewrite_put(b"here", b"v", b"here", 10)
    with (
        Source(SourceOptions(tmp_path / "store")) as source,
        pytest.raises(KeyIsLockedError, match=message),
    ):
        scan(source, 0, 30)


def test_many_locks_between_two_records(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv, tikv.batched():
        tikv.write_record(b"primary", 20, b"P\x0av\x01x")
        for number in range(5000):
            tikv.must_prewrite_put(b"k%05d" % number, b"v", b"primary", 10)
    with Source(SourceOptions(tmp_path / "store")) as source:
        emitted, _, locks = scan(source, 0, 30)
    assert emitted == [*((b"k%05d" % n, 20) for n in range(5000)), (b"primary", 20)]
    assert len(locks) == 5000
    assert locks[0] == replace(locks[-1], key=b"k00000")


def test_a_damaged_record_of_the_primary_is_corruption(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        tikv.must_prewrite_put(b"a", b"v", b"p", 10)
        tikv.write_record(b"p", 20, b"X\x0a")
    with (
        Source(SourceOptions(tmp_path / "store")) as source,
        pytest.raises(CorruptionError, match="unknown type"),
    ):
        scan(source, 0, 30)
