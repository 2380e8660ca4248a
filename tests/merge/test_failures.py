"""Merges that cannot be, are cut off or meet damage: told plainly, and nothing is left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import encode_meta
from bkctl.errors import UsageError
from bkctl.merge.merge import MergeRequest, merge, plan_merge
from bkctl.regions.region_map import RegionMap
from bkctl.storage.base import Storage
from bkctl.storage.local import LocalStorage
from bkctl.storage.url import parse_storage
from examples.tikv_store import TikvStore
from tests.archive.made_backups import check_all, existing
from tests.backup.helpers import Quiet, backup, files_of
from tests.merge.chains import (
    END,
    WEEK,
    merged,
    report_of,
    shared_chain,
    sums,
)
from tests.oracles import read_oracle, require_shared
from tests.regions.maps import ON_STORE_4, txn_region
from tests.restore.test_restore import fingerprint
from tests.sst.mutations import without_properties


@pytest.fixture(scope="module")
def made_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("chain") / "repo"
    shared_chain("mvcc-short", repository, cuts=[0, *WEEK[5:]])
    return repository


@pytest.fixture
def repository(made_chain: Path, tmp_path: Path) -> Path:
    """A full backup and two incrementals, b0 to b2."""
    return shutil.copytree(made_chain, tmp_path / "repo")


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_flip, "SHA-256"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes, backupmeta says"),
        (Path.unlink, "is missing"),
    ],
)
@pytest.mark.parametrize("victim", ["b0", "b2"])
def test_damage_is_told_by_the_files_name_and_nothing_is_published(
    damage: Callable[[Path], None], told: str, victim: str, repository: Path
) -> None:
    path = min((repository / victim).glob("*.sst"))
    damage(path)
    result = merged(repository, name="m")
    if result.report is None:
        messages = [str(finding) for finding in result.chain.findings]
    else:
        assert result.report.status in ("failed", "partial")
        messages = [error.message for error in result.report.errors]
        assert {error.kind for error in result.report.errors} == {"corruption"}
    assert all(f"{victim}/{path.name}" in message and told in message for message in messages)
    assert messages
    assert not (repository / "m" / "backupmeta").exists()
    assert not list(repository.rglob(".bkctl*"))


def test_a_file_on_which_rocksdb_would_crash_is_told_by_its_name(repository: Path) -> None:
    path = min((repository / "b2").glob("*.sst"))
    path.write_bytes(hostile := without_properties())
    backup_dir = existing(repository, "b2")
    meta = backup_dir.read_meta()
    described = [
        replace(file, sha256=hashlib.sha256(hostile).digest(), size=len(hostile))
        if file.name == path.name
        else file
        for file in meta.files
    ]
    whole = replace(meta, files=tuple(described), backup_size=sum(f.size for f in described))
    (repository / "b2" / "backupmeta").write_bytes(encode_meta(whole))
    (repository / "b2" / "report.json").unlink()
    report = merged(repository, name="m").report
    assert report is not None
    assert report.errors
    for error in report.errors:
        assert error.kind == "corruption"
        assert f"b2/{path.name}: " in error.message
        assert "rocksdb.properties" in error.message


def test_what_failed_for_a_damaged_file_is_taken_up_when_that_is_mended(repository: Path) -> None:
    path = max((repository / "b2").glob("*.sst"))
    data = path.read_bytes()
    damage_flip(path)
    assert merged(repository, name="m").report is not None
    path.write_bytes(data)
    report = report_of(merged(repository, name="m", resume=True))
    line = read_oracle(require_shared() / "stores" / "mvcc-short.oracle")[3]
    assert sums(report) == (line.kvs, line.bytes, line.crc64xor)
    assert check_all(repository, "m") == []


def test_a_cancelled_merge_publishes_nothing_and_is_resumed_without_doing_anything_twice(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bkctl.merge.merge.PORTION_RANGES", 1)
    told: list[str] = []
    request = MergeRequest(parse_storage(str(repository)), name="m")
    result = merge(request, Quiet(told.append), lambda: "range_done" in told)
    assert result.report is not None
    assert result.report.status == "cancelled"
    assert not list(repository.rglob(".bkctl*"))
    done = {path.name for path in (repository / "m").glob("*.sst")}
    assert done
    report = report_of(merged(repository, name="m", resume=True))
    assert report.resumed == result.report.ranges.done
    assert done <= {file.name for file in files_of(repository, "m")}
    assert check_all(repository, "m") == []


def abandon(repository: Path, pid: int, host: str | None = None) -> None:
    """Let the unfinished merge `m` be one that this process began."""
    path = repository / "m" / "backup.lock"
    claim = json.loads(path.read_text())
    claim |= {"pid": pid, "host": host or claim["host"]}
    path.write_text(json.dumps(claim))


def test_only_a_merge_whose_process_is_surely_dead_is_taken_up_unasked(repository: Path) -> None:
    request = MergeRequest(parse_storage(str(repository)), name="m")
    merge(request, Quiet(), lambda: True)
    with pytest.raises(UsageError, match="--resume"):
        merge(request, Quiet())
    dead = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead, 0)
    abandon(repository, dead, "elsewhere")
    with pytest.raises(UsageError, match="--resume"):
        merge(request, Quiet())
    claim = json.loads((repository / "m" / "backup.lock").read_text())
    assert claim["pid"] == dead


def test_a_dead_merge_of_this_machine_is_taken_up(repository: Path) -> None:
    request = MergeRequest(parse_storage(str(repository)), name="m")
    merge(request, Quiet(), lambda: True)
    dead = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead, 0)
    abandon(repository, dead)
    with pytest.raises(UsageError, match="unfinished"):
        merged(repository, chain="b1", name="m")
    report_of(merged(repository, name="m"))


def test_a_chain_of_one_needs_nothing(tmp_path: Path) -> None:
    shared_chain("mvcc-short", tmp_path / "repo", cuts=[0, END])
    result = merged(tmp_path / "repo", name="m")
    assert (result.report, result.chain.findings) == (None, ())
    assert not (tmp_path / "repo" / "m").exists()


def test_a_plan_does_nothing(tmp_path: Path) -> None:
    names = shared_chain("mvcc-short", tmp_path / "repo")
    before = fingerprint(tmp_path / "repo")
    result = plan_merge(MergeRequest(parse_storage(str(tmp_path / "repo"))))
    assert result.chain.names == tuple(names)
    assert len(result.chain.ranges) == 8
    assert fingerprint(tmp_path / "repo") == before


def small_chain(repository: Path, work: Path, maps: list[RegionMap], **options: Any) -> None:
    store = work / "store"
    with TikvStore(store) as tikv:
        for number, key in enumerate([b"a", b"m", b"z"] * len(maps)):
            tikv.must_prewrite_put(key, b"v", key, number * 100 + 10)
            tikv.must_commit(key, number * 100 + 10, number * 100 + 20)
    for number, region_map in enumerate(maps):
        backup(
            store,
            repository,
            start_ts=number * 300,
            end_ts=number * 300 + 300,
            name=f"b{number}",
            load_regions=lambda source, region_map=region_map: (region_map, []),
            allow_gaps=True,
            **options,
        )


WHOLE = RegionMap.build([txn_region(1, b"", b"h"), txn_region(2, b"h", b"")])
WITH_GAP = RegionMap.build([txn_region(1, b"", b"h")])
ELSEWHERE = RegionMap.build(
    [txn_region(1, b"", b"h"), txn_region(2, b"h", b"", peers=(ON_STORE_4,), leader=ON_STORE_4)]
)


@pytest.mark.parametrize(("first", "second"), [(WHOLE, WITH_GAP), (WITH_GAP, WHOLE)])
def test_a_chain_with_keys_that_a_backup_left_out_is_refused(
    first: RegionMap, second: RegionMap, tmp_path: Path
) -> None:
    small_chain(tmp_path / "repo", tmp_path, [first, second])
    with pytest.raises(UsageError, match=r"left out keys 68 to .* take a full backup"):
        merged(tmp_path / "repo", name="m")
    assert not (tmp_path / "repo" / "m").exists()


@pytest.mark.parametrize(("first", "second"), [(WHOLE, ELSEWHERE), (ELSEWHERE, WHOLE)])
def test_a_chain_with_a_region_that_moved_is_refused(
    first: RegionMap, second: RegionMap, tmp_path: Path
) -> None:
    small_chain(tmp_path / "repo", tmp_path, [first, second])
    with pytest.raises(UsageError, match=r"left out region 2 \(leader is on store 4\), of which"):
        merged(tmp_path / "repo", name="m")


def test_gaps_that_all_backups_have_are_told_again(tmp_path: Path) -> None:
    small_chain(tmp_path / "repo", tmp_path, [WITH_GAP, WITH_GAP])
    report = report_of(merged(tmp_path / "repo", name="m"))
    assert [gap.start_key for gap in report.gaps] == [b"h"]
    assert report.total_kvs == 1


def test_an_incremental_whose_base_is_gone_is_refused(repository: Path) -> None:
    (repository / "b1" / "backupmeta").unlink()
    with pytest.raises(UsageError, match="there is none"):
        merged(repository, name="m")


def test_a_raw_backup_is_refused() -> None:
    real = require_shared() / "br-raw-v5.2.1"
    with pytest.raises(UsageError, match="raw one"):
        plan_merge(MergeRequest(parse_storage(str(real))))


def test_links_are_copies_where_there_can_be_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    work = elsewhere / f"bkctl-test-{os.getpid()}"
    work.mkdir()
    try:
        report = report_of(merged(repository, name="m", work_dir=work))
        assert list(work.iterdir()) == []
    finally:
        work.rmdir()
    line = read_oracle(require_shared() / "stores" / "mvcc-short.oracle")[3]
    assert sums(report) == (line.kvs, line.bytes, line.crc64xor)


def test_a_folder_that_a_killed_merge_left_is_removed(repository: Path, tmp_path: Path) -> None:
    left = tmp_path / "work" / "bkctl-merge-left0123"
    left.mkdir(parents=True)
    (left / "owner").touch()
    (left / "000012.sst").touch()
    report_of(merged(repository, name="m", work_dir=tmp_path / "work"))
    assert list((tmp_path / "work").iterdir()) == []


def test_a_work_dir_that_is_not_there_is_one_line(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="--work-dir"):
        merged(repository, name="m", work_dir=tmp_path / "nowhere")


def test_two_at_once_make_one(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = BackupDir.claim

    def claimed_before(self: BackupDir, info: bytes) -> None:
        storage: Storage = LocalStorage(repository)
        storage.create("m/backup.lock", info)
        claim(self, info)

    monkeypatch.setattr(BackupDir, "claim", claimed_before)
    with pytest.raises(UsageError, match="unfinished"):
        merged(repository, name="m")
