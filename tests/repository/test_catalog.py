"""Reading a repository: every folder is told for what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.report import KeyRange, RangeCounts, RangeError, Report
from bkctl.errors import StorageError, UsageError
from bkctl.repository.catalog import Catalog, open_backup, read_catalog, root_name
from bkctl.repository.contents import family_of_file, parse_origin, total_by_family, total_by_region
from bkctl.repository.details import inspect_backup
from bkctl.repository.summary import BackupState, parse_claim
from bkctl.storage.local import LocalStorage
from bkctl.storage.url import open_storage, parse_storage
from tests.oracles import require_shared

HASH = "ab" * 32


def file(region_id: int = 2, cf: str = "write", **fields: object) -> BackupFile:
    made: dict[str, object] = {
        "name": f"1_{region_id}_3_{HASH}_1700000000000_{cf}.sst",
        "sha256": bytes(32),
        "start_key": b"a",
        "end_key": b"m",
        "start_version": 0,
        "end_version": 10,
        "crc64xor": 0,
        "total_kvs": 5,
        "total_bytes": 100,
        "cf": cf,
        "size": 40,
    }
    return BackupFile(**(made | fields))  # type: ignore[arg-type]


def report(name: str, start_ts: int = 0, end_ts: int = 10, **fields: object) -> Report:
    made: dict[str, object] = {
        "name": name,
        "status": "ok",
        "mode": "txn",
        "start_ts": start_ts,
        "end_ts": end_ts,
        "store_id": 4,
        "cluster_id": 7,
        "ranges": RangeCounts(1, 1, 0, 0),
        "files": 0,
        "total_kvs": 0,
        "total_bytes": 0,
        "crc64xor": 0,
        "size": 0,
        "seconds": 5.0,
        "started_at": 1000.0,
    }
    return Report(**(made | fields))  # type: ignore[arg-type]


CLAIM = {
    "host": "box",
    "pid": 42,
    "started_at": "2026-11-23T10:00:00Z",
    "settings": {
        "mode": "txn",
        "start_ts": 0,
        "end_ts": 10,
        "store_id": 4,
        "cluster_id": 7,
        "start_key": "61",
        "end_key": "",
    },
}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    (tmp_path / "repo").mkdir()
    return LocalStorage(tmp_path / "repo")


def publish(storage: LocalStorage, name: str, start_ts: int = 0, end_ts: int = 10) -> BackupDir:
    backup_dir = BackupDir(storage, name)
    backup_dir.claim(json.dumps(CLAIM).encode())
    meta = BackupMeta(7, "", (), start_ts, end_ts)
    backup_dir.publish(meta, report(name, start_ts, end_ts))
    return backup_dir


def test_a_published_backup_is_complete(storage: LocalStorage) -> None:
    publish(storage, "b")
    (backup,) = read_catalog(storage).backups
    assert (backup.name, backup.state, backup.remark) == ("b", BackupState.COMPLETE, "")
    facts = backup.facts
    assert (facts.mode, facts.kind, facts.start_ts, facts.end_ts) == ("txn", "full", 0, 10)
    assert (facts.store_id, facts.cluster_id) == (4, 7)
    assert facts.window == KeyRange(b"a", b"")
    assert backup.created == 1005.0


def test_a_claimed_folder_is_unfinished_and_its_owner_known(storage: LocalStorage) -> None:
    BackupDir(storage, "b").claim(json.dumps(CLAIM).encode())
    (backup,) = read_catalog(storage).backups
    assert backup.state is BackupState.UNFINISHED
    assert backup.claimed_by == "host box, pid 42, since 2026-11-23T10:00:00Z"
    assert (backup.facts.end_ts, backup.facts.store_id) == (10, 4)


def test_a_failed_run_is_unfinished_and_shows_its_report(storage: LocalStorage) -> None:
    backup_dir = BackupDir(storage, "b")
    backup_dir.claim(b"{}")
    error = RangeError(3, b"a", b"b", "key_is_locked", "a lock")
    backup_dir.write_report(report("b", status="failed", errors=(error,), total_kvs=9))
    details = inspect_backup(storage, "b")
    assert details.summary.state is BackupState.UNFINISHED
    assert details.summary.facts.total_kvs == 9
    assert details.report is not None
    assert details.report.errors == (error,)
    assert (details.meta, details.chain) == (None, ())


def test_an_unreadable_description_is_damage_and_says_why(storage: LocalStorage) -> None:
    publish(storage, "b")
    storage.write("b/backupmeta", b"\xff\xff\xff")
    (backup,) = read_catalog(storage).backups
    assert backup.state is BackupState.DAMAGED
    assert "protobuf" in backup.remark
    # The report still knows its place in the chain.
    assert backup.facts.end_ts == 10


def test_an_unreadable_report_is_only_a_remark(storage: LocalStorage) -> None:
    publish(storage, "b")
    storage.write("b/report.json", b"[")
    (backup,) = read_catalog(storage).backups
    assert backup.state is BackupState.COMPLETE
    assert "report.json" in backup.remark


@pytest.mark.parametrize(
    "claim", [b"", b"[]", b"{}", b'{"pid": "x", "settings": 5}', b'{"host": "a\\u001b[1m"}']
)
def test_a_lock_may_hold_anything(storage: LocalStorage, claim: bytes) -> None:
    BackupDir(storage, "b").claim(claim)
    (backup,) = read_catalog(storage).backups
    assert (backup.state, backup.claimed_by) == (BackupState.UNFINISHED, "")


def test_no_lock_is_no_claim() -> None:
    assert parse_claim(None) is None


def test_other_folders_are_told_apart(storage: LocalStorage) -> None:
    storage.write("docs/readme", b"")
    storage.write(".hidden/backupmeta", b"")
    (backup,) = read_catalog(storage).backups
    assert (backup.name, backup.state) == ("docs", BackupState.UNFINISHED)
    assert "perhaps no backup" in backup.remark


def test_an_empty_repository_is_empty_and_a_missing_one_an_error(
    storage: LocalStorage, tmp_path: Path
) -> None:
    assert read_catalog(storage) == Catalog.of(storage.url, ())
    with pytest.raises(StorageError, match="nowhere"):
        read_catalog(LocalStorage(tmp_path / "nowhere"))


def test_a_single_backup_has_its_folders_name(storage: LocalStorage, tmp_path: Path) -> None:
    publish(storage, "b")
    storage.write("b/1/part_of_it", b"")
    single = LocalStorage(tmp_path / "repo" / "b")
    (backup,) = read_catalog(single).backups
    assert (backup.name, backup.state) == ("b", BackupState.COMPLETE)
    backup_dir = open_backup(single, "b")
    assert backup_dir.read_meta().end_version == 10
    assert "1/part_of_it" in {info.name for info in backup_dir.list_files()}
    assert open_backup(storage, "b").object_name("x") == "b/x"


def test_a_single_backup_always_has_a_name(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / ".hidden")
    storage.write("backupmeta", b"")
    assert root_name(storage) == "backup"
    assert [backup.name for backup in read_catalog(storage).backups] == ["backup"]


def test_a_real_clusters_backup_is_one_backup() -> None:
    real = require_shared() / "br-raw-v5.2.1"
    with open_storage(parse_storage(str(real))) as storage:
        details = inspect_backup(storage, "latest")
    facts = details.summary.facts
    assert details.summary.name == "br-raw-v5.2.1"
    assert (facts.files, facts.total_kvs, facts.total_bytes) == (2, 1000, 85_000)
    assert (facts.window, facts.store_id) == (KeyRange(b"test", b"u"), None)
    assert [(region.store_id, region.region_id) for region in details.regions] == [(4, 8), (1, 2)]
    assert details.table_format is not None
    assert (details.table_format.codec, details.table_format.format_version) == ("ZSTD", 2)


def test_details_of_a_backup_without_files(storage: LocalStorage) -> None:
    publish(storage, "b")
    details = inspect_backup(storage, "b")
    assert (details.table_format, details.format_remark) == (None, "no files")
    assert details.chain == ("b",)
    with pytest.raises(UsageError, match="no backup 'x'"):
        inspect_backup(storage, "x")


def test_origins_are_read_from_names() -> None:
    origin = parse_origin(f"4/4_8_2_{HASH}_1633919546278_default.sst")
    assert origin is not None
    assert (origin.store_id, origin.region_id, origin.epoch_version, origin.cf) == (
        4,
        8,
        2,
        "default",
    )
    assert parse_origin("v1_schema.sst") is None
    assert family_of_file(file(cf="")) == "default"
    assert family_of_file(file(cf="", name=f"1_2_3_{HASH}_4_write.sst")) == "write"


def test_figures_by_family_and_region() -> None:
    files = [
        file(2, "write", start_key=b"a", end_key=b"m"),
        file(2, "default", start_key=b"a", end_key=b"m"),
        file(6, "write", start_key=b"m", end_key=b"s"),
        file(6, "write", start_key=b"s", end_key=b"", name=f"1_6_3_{HASH}_1_write.sst"),
        file(9, "write", name="strange"),
    ]
    families = {family.cf: family.totals for family in total_by_family(files)}
    assert (families["write"].files, families["write"].total_kvs) == (4, 20)
    assert (families["default"].total_bytes, families["default"].size) == (100, 40)
    first, second = total_by_region(files)
    assert (first.region_id, first.keys, first.totals.files) == (2, KeyRange(b"a", b"m"), 2)
    assert (second.region_id, second.keys, second.totals.files) == (6, KeyRange(b"m", b""), 2)
