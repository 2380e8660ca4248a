from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir, BackupEntry, StoredMeta, list_backups
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.report import RangeCounts, Report
from bkctl.errors import CorruptionError, StorageError, UsageError
from bkctl.proto import backup_pb2
from bkctl.repository.summary import parse_claim
from bkctl.storage.local import LocalStorage
from bkctl.storage.noop import NoopStorage

FILES = ("1_1_1_x_1_default.sst", "1_1_1_x_1_write.sst")
REPORT = Report("n", "ok", "txn", 0, 7, 1, 1, RangeCounts(1, 1, 0, 0), 2, 2, 2, 0, 6, 0.5)


def meta_of(*names: str, size: int = 3) -> BackupMeta:
    files = (BackupFile(name, b"", b"", b"", 0, 7, 0, 1, 1, "write", size) for name in names)
    return BackupMeta(1, "", tuple(files), 0, 7)


def take_backup(backup_dir: BackupDir, scratch: Path) -> None:
    backup_dir.claim(b'{"pid": 1}')
    for name in FILES:
        path = scratch / name
        path.write_bytes(b"sst")
        backup_dir.save_file(name, path)
    backup_dir.publish(meta_of(*FILES), REPORT)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_a_published_backup_is_complete_and_tells_what_it_holds(
    storage: LocalStorage, scratch: Path
) -> None:
    backup_dir = BackupDir(storage, "full")
    assert not backup_dir.is_complete()
    take_backup(backup_dir, scratch)
    assert backup_dir.is_complete()
    assert backup_dir.read_meta() == meta_of(*FILES)
    data = storage.read("full/backupmeta")
    digest = hashlib.sha256(data).digest()
    assert backup_dir.load_meta() == StoredMeta(meta_of(*FILES), digest)
    assert backup_dir.read_report() == replace(REPORT, backupmeta_sha256=digest)
    assert backup_dir.read_claim() == b'{"pid": 1}'
    with backup_dir.open_file(FILES[0]) as reader:
        assert reader.read_at(0, 9) == b"sst"
    assert [info.name for info in backup_dir.list_files()] == [
        "full/1_1_1_x_1_default.sst",
        "full/1_1_1_x_1_write.sst",
        "full/backup.lock",
        "full/backupmeta",
        "full/report.json",
    ]


def test_a_name_is_used_once(storage: LocalStorage, scratch: Path) -> None:
    backup_dir = BackupDir(storage, "full")
    backup_dir.claim(b"")
    with pytest.raises(UsageError, match=r"backup full is unfinished.*--name"):
        BackupDir(storage, "full").claim(b"")
    backup_dir.publish(meta_of(), REPORT)
    with pytest.raises(UsageError, match=r"backup full exists already.*--name"):
        BackupDir(storage, "full").claim(b"")
    assert backup_dir.read_claim() == b""


def test_a_folder_of_other_files_is_not_claimed(storage: LocalStorage) -> None:
    storage.write("full/notes/x", b"")
    with pytest.raises(UsageError, match=r"no backup\.lock \(full/notes/x\).*--name"):
        BackupDir(storage, "full").claim(b"")
    assert [info.name for info in storage.list()] == ["full/notes/x"]


def test_a_backup_of_br_without_a_lock_is_not_claimed(storage: LocalStorage) -> None:
    storage.write("full/backupmeta", b"")
    with pytest.raises(UsageError, match="exists already"):
        BackupDir(storage, "full").claim(b"")


def test_of_two_runs_into_one_name_exactly_one_gets_it(storage: LocalStorage) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[str] = []

    def contend(info: bytes) -> None:
        barrier.wait()
        try:
            BackupDir(storage, "full").claim(info)
        except UsageError as e:
            outcomes.append("unfinished" if "unfinished" in str(e) else str(e))
        else:
            outcomes.append("claimed")

    threads = [threading.Thread(target=contend, args=(bytes([i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed", "unfinished", "unfinished", "unfinished"]


class Cut(BaseException):
    """Stands for a kill: no code of ours catches it."""


class CutStorage(LocalStorage):
    """Dies before or after its call number `at` that changes anything."""

    def __init__(self, root: Path, at: int, after: bool) -> None:
        super().__init__(root)
        self._steps, self._at, self._after = itertools.count(1), at, after

    def _step(self, call: Callable[[], None]) -> None:
        is_last = next(self._steps) == self._at
        if is_last and not self._after:
            raise Cut
        call()
        if is_last:
            raise Cut

    def write(self, name: str, data: bytes) -> None:
        self._step(lambda: LocalStorage.write(self, name, data))

    def create(self, name: str, data: bytes) -> None:
        self._step(lambda: LocalStorage.create(self, name, data))

    def save_file(self, name: str, path: Path) -> None:
        self._step(lambda: LocalStorage.save_file(self, name, path))

    def delete(self, name: str) -> None:
        self._step(lambda: LocalStorage.delete(self, name))

    def discard_staging(self, backup_name: str) -> None:
        self._step(lambda: LocalStorage.discard_staging(self, backup_name))


def assert_whole_or_unfinished(root: Path) -> bool:
    """Check that a backupmeta has all its files; tell whether there is one."""
    backup_dir = BackupDir(LocalStorage(root), "full")
    if not backup_dir.is_complete():
        with pytest.raises(UsageError, match=r"is unfinished|does not exist"):
            backup_dir.read_meta()
        return False
    for file in backup_dir.read_meta().files:
        with backup_dir.open_file(file.name) as reader:
            assert reader.size == file.size
    assert backup_dir.read_report() is not None
    return True


@pytest.mark.parametrize("after", [False, True])
def test_a_run_cut_anywhere_leaves_no_backupmeta_with_files_missing(
    tmp_path: Path, scratch: Path, after: bool
) -> None:
    steps = 6
    outcomes = []
    for at in range(1, steps + 1):
        root = tmp_path / f"repository-{at}"
        with pytest.raises(Cut):
            take_backup(BackupDir(CutStorage(root, at, after), "full"), scratch)
        outcomes.append(assert_whole_or_unfinished(root))
    # Only what comes after the very last step leaves a backup.
    assert outcomes == [False] * (steps - 1) + [after]
    take_backup(BackupDir(CutStorage(tmp_path / "whole", steps + 1, after), "full"), scratch)
    assert assert_whole_or_unfinished(tmp_path / "whole")


@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_cut_anywhere_leaves_no_backupmeta_with_files_missing(
    tmp_path: Path, scratch: Path, after: bool
) -> None:
    # The mark, backupmeta, two files and the report, staging, the lock.
    for at in range(1, 8):
        root = tmp_path / f"repository-{at}"
        take_backup(BackupDir(LocalStorage(root), "full"), scratch)
        with pytest.raises(Cut):
            BackupDir(CutStorage(root, at, after), "full").delete()
        assert assert_whole_or_unfinished(root) == (at == 1 or (at == 2 and not after))
        storage = LocalStorage(root)
        claim = parse_claim(BackupDir(storage, "full").read_claim())
        whole, gone = at == 1 and not after, at == 7 and after
        assert (claim is None) == gone
        assert gone or (claim is not None and claim.is_deleted != whole)
        BackupDir(storage, "full").delete()
        assert storage.list_folders() == ()


def test_nothing_is_published_when_a_file_is_missing_or_short(
    storage: LocalStorage, scratch: Path
) -> None:
    backup_dir = BackupDir(storage, "full")
    backup_dir.claim(b"")
    (scratch / "x").write_bytes(b"sst")
    backup_dir.save_file(FILES[0], scratch / "x")
    with pytest.raises(StorageError, match=f"full/{FILES[1]}: is missing"):
        backup_dir.publish(meta_of(*FILES), REPORT)
    with pytest.raises(StorageError, match=f"full/{FILES[0]}: has 3 bytes"):
        backup_dir.publish(meta_of(FILES[0], size=4), REPORT)
    with pytest.raises(CorruptionError, match="twice"):
        backup_dir.publish(meta_of(FILES[0], FILES[0]), REPORT)
    assert not backup_dir.is_complete()
    assert backup_dir.read_report() is None


def test_a_backup_is_published_once(storage: LocalStorage, scratch: Path) -> None:
    backup_dir = BackupDir(storage, "full")
    take_backup(backup_dir, scratch)
    with pytest.raises(StorageError, match="backupmeta: exists already"):
        backup_dir.publish(replace(meta_of(*FILES), cluster_id=2), REPORT)
    assert backup_dir.read_meta() == meta_of(*FILES)


def test_publishing_leaves_no_temporary_files(storage: LocalStorage, tmp_path: Path) -> None:
    backup_dir = BackupDir(storage, "full")
    backup_dir.claim(b"")
    (storage.staging_dir("full") / "left").write_bytes(b"")
    backup_dir.publish(meta_of(), REPORT)
    found = {path.name for path in (tmp_path / "repository" / "full").iterdir()}
    assert found == {"backup.lock", "report.json", "backupmeta"}


def test_a_failed_run_leaves_its_report_and_no_backup(storage: LocalStorage) -> None:
    backup_dir = BackupDir(storage, "full")
    backup_dir.claim(b"")
    failed = replace(REPORT, status="failed")
    backup_dir.write_report(failed)
    assert backup_dir.read_report() == failed
    assert not backup_dir.is_complete()


@pytest.mark.parametrize("name", ["backupmeta", "backup.lock", "report.json", "../x", "a/b", ""])
def test_a_file_cannot_take_another_ones_name(
    storage: LocalStorage, scratch: Path, name: str
) -> None:
    (scratch / "x").write_bytes(b"")
    with pytest.raises(StorageError):
        BackupDir(storage, "full").save_file(name, scratch / "x")
    assert (scratch / "x").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_a_name_that_cannot_be_a_backups_is_refused(storage: LocalStorage, name: str) -> None:
    with pytest.raises(UsageError, match="backup name"):
        BackupDir(storage, name)


def test_a_backup_that_is_not_there_is_a_users_mistake(storage: LocalStorage) -> None:
    backup_dir = BackupDir(storage, "full")
    with pytest.raises(UsageError, match="backup full does not exist"):
        backup_dir.read_meta()
    backup_dir.claim(b"")
    with pytest.raises(UsageError, match="backup full is unfinished"):
        backup_dir.read_meta()
    assert BackupDir(storage, "other").read_claim() is None


def test_damaged_descriptions_are_told_with_their_place(storage: LocalStorage) -> None:
    backup_dir = BackupDir(storage, "full")
    storage.write("full/backupmeta", b"\xff\xff")
    storage.write("full/report.json", b"{")
    place = f"{storage.url}: backup full"
    with pytest.raises(CorruptionError, match=f"{place}: backupmeta: no readable protobuf"):
        backup_dir.read_meta()
    with pytest.raises(CorruptionError, match=f"{place}: report.json: no readable JSON"):
        backup_dir.read_report()


def test_index_objects_are_read_from_the_backups_own_folder(storage: LocalStorage) -> None:
    index = backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="backupmeta.datafile.1")])
    message = backup_pb2.BackupMeta(version=1, file_index=index)
    storage.write("full/backupmeta", message.SerializeToString())
    with pytest.raises(CorruptionError, match=r"backupmeta\.datafile\.1.* is missing"):
        BackupDir(storage, "full").read_meta()
    node = backup_pb2.MetaFile(data_files=[backup_pb2.File(name="x.sst", cf="write", size=3)])
    storage.write("full/backupmeta.datafile.1", node.SerializeToString())
    assert [file.name for file in BackupDir(storage, "full").read_meta().files] == ["x.sst"]


def test_the_list_tells_backups_from_unfinished_ones(storage: LocalStorage, scratch: Path) -> None:
    take_backup(BackupDir(storage, "b-whole"), scratch)
    BackupDir(storage, "a-begun").claim(b"")
    storage.write("c-of-br/backupmeta", b"")
    storage.write("d-other/x", b"")
    storage.write("file-in-the-root", b"")
    storage.write(".hidden/backupmeta", b"")

    def modified(name: str) -> float:
        info = storage.stat(name)
        assert info is not None
        return info.modified

    assert list_backups(storage) == [
        BackupEntry("a-begun", False, True, modified("a-begun/backup.lock")),
        BackupEntry("b-whole", True, True, modified("b-whole/backupmeta")),
        BackupEntry("c-of-br", True, False, modified("c-of-br/backupmeta")),
        BackupEntry("d-other", False, False, 0.0),
    ]


def test_a_repository_that_is_not_there_is_an_error(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match="repository: cannot be listed"):
        list_backups(storage)


def test_a_backup_into_nothing_runs_to_its_end(scratch: Path) -> None:
    backup_dir = BackupDir(NoopStorage(), "full")
    take_backup(backup_dir, scratch)
    assert not backup_dir.is_complete()
    assert list(scratch.iterdir()) == []
