"""Prune on storages of every kind: what goes, what stays, what is left alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.archive.backup_dir import BackupDir, list_backups
from bkctl.backup.resume import check_same_settings
from bkctl.errors import UsageError
from bkctl.repository.prune import DEFAULT_LEFTOVERS_AFTER, Kind, PrunePlan, carry_out, plan_prune
from bkctl.repository.retention import Policy
from bkctl.storage.base import Storage
from bkctl.storage.local import LocalStorage
from bkctl.storage.url import open_storage, parse_storage
from tests.repository.repositories import CONTENT, claim, publish, save
from tests.repository.test_retention import ts
from tests.storage.servers import gcs_server, s3_server

pytestmark = pytest.mark.xdist_group("object-stores")

KEYS = "access-key=a&secret-access-key=b&region=us-east-1"
WEEK = 7 * 86400
LAST = Policy(last=1)


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        gcs, s3 = stack.enter_context(gcs_server()), stack.enter_context(s3_server())
        yield {
            "gcs": f"gcs://bucket/{{}}?endpoint={gcs}",
            "s3": f"s3://bucket/{{}}?endpoint={s3}&{KEYS}",
        }


@pytest.fixture(params=["local", "gcs", "s3"])
def storage(
    request: pytest.FixtureRequest, urls: dict[str, str], tmp_path: Path
) -> Iterator[Storage]:
    kind = str(request.param)
    url = str(tmp_path / "root") if kind == "local" else urls[kind].format(uuid4().hex)
    with open_storage(parse_storage(url)) as opened:
        yield opened


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "root")


def prune(
    storage: Storage,
    policy: Policy = LAST,
    leftovers_after: int = DEFAULT_LEFTOVERS_AFTER,
    later: float = 0.0,
) -> PrunePlan:
    plan = plan_prune(storage, policy, leftovers_after, time.time() + later)
    done = list(carry_out(storage, plan, lambda: None))
    assert done == list(plan.removals)
    return plan


def folders(storage: Storage) -> dict[str, bool]:
    return {entry.name: entry.complete for entry in list_backups(storage)}


def test_old_chains_go_whole_and_the_newest_stays_whole(storage: Storage, tmp_path: Path) -> None:
    publish(storage, tmp_path, "full1", 0, ts(1))
    publish(storage, tmp_path, "incr1", ts(1), ts(2))
    publish(storage, tmp_path, "full2", 0, ts(3), files=20)
    publish(storage, tmp_path, "incr2", ts(3), ts(4))
    storage.write("notes/readme", b"not ours")
    storage.write("top", b"not ours")
    plan = prune(storage)
    assert folders(storage) == {"full2": True, "incr2": True, "notes": False}
    assert [d.name for d in plan.removals] == ["incr1", "full1"]
    for decision in plan.removals:
        assert decision.objects == 5
        assert decision.size > 2 * len(CONTENT)
    left = {info.name for info in storage.list()}
    assert {"notes/readme", "top"} <= left
    assert not any(name.startswith(("full1", "incr1")) for name in left)
    assert prune(storage).removals == ()
    assert {info.name for info in storage.list()} == left


def test_leftovers_go_when_they_are_old(storage: Storage, tmp_path: Path) -> None:
    publish(storage, tmp_path, "full1", 0, ts(1))
    publish(storage, tmp_path, "full2", 0, ts(2))
    save(claim(storage, "left", ts(1), ts(3)), tmp_path, "1_1_1_0_1_write.sst")
    storage.write("left/checkpoint/x.json", b"{}")
    plan = prune(storage)
    (leftover,) = plan.of(Kind.LEFTOVER)
    assert (leftover.is_kept, leftover.objects) == (True, 3)
    assert "begun by host h, pid 1; can be resumed" in leftover.reasons[0]
    # What it would build on if it were resumed waits with it.
    assert folders(storage) == {"full1": True, "full2": True, "left": False}
    prune(storage, later=WEEK + 60)
    assert folders(storage) == {"full2": True}


def test_a_half_deleted_backup_goes_and_is_not_resumed(storage: Storage, tmp_path: Path) -> None:
    publish(storage, tmp_path, "full", 0, ts(1))
    publish(storage, tmp_path, "half", 0, ts(0))
    storage.write("half/backup.lock", json.dumps({"deleted": True}).encode())
    storage.delete("half/backupmeta")
    with pytest.raises(UsageError, match="half is half deleted; let bkctl prune finish that"):
        check_same_settings(BackupDir(storage, "half"), {})
    with pytest.raises(UsageError, match="unfinished"):
        BackupDir(storage, "half").claim(b"{}")
    plan = prune(storage)
    assert [decision.name for decision in plan.of(Kind.HALF_DELETED)] == ["half"]
    assert folders(storage) == {"full": True}


def test_a_mark_on_a_backup_that_stays_does_no_harm(local: LocalStorage, tmp_path: Path) -> None:
    publish(local, tmp_path, "full", 0, ts(1))
    local.write("full/backup.lock", json.dumps({"deleted": True}).encode())
    assert prune(local).removals == ()
    assert folders(local) == {"full": True}


@pytest.mark.parametrize("lock", [None, b"", b"not JSON", b"[]"])
def test_a_backup_of_another_program_is_deleted_like_ours(
    local: LocalStorage, tmp_path: Path, lock: bytes | None
) -> None:
    publish(local, tmp_path, "old", 0, ts(1))
    publish(local, tmp_path, "new", 0, ts(2))
    for name in ("old", "new"):
        local.delete(f"{name}/report.json")
        local.delete(f"{name}/backup.lock")
        if lock is not None:
            local.create(f"{name}/backup.lock", lock)
    prune(local)
    # The reports told the store; without them, the files' names do.
    assert folders(local) == {"new": True}


def test_a_damaged_backup_stays_and_is_told_of(local: LocalStorage, tmp_path: Path) -> None:
    publish(local, tmp_path, "full1", 0, ts(1))
    publish(local, tmp_path, "full2", 0, ts(2))
    local.write("full1/backupmeta", b"\xff" * 50)
    plan = prune(local)
    (damaged,) = plan.of(Kind.DAMAGED)
    assert (damaged.name, damaged.is_kept) == ("full1", True)
    assert "damaged, never removed" in damaged.reasons[0]
    assert folders(local) == {"full1": True, "full2": True}


def test_temporary_files_go_but_not_from_folders_of_others(
    local: LocalStorage, tmp_path: Path
) -> None:
    publish(local, tmp_path, "full", 0, ts(1))
    local.write("notes/readme", b"")
    root = tmp_path / "root"
    old, new = root / ".bkctl-tmp-old", root / ".bkctl-tmp-new"
    (root / "empty").mkdir()
    ours = [root / folder / ".bkctl-tmp-1" for folder in ("full", "empty")]
    theirs = root / "notes" / ".bkctl-tmp-1"
    for path in (old, new, *ours, theirs):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    prune(local)
    assert [path.exists() for path in (old, new, *ours, theirs)] == [
        *(False, True, False, False),
        True,
    ]
    assert not (root / "empty").exists()


def test_what_is_no_repository_is_refused(local: LocalStorage, tmp_path: Path) -> None:
    publish(local, tmp_path, "full", 0, ts(1))
    inner = LocalStorage(tmp_path / "root" / "full")
    with pytest.raises(UsageError, match="is a single backup and no repository"):
        plan_prune(inner, LAST, 0, time.time())
    with pytest.raises(UsageError, match="nothing says what to keep"):
        plan_prune(local, Policy(), 0, time.time())


class Stopped(Exception):
    pass


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=8), st.integers(1, 3))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dry_run_tells_what_is_then_done(
    tmp_path: Path, ends: list[tuple[bool, int]], last: int
) -> None:
    storage = LocalStorage(tmp_path / uuid4().hex)
    hour = 0
    storage.write("top", b"")
    for number, (is_full, hours) in enumerate(ends):
        start = 0 if is_full else ts(hour)
        hour += hours
        publish(storage, tmp_path, f"b{number}", start, ts(hour), files=1)
    policy = Policy(last=last, daily=last)
    told = plan_prune(storage, policy, 0, time.time())
    again = plan_prune(storage, policy, 0, time.time())
    assert told == again
    before = folders(storage)
    done = prune(storage, policy)
    assert done == told
    assert before.keys() - folders(storage).keys() == {d.name for d in told.removals}
    assert prune(storage, policy).removals == ()


def test_a_check_that_fails_stops_it(local: LocalStorage, tmp_path: Path) -> None:
    for number in range(1, 5):
        publish(local, tmp_path, f"b{number}", 0, ts(number))
    left = [2]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    plan = plan_prune(local, LAST, 0, time.time())
    with pytest.raises(Stopped):
        list(carry_out(local, plan, check))
    assert folders(local) == {"b1": True, "b4": True}
