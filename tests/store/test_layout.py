"""Finding a store, and refusing by name what plain RocksDB cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError
from bkctl.proto import encryptionpb_pb2 as pb
from bkctl.store.layout import locate
from tests.store.at_rest import encrypt_store, file_dict
from tests.store.test_manifest import make_store


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    make_store(tmp_path / "data" / "db", flushes=1)
    return tmp_path / "data"


def test_a_data_directory_and_its_db_are_the_same_store(data_dir: Path) -> None:
    assert locate(data_dir).db_dir == locate(data_dir / "db").db_dir == data_dir / "db"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no such directory"),
        (lambda path: path.write_text("x"), "not a directory"),
        (lambda path: path.mkdir(), "no RocksDB directory"),
        (
            lambda path: (path.mkdir(), (path / "MANIFEST-000001").touch()),
            "CURRENT file is missing",
        ),
        (lambda path: (path / "tablets").mkdir(parents=True), "partitioned store"),
    ],
)
def test_what_is_no_rocksdb_is_refused_by_name(tmp_path: Path, make, told: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "given"
    make(path)
    with pytest.raises(SourceError, match=told) as caught:
        locate(path)
    assert str(path) in str(caught.value)


def test_blob_files_are_no_obstacle(data_dir: Path) -> None:
    titan = data_dir / "db" / "titandb"
    titan.mkdir()
    (titan / "000007.blob").touch()
    assert locate(data_dir).db_dir == data_dir / "db"


@pytest.mark.parametrize("given", ["", "db"])
def test_encryption_at_rest_needs_its_key(data_dir: Path, given: str) -> None:
    store = encrypt_store(data_dir)
    with pytest.raises(SourceError, match=r"key\.dict.*encrypted at rest.*--master-key"):
        locate(data_dir / given)
    layout = locate(data_dir / given, master_key=store.key_file)
    assert layout.at_rest is not None
    assert layout.at_rest.encrypts


def test_a_dictionary_that_names_no_encrypted_file_is_no_obstacle(data_dir: Path) -> None:
    plain = pb.FileInfo(method=pb.PLAINTEXT)
    for files in ({"/data/db/000012.sst": plain}, {}):
        for version in (1, 2):
            (data_dir / "file.dict").write_bytes(file_dict(files, version))
            layout = locate(data_dir)
            assert (layout.db_dir, layout.at_rest) == (data_dir / "db", None)


def test_an_unreadable_dictionary_is_refused(data_dir: Path) -> None:
    (data_dir / "file.dict").write_bytes(b"\xff" * 40 + b"db/000012.sst" + b"\xff")
    with pytest.raises(CorruptionError, match=r"file\.dict: unknown version 255"):
        locate(data_dir)


def test_logs_elsewhere_are_told_by_encrypted_options(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    for options in (data_dir / "db").glob("OPTIONS-*"):
        options.write_text(f"[DBOptions]\n  wal_dir={tmp_path}/wal\n")
    store = encrypt_store(data_dir)
    assert locate(data_dir, master_key=store.key_file).told_wal_dir == tmp_path / "wal"


def test_logs_kept_elsewhere_have_to_be_there(data_dir: Path, tmp_path: Path) -> None:
    db_dir = data_dir / "db"
    for log in db_dir.glob("*.log"):
        log.unlink()
    for options in db_dir.glob("OPTIONS-*"):
        options.write_text("[DBOptions]\n  wal_dir=/nowhere/wal\n")
    with pytest.raises(SourceError, match=r"/nowhere/wal.*--wal-dir"):
        locate(data_dir)
    (tmp_path / "wal").mkdir()
    assert locate(data_dir, tmp_path / "wal").wal_dir == tmp_path / "wal"
