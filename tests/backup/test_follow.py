"""Incremental backups find where to go on, and say why where they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bkctl.archive.report import Report
from bkctl.backup.backup import take_backup
from bkctl.codec.tso import compose
from bkctl.errors import UsageError
from examples.tikv_store import TikvStore
from tests.backup.helpers import Quiet, backup, files_of, request

DAY_MS = 86_400_000


def day(number: float) -> int:
    """A TSO on a day of the test's own calendar."""
    return compose(1_700_000_000_000 + int(number * DAY_MS))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def make_store(path: Path, store_id: int = 1) -> Path:
    with TikvStore(path, store_id=store_id) as tikv:
        for number in range(1, 9):
            key = b"key %d" % number
            tikv.must_prewrite_put(key, b"value", key, day(number) - 9)
            tikv.must_commit(key, day(number) - 9, day(number) - 5)
    return path


def follow(store: Path, repository: Path, end_ts: int, **options: Any) -> Report:
    return backup(store, repository, incremental=True, end_ts=end_ts, **options)


def test_a_chain_goes_on_where_it_ended(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    first = follow(store, repository, day(2))
    assert (first.start_ts, first.total_kvs, first.base) == (0, 2, "")
    assert "none yet" in first.note
    second = follow(store, repository, day(3))
    assert (second.start_ts, second.total_kvs, second.base) == (day(2), 1, first.name)
    third = follow(store, repository, day(6))
    assert (third.start_ts, third.total_kvs, third.base) == (day(3), 3, second.name)
    assert third.name.endswith("-incr")


def test_a_backup_that_failed_or_is_damaged_is_no_base(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    first = follow(store, repository, day(2))
    second = follow(store, repository, day(3))
    (repository / second.name / "backupmeta").write_bytes(b"\xff")
    third = follow(store, repository, day(4))
    assert third.base == first.name
    (repository / third.name / "backupmeta").unlink()
    assert follow(store, repository, day(5)).base == first.name


def test_a_chain_begins_anew_when_its_full_backup_is_old(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    kinds = [
        follow(store, repository, day(number), full_every=3 * 86400).start_ts == 0
        for number in range(1, 9)
    ]
    assert kinds == [True, False, False, True, False, False, True, False]


def test_what_ends_no_later_is_refused(store: Path, tmp_path: Path) -> None:
    follow(store, tmp_path / "r", day(3))
    for end_ts in (day(3), day(2)):
        with pytest.raises(UsageError, match="nothing is left to do"):
            follow(store, tmp_path / "r", end_ts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_key": b"key 3"}, "is limited to no keys in particular, and this one to"),
        ({"store_id": 7}, "is of store 1 .* and this is store 7"),
    ],
)
def test_another_range_or_store_is_refused(
    store: Path, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    follow(store, tmp_path / "r", day(3))
    with pytest.raises(UsageError, match=message):
        follow(store, tmp_path / "r", day(4), **options)


def test_a_raw_backup_is_no_base(store: Path, tmp_path: Path) -> None:
    backup(store, tmp_path / "r", end_ts=day(1), is_raw=True, name="raw")
    with pytest.raises(UsageError, match="raw holds raw data"):
        follow(store, tmp_path / "r", day(4))


def test_stores_side_by_side_each_follow_their_own(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / f"store-{number}", number) for number in (1, 2)]
    for number, store in enumerate(stores):
        backup(store, tmp_path / "r", end_ts=day(2 + number), name=f"full-{number}")
    for number, store in enumerate(stores):
        report = follow(store, tmp_path / "r", day(5), name=f"incr-{number}")
        assert report.base == f"full-{number}"


@pytest.mark.parametrize("options", [{"start_ts": 5}, {"is_raw": True}])
def test_options_that_contradict_it_are_refused(
    store: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--incremental cannot go with"):
        follow(store, tmp_path / "r", day(4), **options)


def test_a_window_that_gc_reaches_into_is_refused(store: Path, tmp_path: Path) -> None:
    follow(store, tmp_path / "r", day(3), gc_safe_point=day(3))
    with pytest.raises(UsageError, match="take a full backup"):
        follow(store, tmp_path / "r", day(5), gc_safe_point=day(3) + 1)
    assert follow(store, tmp_path / "r", day(5), gc_safe_point=day(3)).start_ts == day(3)
    with pytest.raises(UsageError, match="give a later --end-ts"):
        backup(store, tmp_path / "r", end_ts=day(6), gc_safe_point=day(6) + 1, name="full")


def test_the_one_begun_last_is_taken_up_again(store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "r"
    follow(store, repository, day(2))
    stopped = take_backup(
        request(store, repository, incremental=True, end_ts=day(4)), Quiet(), lambda: True
    )
    assert stopped.status == "cancelled"
    resumed = follow(store, repository, day(5), resume_newest=True)
    assert (resumed.status, resumed.name, resumed.end_ts) == ("ok", stopped.name, day(4))
    assert sum(file.total_kvs for file in files_of(repository, resumed.name)) == 2
    # With nothing unfinished it is a new one.
    assert follow(store, repository, day(5), resume_newest=True).end_ts == day(5)
