"""Backups that meet locks: waiting for them, and deciding them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bkctl.backup import replan
from bkctl.backup.backup import take_backup
from bkctl.backup.wait import Patience
from bkctl.commands.options import load_region_map
from bkctl.mvcc.lock import DecidedLock
from bkctl.regions.region_map import RegionMap, Skipped
from bkctl.store.source import Source
from examples.tikv_store import TikvStore
from tests.backup.helpers import Quiet, backup, files_of, request


class Time:
    """A clock that moves when somebody waits, and then does what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, object]] = []

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        while self.due and self.due[0][0] <= self.now:
            action = self.due.pop(0)[1]
            assert callable(action)
            action()


def two_regions(tikv: TikvStore, folder: Path) -> None:
    tikv.set_regions([(1, b"", b"m", 1), (2, b"m", b"", 1)])
    tikv.write_region_map(folder / "store.regions.json")


def from_store(source: Source) -> tuple[RegionMap, list[Skipped]]:
    return load_region_map("store", source, None)


def test_locks_are_waited_for(tmp_path: Path) -> None:
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        for key in (b"a", b"z"):
            tikv.must_prewrite_put(key, b"v", key, 10)
        tikv.must_commit(b"a", 10, 20)
        time.due = [(11.0, lambda: tikv.must_commit(b"z", 10, 20))]
        report = backup(
            tikv.path,
            tmp_path / "r",
            end_ts=100,
            name="b",
            wait_locks=Patience(30, time.clock, time.pause),
        )
    assert (report.status, report.ranges.done, report.total_kvs) == ("ok", 2, 2)
    assert 11 <= time.now < 14
    assert len(files_of(tmp_path / "r", "b")) == 2


def test_patience_ends(tmp_path: Path) -> None:
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        tikv.must_prewrite_put(b"z", b"v", b"z", 10)
    listener = Quiet()
    patience = Patience(5, time.clock, time.pause)
    asked = request(tikv.path, tmp_path / "r", end_ts=100, name="b", wait_locks=patience)
    report = take_backup(asked, listener)
    assert [error.kind for error in report.errors] == ["key_is_locked"]
    assert (report.status, report.ranges.done) == ("partial", 1)
    assert 5 <= time.now < 6
    assert len(listener.failed) == 4


def test_waiting_can_be_interrupted(tmp_path: Path) -> None:
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        tikv.must_prewrite_put(b"z", b"v", b"z", 10)
    patience = Patience(1000, time.clock, time.pause)
    asked = request(tikv.path, tmp_path / "r", end_ts=100, name="b", wait_locks=patience)
    report = take_backup(asked, Quiet(), lambda: time.now > 3)
    assert report.status == "cancelled"
    assert time.now < 4


def test_a_region_that_changes_meanwhile_fails(tmp_path: Path) -> None:
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        tikv.must_prewrite_put(b"z", b"v", b"z", 10)
        time.due = [(1.0, lambda: tikv.set_regions([(1, b"", b"m", 1), (2, b"m", b"zz", 2)]))]
        report = backup(
            tikv.path,
            tmp_path / "r",
            end_ts=100,
            name="b",
            wait_locks=Patience(30, time.clock, time.pause),
            load_regions=from_store,
        )
    assert [error.kind for error in report.errors] == ["epoch_not_match"]


def test_a_region_that_splits_meanwhile_is_read_as_its_parts(tmp_path: Path) -> None:
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        tikv.must_prewrite_put(b"z", b"v", b"z", 10)
        tikv.must_prewrite_put(b"n", b"v", b"n", 10)
        tikv.must_commit(b"n", 10, 20)
        parts = [(1, b"", b"m", 1), (2, b"m", b"p", 2), (3, b"p", b"", 2)]
        time.due = [
            (1.0, lambda: tikv.set_regions(parts)),
            (1.0, lambda: tikv.must_commit(b"z", 10, 20)),
        ]
        report = backup(
            tikv.path,
            tmp_path / "r",
            end_ts=100,
            name="b",
            wait_locks=Patience(30, time.clock, time.pause),
            load_regions=from_store,
        )
    assert (report.status, report.total_kvs) == ("ok", 2)
    assert (report.ranges.total, report.ranges.done, report.ranges.failed) == (2, 2, 0)


def test_a_region_that_leaves_meanwhile_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone by then, but the store is no longer to be read for it."""
    monkeypatch.setattr(replan, "_PAUSE_SECONDS", 0)
    time = Time()
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        tikv.must_prewrite_put(b"z", b"v", b"z", 10)
        time.due = [
            (1.0, lambda: tikv.set_regions([(1, b"", b"m", 1)])),
            (1.0, lambda: tikv.must_commit(b"z", 10, 20)),
        ]
        report = backup(
            tikv.path,
            tmp_path / "r",
            end_ts=100,
            name="b",
            wait_locks=Patience(30, time.clock, time.pause),
        )
    assert [(e.region_id, e.kind) for e in report.errors] == [(2, "region_not_found")]
    assert not (tmp_path / "r" / "b" / "backupmeta").exists()


@pytest.fixture
def half_committed(tmp_path: Path) -> Path:
    """A transaction whose primary is committed at 20 in one region, its other key still locked."""
    with TikvStore(tmp_path / "store") as tikv:
        two_regions(tikv, tmp_path)
        tikv.must_prewrite_put(b"a", b"v", b"a", 10)
        tikv.must_prewrite_put(b"z", b"w", b"a", 10)
        tikv.must_commit(b"a", 10, 20)
        tikv.must_prewrite_put(b"b", b"v", b"b", 60)
        tikv.must_commit(b"b", 60, 61)
    return tikv.path


def test_locks_are_decided_and_reported(half_committed: Path, tmp_path: Path) -> None:
    report = backup(half_committed, tmp_path / "r", end_ts=50, name="b", resolve_locks=True)
    assert (report.status, report.total_kvs) == ("ok", 2)
    assert report.decided_locks == (DecidedLock(b"z", b"a", 10, 20),)
    stored = json.loads((tmp_path / "r/b/report.json").read_bytes())
    assert stored["decided_locks"] == [
        {"key": "7A", "primary": "61", "start_ts": 10, "commit_ts": 20}
    ]
    without = backup(half_committed, tmp_path / "r", end_ts=50, name="c")
    assert [error.kind for error in without.errors] == ["key_is_locked"]


def test_the_primary_may_lie_where_nothing_changed(half_committed: Path, tmp_path: Path) -> None:
    options = {"end_ts": 70, "resolve_locks": True, "name": "b"}
    report = backup(half_committed, tmp_path / "r", start_ts=55, **options)
    # Committed at 20, so it belongs to an earlier window; but it is decided, and no longer blocks.
    assert (report.status, report.total_kvs) == ("ok", 1)
    assert [lock.commit_ts for lock in report.decided_locks] == [20]


def test_a_resumed_run_keeps_what_was_decided(half_committed: Path, tmp_path: Path) -> None:
    options = {"end_ts": 50, "resolve_locks": True, "name": "b", "jobs": 1, "batch_size": 1}
    with TikvStore(half_committed) as tikv:
        tikv.must_prewrite_put(b"c", b"v", b"c", 40)
    failed = backup(half_committed, tmp_path / "r", **options)
    assert (failed.status, failed.ranges.done) == ("partial", 1)
    with TikvStore(half_committed) as tikv:
        tikv.must_commit(b"c", 40, 45)
    resumed = backup(half_committed, tmp_path / "r", resume=True, **options)
    assert (resumed.status, resumed.resumed, resumed.total_kvs) == ("ok", 1, 3)
    assert resumed.decided_locks == (DecidedLock(b"z", b"a", 10, 20),)
