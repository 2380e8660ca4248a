"""Backups of stores that are encrypted at rest: exact, and with nothing plain on the way."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile
from bkctl.archive.report import Report
from bkctl.backup.backup import take_backup
from bkctl.backup.saver import Saver
from bkctl.backup.task import BackupTask
from bkctl.codec.cipher import Cipher
from bkctl.errors import SourceError, StorageError
from bkctl.merge.merge import MergeRequest, merge
from bkctl.pool.events import DoneRange
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.sst.writer import Compression, FinishedSst, SstWriter
from bkctl.storage.noop import NoopStorage
from bkctl.storage.url import open_storage, parse_storage
from bkctl.store.database import Database
from bkctl.store.source import SourceOptions
from bkctl.verify.level import Level
from bkctl.verify.verify import Against, Verifier
from examples.make_store import END_TS, MID_TS, Made, make_store, region_map_of
from tests.backup.helpers import Quiet, backup, regions_from, request
from tests.storage.servers import gcs_server
from tests.store.at_rest import EncryptedStore, encrypt_store

KEY = Cipher("aes256-ctr", bytes(range(32)))
TABLE = b"t\x80\0\0\0\0\0\0"
"""How all row keys of a sample store begin, memcomparable or not."""


@pytest.fixture
def sample(tmp_path: Path) -> tuple[EncryptedStore, Made]:
    """An encrypted sample store; its region map lies beside it, as that of a plain one."""
    (tmp_path / "store").mkdir()
    made = make_store(tmp_path / "store" / "db", 200, 7)
    region_map_of(tmp_path / "store" / "db").rename(region_map_of(tmp_path / "store"))
    assert any(TABLE in path.read_bytes() for path in (tmp_path / "store" / "db").iterdir())
    return encrypt_store(tmp_path / "store"), made


def source_of(store: EncryptedStore, work_dir: Path | None = None) -> SourceOptions:
    return SourceOptions(store.path, work_dir, master_key=store.key_file)


def take(
    store: EncryptedStore,
    repository: object,
    listener: Quiet | None = None,
    work_dir: Path | None = None,
    **options: Any,
) -> Report:
    asked = request(store.path, Path(), **options)
    asked = dataclasses.replace(
        asked, source=source_of(store, work_dir), storage=parse_storage(str(repository))
    )
    return take_backup(asked, listener or Quiet())


def counts(report: Report) -> tuple[str, int, int]:
    assert not report.errors
    return report.status, report.total_kvs, report.total_bytes


def test_a_chain_is_that_of_the_plain_store(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, made = sample
    repository, jobs = tmp_path / "r", 2
    full = take(store, repository, end_ts=MID_TS, name="full", jobs=jobs)
    incr = take(store, repository, start_ts=MID_TS, end_ts=END_TS, name="incr", jobs=jobs)
    assert counts(full) == ("ok", made.full_at_mid.kvs, made.full_at_mid.bytes)
    assert counts(incr) == ("ok", made.incremental.kvs, made.incremental.bytes)
    with Verifier(parse_storage(str(repository)), Level.DEEP, jobs) as verifier:
        for name in ("full", "incr"):
            against = Against(source_of(store), regions_from(region_map_of(store.path)))
            verified = verifier.verify(name, Quiet(), against)
            assert (verified.status, verified.errors) == ("ok", ())
    merged = merge(MergeRequest(parse_storage(str(repository)), name="merged"), Quiet()).report
    assert merged is not None
    assert counts(merged) == ("ok", made.full_at_end.kvs, made.full_at_end.bytes)
    target = tmp_path / "restored"
    assert not restore(RestoreRequest(parse_storage(str(repository)), target)).findings
    again = backup(
        target,
        tmp_path / "again",
        end_ts=END_TS,
        load_regions=regions_from(region_map_of(store.path)),
    )
    assert (again.total_kvs, again.crc64xor) == (merged.total_kvs, merged.crc64xor)


def test_rocksdb_opens_none_of_it(
    sample: tuple[EncryptedStore, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made = sample

    def opened(*args: object) -> None:
        raise AssertionError("RocksDB was asked")

    monkeypatch.setattr(Database, "__init__", opened)
    report = take(store, tmp_path / "r", end_ts=END_TS, jobs=2)
    assert counts(report) == ("ok", made.full_at_end.kvs, made.full_at_end.bytes)


def files_with(secret: bytes, *folders: Path) -> list[Path]:
    """Files on disk, wherever a link leads, that hold it."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        target = path.resolve() if path.is_symlink() else path
        if target.is_file() and secret in target.read_bytes():
            found.append(path)
    return found


class Looking(Quiet):
    """Looks for plain bytes whenever something happens."""

    def __init__(self, look: Callable[[], list[Path]]) -> None:
        super().__init__(lambda event: self.found.extend(look()))
        self.found: list[Path] = []
        self.done = 0

    def range_done(self, worker: int, done: DoneRange) -> None:
        self.done += 1
        super().range_done(worker, done)


@pytest.mark.parametrize(
    ("storage", "cipher"), [("local", KEY), ("noop", None), ("noop", KEY)], ids=str
)
def test_no_key_or_value_is_plain_on_a_disk_meanwhile(
    sample: tuple[EncryptedStore, Made], tmp_path: Path, storage: str, cipher: Cipher | None
) -> None:
    store, made = sample
    work_dir, repository = tmp_path / "work", tmp_path / "r"
    work_dir.mkdir()
    url = str(repository) if storage == "local" else "noop://"
    seen = 0

    def look() -> list[Path]:
        nonlocal seen
        # Not compressed, files show all keys; and the repository names ranges in its records.
        places = [work_dir, store.path, *repository.rglob(".bkctl-staging")]
        seen += sum(1 for place in places for path in place.rglob("*_write.sst"))
        return files_with(TABLE, *places)

    listener = Looking(look)
    options = {"end_ts": END_TS, "cipher": cipher, "compression": Compression("none")}
    report = take(store, url, listener, work_dir, **options)
    assert counts(report) == ("ok", made.full_at_end.kvs, made.full_at_end.bytes)
    assert listener.done == 8
    assert listener.found == []
    assert list(work_dir.iterdir()) == []
    assert files_with(TABLE, *repository.rglob("*.sst")) == []


@pytest.mark.xdist_group("object-stores")
def test_files_on_their_way_to_a_bucket_are_encrypted(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, made = sample
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    seen: set[str] = set()

    def look() -> list[Path]:
        seen.update(path.name for path in work_dir.rglob("*_write.sst"))
        return files_with(TABLE, work_dir, store.path)

    listener = Looking(look)
    options = {"end_ts": END_TS, "name": "b", "compression": Compression("none"), "jobs": 2}
    with gcs_server() as endpoint:
        url = f"gcs://bucket/x?endpoint={endpoint}"
        report = take(store, url, listener, work_dir, **options)
        assert counts(report) == ("ok", made.full_at_end.kvs, made.full_at_end.bytes)
        assert listener.found == []
        with open_storage(parse_storage(url)) as storage:
            backup_dir = BackupDir(storage, "b")
            files = backup_dir.read_meta().files
            contents = [storage.read(backup_dir.object_name(file.name)) for file in files]
        with Verifier(parse_storage(url), Level.DEEP, 1) as verifier:
            assert verifier.verify("b", Quiet()).status == "ok"
    assert any(TABLE in content for content in contents)
    for file, content in zip(files, contents, strict=True):
        assert (file.cipher_iv, file.sha256) == (b"", hashlib.sha256(content).digest())
    assert list(work_dir.iterdir()) == []


class Sending(NoopStorage):
    """A storage that notes what it was to save, and fails the first time."""

    discards = False

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, str]] = []

    def save_file(self, name: str, path: Path) -> None:
        self.sent.append((path.read_bytes(), str(path.resolve())))
        if len(self.sent) == 1:
            raise StorageError("busy")
        path.unlink()


def test_a_waiting_file_is_made_plain_in_memory(tmp_path: Path) -> None:
    storage = Sending()
    saver = Saver(storage, "b", seal=KEY)

    def described(finished: FinishedSst) -> BackupFile:
        sha256, size = finished.sha256, finished.size
        return BackupFile("a.sst", sha256, b"", b"", 0, 1, 0, 1, 8, "write", size)

    for expected in (StorageError, None):
        sst = SstWriter(tmp_path / "a.sst", Compression("none"), cipher=KEY)
        sst.write([b"key"], [b"value"])
        pending = saver.save(sst, described)
        if expected is None:
            (file,) = pending.result().files
        else:
            with pytest.raises(expected):
                pending.result()
        assert list(tmp_path.iterdir()) == []
    saver.close()
    for content, place in storage.sent:
        assert b"value" in content
        assert "memfd:" in place
    assert file.sha256 == hashlib.sha256(storage.sent[-1][0]).digest()
    assert file.cipher_iv == b""


def test_a_task_shows_no_key(tmp_path: Path) -> None:
    task = BackupTask(
        views=(),
        start_ts=0,
        end_ts=1,
        is_raw=False,
        family="default",
        compression=Compression(),
        sst_max_size=1,
        storage=parse_storage("noop://"),
        name="b",
        staging=tmp_path,
        seal=KEY,
    )
    assert KEY.key.hex() not in repr(task)
    assert repr(KEY.key)[2:-1] not in repr(task)


def test_without_its_key_nothing_is_begun(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, _ = sample
    with pytest.raises(SourceError, match="--master-key FILE"):
        backup(store.path, tmp_path / "r", end_ts=END_TS)
    store.write_key_file(store.key_file, bytes(32))
    with pytest.raises(SourceError, match="not sealed by the master key"):
        take(store, tmp_path / "r", end_ts=END_TS)
    assert not (tmp_path / "r").exists()


def test_no_key_is_in_what_is_written(sample: tuple[EncryptedStore, Made], tmp_path: Path) -> None:
    store, _ = sample
    take(store, tmp_path / "r", end_ts=END_TS, name="b")
    written = [path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert written
    for key in (store.master_key, store.data_key):
        for content in written:
            assert key not in content
            assert key.hex().encode() not in content.lower()
