from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import ChangedError, NotFoundError
from bkctl.storage.noop import NoopStorage


def test_everything_is_taken_and_nothing_is_kept(tmp_path: Path) -> None:
    storage = NoopStorage()
    source = tmp_path / "x.sst"
    source.write_bytes(b"1")
    storage.write("a", b"1")
    storage.create("a", b"1")
    storage.create("a", b"2")
    storage.save_file("b/x.sst", source)
    storage.delete("a")
    assert not source.exists()
    assert storage.discards
    assert storage.staging_dir("b") is None
    assert storage.stat("a") is None
    assert list(storage.list()) == []
    assert storage.list_folders() == ()
    with pytest.raises(ChangedError):
        storage.exchange("a", b"1", b"2")
    for read in (storage.read, storage.open):
        with pytest.raises(NotFoundError, match="noop://: a: no such object"):
            read("a")


def test_a_missing_source_file_and_a_bad_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be deleted"):
        NoopStorage().save_file("x", tmp_path / "missing")
    with pytest.raises(StorageError, match="is refused"):
        NoopStorage().write("/x", b"")
