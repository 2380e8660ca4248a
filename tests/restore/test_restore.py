"""Restores of real backups: exact by the oracles, and nothing changed, left over or half done."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bkctl.errors import StorageError, UsageError
from bkctl.mvcc.keys import decode_data_key
from bkctl.restore.files import How
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import (
    FetchProgress,
    RestoreResult,
    plan_restore,
    restore,
)
from bkctl.storage.local import LocalStorage
from bkctl.storage.url import parse_storage
from bkctl.store.database import Database
from examples.make_store import END_TS
from tests.backup.helpers import backup, regions_from
from tests.conftest import SampleStore
from tests.oracles import OracleLine, bench_tool, read_oracle, require_shared, require_tool

STORES = ["mvcc-short", "mvcc-long"]
CUTS = (0, 440000000000333333, 440000000000500000, 440000000001000000)
END = CUTS[-1]


def restored(repository: Path, target: Path, **options: Any) -> RestoreResult:
    return restore(RestoreRequest(parse_storage(str(repository)), target, **options))


def chain(name: str, repository: Path) -> None:
    for start_ts, end_ts in itertools.pairwise(CUTS):
        report = backup(
            require_shared() / "stores" / name,
            repository,
            start_ts=start_ts,
            end_ts=end_ts,
            name=f"to-{end_ts}",
            sst_max_size=200_000,
        )
        assert report.status == "ok"


def full(repository: Path, name: str = "mvcc-short", **options: Any) -> None:
    backup(require_shared() / "stores" / name, repository, end_ts=END, name="b", **options)


def reference_sums(store: str, target: Path, end_ts: int) -> list[int]:
    """What the native scan of a store counts as of a timestamp."""
    shutil.copy(require_shared() / "stores" / f"{store}.regions.json", f"{target}.regions.json")
    out = target.parent / f"{target.name}.scan"
    told = subprocess.run(
        [bench_tool("refscan"), target, out, "0", str(end_ts), "1", "none"],
        capture_output=True,
        check=True,
    )
    return [int(word) for word in told.stdout.split()[:3]]


def probe(name: str, end_ts: int) -> OracleLine:
    lines = read_oracle(require_shared() / "stores" / f"{name}.oracle")
    return next(line for line in lines if (line.start_ts, line.end_ts) == (0, end_ts))


def assert_as_of(name: str, target: Path, end_ts: int) -> None:
    line = probe(name, end_ts)
    assert reference_sums(name, target, end_ts) == [line.kvs, line.bytes, line.crc64xor]


def fingerprint(folder: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Content, inode, time and mode of all files below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).digest(),
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def keys_of(target: Path, family: str, *, is_raw: bool = False) -> list[bytes]:
    database = Database(target, target)
    try:
        records = database.scan(family, b"", b"\xff").take(1 << 30)
    finally:
        database.close()
    return [key[1:] if is_raw else decode_data_key(key[:-8]) for key, _ in records]


@pytest.mark.parametrize("name", STORES)
def test_a_full_backup_is_restored_exactly(name: str, tmp_path: Path) -> None:
    full(tmp_path / "repo", name)
    result = restored(tmp_path / "repo", tmp_path / "db")
    assert result.findings == ()
    assert_as_of(name, tmp_path / "db", END)


@pytest.mark.parametrize("name", STORES)
def test_a_chain_is_restored_exactly_as_of_each_of_its_ends(name: str, tmp_path: Path) -> None:
    chain(name, tmp_path / "repo")
    before = fingerprint(tmp_path / "repo")
    for number, end_ts in enumerate(CUTS[1:], start=1):
        target = tmp_path / f"db-{end_ts}"
        result = restored(tmp_path / "repo", target, at=end_ts)
        assert result.plan.end_ts == end_ts
        assert len(result.plan.chain) == number
        # Deletes have come along: the sums count no key that was deleted since.
        assert_as_of(name, target, end_ts)
    assert fingerprint(tmp_path / "repo") == before


def test_the_backup_keeps_its_files_when_the_restored_store_is_rewritten(tmp_path: Path) -> None:
    ldb = require_tool("ldb")
    chain("mvcc-short", tmp_path / "repo")
    before = fingerprint(tmp_path / "repo")
    restored(tmp_path / "repo", tmp_path / "db")
    subprocess.run(
        [ldb, f"--db={tmp_path / 'db'}", "--column_family=write", "compact"],
        capture_output=True,
        check=True,
    )
    assert_as_of("mvcc-short", tmp_path / "db", END)
    assert fingerprint(tmp_path / "repo") == before


def test_a_time_between_gives_the_newest_backup_before_it(tmp_path: Path) -> None:
    chain("mvcc-short", tmp_path / "repo")
    plan = plan_restore(
        RestoreRequest(parse_storage(str(tmp_path / "repo")), tmp_path / "db", at=END - 1)
    )
    assert plan.end_ts == CUTS[2]
    assert not (tmp_path / "db").exists()


def test_a_real_raw_backup_is_restored_for_older_tools(tmp_path: Path) -> None:
    ldb = require_tool("ldb")
    real = tmp_path / "real"
    shutil.copytree(require_shared() / "br-raw-v5.2.1", real)
    before = fingerprint(real)
    restored(real, tmp_path / "db")
    told = subprocess.run([ldb, f"--db={tmp_path / 'db'}", "scan"], capture_output=True, check=True)
    assert len(told.stdout.splitlines()) == 1000
    assert fingerprint(real) == before


@pytest.mark.parametrize("edge", [0, 250, 1000])
def test_a_window_of_a_raw_backup_keeps_its_keys_only(edge: int, tmp_path: Path) -> None:
    real = require_shared() / "br-raw-v5.2.1"
    restored(real, tmp_path / "all")
    keys = keys_of(tmp_path / "all", "default", is_raw=True)
    start_key, end_key = keys[edge // 4], keys[min(999, edge + 100)]
    result = restored(real, tmp_path / "db", start_key=start_key, end_key=end_key)
    assert result.plan.partial + result.plan.left_out > 0
    assert keys_of(tmp_path / "db", "default", is_raw=True) == [
        key for key in keys if start_key <= key < end_key
    ]


@pytest.mark.parametrize("name", STORES)
def test_a_window_of_a_chain_keeps_its_keys_in_both_families(name: str, tmp_path: Path) -> None:
    chain(name, tmp_path / "repo")
    restored(tmp_path / "repo", tmp_path / "all")
    keys = sorted(set(keys_of(tmp_path / "all", "write")))
    start_key, end_key = keys[len(keys) // 3], keys[2 * len(keys) // 3]
    result = restored(tmp_path / "repo", tmp_path / "db", start_key=start_key, end_key=end_key)
    assert dict(result.counts)[How.REWRITTEN] == result.plan.partial > 0
    assert result.plan.left_out > 0
    for family in ("write", "default"):
        assert keys_of(tmp_path / "db", family) == [
            key for key in keys_of(tmp_path / "all", family) if start_key <= key < end_key
        ]


def test_files_that_cannot_be_linked_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    chain("mvcc-short", tmp_path / "repo")
    before = fingerprint(tmp_path / "repo")
    monkeypatch.setattr(os, "link", refuse)
    result = restored(tmp_path / "repo", tmp_path / "db", jobs=3)
    assert dict(result.counts)[How.FETCHED] == len(result.plan.files)
    assert_as_of("mvcc-short", tmp_path / "db", END)
    assert fingerprint(tmp_path / "repo") == before
    sources = {inode for _, inode, _, _ in before.values()}
    assert not sources & {path.stat().st_ino for path in (tmp_path / "db").iterdir()}


def test_files_that_may_not_be_written_are_copied(
    sample_store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    result = restored(tmp_path / "repo", tmp_path / "db")
    assert dict(result.counts)[How.LINKED] == 0


def sample_backup(store: SampleStore, repository: Path) -> None:
    report = backup(
        store.path,
        repository,
        end_ts=END_TS,
        name="b",
        load_regions=regions_from(store.region_map),
    )
    assert report.status == "ok"
    assert report.files > 3


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_flip, "SHA-256"),
        (damage_cut, "bytes, backupmeta says"),
        (Path.unlink, "is missing"),
    ],
)
def test_damage_is_listed_and_nothing_is_left_behind(
    damage: Callable[[Path], None], told: str, sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    victims = sorted((tmp_path / "repo" / "b").glob("*.sst"))[:2]
    for victim in victims:
        damage(victim)
    before = sorted(tmp_path.iterdir())
    result = restored(tmp_path / "repo", tmp_path / "deep" / "er" / "db")
    assert {finding.file for finding in result.findings} == {f"b/{path.name}" for path in victims}
    assert all(told in finding.what for finding in result.findings)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_description_is_damage(sample_store: SampleStore, tmp_path: Path) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    (tmp_path / "repo" / "b" / "backupmeta").write_bytes(b"\xff")
    result = restored(tmp_path / "repo", tmp_path / "db", name="b")
    assert [finding.file for finding in result.findings] == ["b/backupmeta"]
    assert not (tmp_path / "db").exists()


def test_a_changed_description_is_damage(sample_store: SampleStore, tmp_path: Path) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    meta = tmp_path / "repo" / "b" / "backupmeta"
    meta.write_bytes(meta.read_bytes().replace(b"bkctl ", b"blctl "))
    result = restored(tmp_path / "repo", tmp_path / "db")
    assert [finding.file for finding in result.findings] == ["b/backupmeta"]


def test_files_that_are_too_many_are_no_hindrance(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    (tmp_path / "repo" / "b" / "notes.txt").write_text("mine")
    assert restored(tmp_path / "repo", tmp_path / "db").findings == ()


@pytest.mark.parametrize("kind", ["zeros", "in its first block", "in its properties"])
def test_without_verifying_a_file_that_cannot_be_taken_in_is_still_found(
    kind: str, sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    victim = min((tmp_path / "repo" / "b").glob("*.sst"))
    content = bytearray(victim.read_bytes())
    if kind == "zeros":
        content = bytearray(len(content))
    else:
        content[20 if "first" in kind else -300] ^= 1
    victim.write_bytes(content)
    result = restored(tmp_path / "repo", tmp_path / "db", verify=False)
    (finding,) = result.findings
    assert finding.file == f"b/{victim.name}"
    assert str(tmp_path) not in finding.what
    assert not list(tmp_path.glob("db*"))


def test_without_verifying_files_are_not_read(tmp_path: Path) -> None:
    full(tmp_path / "repo")
    damage_flip(max((tmp_path / "repo" / "b").glob("*.sst")))
    assert restored(tmp_path / "repo", tmp_path / "db", verify=False).findings == ()


def test_an_empty_target_is_taken_and_a_full_one_refused(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    (tmp_path / "db").mkdir()
    assert restored(tmp_path / "repo", tmp_path / "db").findings == ()
    content = fingerprint(tmp_path / "db")
    with pytest.raises(UsageError, match="not an empty directory"):
        restored(tmp_path / "repo", tmp_path / "db")
    assert fingerprint(tmp_path / "db") == content
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not an empty directory"):
        restored(tmp_path / "repo", tmp_path / "file")


def test_a_target_in_the_repository_is_refused(sample_store: SampleStore, tmp_path: Path) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    for target in (tmp_path / "repo" / "db", tmp_path / "link" / "db"):
        with pytest.raises(UsageError, match="in the repository"):
            restored(tmp_path / "repo", target)


def test_a_target_that_is_filled_meanwhile_is_left_alone(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")

    def fill(progress: FetchProgress) -> None:
        (tmp_path / "db").mkdir(exist_ok=True)
        (tmp_path / "db" / "mine").touch()

    with pytest.raises(StorageError, match="filled meanwhile"):
        restore(RestoreRequest(parse_storage(str(tmp_path / "repo")), tmp_path / "db"), fill)
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["mine"]
    assert not list(tmp_path.glob("*bkctl-tmp*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
def test_what_ends_it_early_leaves_nothing(
    error: type[BaseException], sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    before = sorted(tmp_path.iterdir())

    def stop(progress: FetchProgress) -> None:
        assert list(tmp_path.glob("db.bkctl-tmp-*/files/*.sst"))
        raise error("stop")

    with pytest.raises(error):
        restore(RestoreRequest(parse_storage(str(tmp_path / "repo")), tmp_path / "db"), stop)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failing_storage_ends_it_and_leaves_nothing(
    sample_store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    opened = LocalStorage.open

    def fail(self: LocalStorage, name: str) -> Any:
        if name.endswith(".sst"):
            raise StorageError(f"{name}: went away")
        return opened(self, name)

    monkeypatch.setattr(LocalStorage, "open", fail)
    with pytest.raises(StorageError, match="went away"):
        restored(tmp_path / "repo", tmp_path / "db")
    assert not list(tmp_path.glob("db*"))


def test_no_symbolic_link_of_a_backup_is_followed(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    victim = min((tmp_path / "repo" / "b").glob("*.sst"))
    shutil.move(victim, tmp_path / "elsewhere.sst")
    victim.symlink_to(tmp_path / "elsewhere.sst")
    with pytest.raises(StorageError, match="symbolic link"):
        restored(tmp_path / "repo", tmp_path / "db", verify=False)


def test_progress_counts_all_files(sample_store: SampleStore, tmp_path: Path) -> None:
    sample_backup(sample_store, tmp_path / "repo")
    told: list[FetchProgress] = []
    restore(RestoreRequest(parse_storage(str(tmp_path / "repo")), tmp_path / "db"), told.append)
    assert [progress.files for progress in told] == list(range(1, told[0].total_files + 1))
    assert told[-1].size == told[-1].total_size > 0
