"""Finding a store, and refusing by name what plain RocksDB cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.codec.varint import encode_uvarint
from bkctl.errors import SourceError
from bkctl.store.layout import locate
from tests.store.test_manifest import make_store


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + encode_uvarint(len(value)) + value


def file_dict(name: bytes, method: int) -> bytes:
    info = b"\x08\x01" + field(2, b"i" * 16) + bytes([0x18, method])
    return b"\x01" * 16 + field(1, field(1, name) + field(2, info))


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
def test_encryption_at_rest_is_refused(data_dir: Path, given: str) -> None:
    (data_dir / "file.dict").write_bytes(file_dict(b"db/000012.sst", 2))
    with pytest.raises(SourceError, match=r"encrypted at rest.*000012\.sst"):
        locate(data_dir / given)


def test_a_dictionary_that_names_no_encrypted_file_is_no_obstacle(data_dir: Path) -> None:
    (data_dir / "file.dict").write_bytes(file_dict(b"db/000012.sst", 1))
    assert locate(data_dir).db_dir == data_dir / "db"
    (data_dir / "file.dict").write_bytes(b"\x01" * 16)
    assert locate(data_dir).db_dir == data_dir / "db"


def test_an_unreadable_dictionary_counts_as_encrypted(data_dir: Path) -> None:
    (data_dir / "file.dict").write_bytes(b"\xff" * 40 + b"db/000012.sst" + b"\xff")
    with pytest.raises(SourceError, match="encrypted at rest"):
        locate(data_dir)


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
