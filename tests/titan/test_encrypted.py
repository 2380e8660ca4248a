"""Stores that are encrypted at rest and keep values in blob files: read exactly, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import versioned_key
from bkctl.raft.sealed_kv import SealedKv
from bkctl.store import column_scan
from bkctl.store.layout import locate
from bkctl.store.open_view import open_database
from bkctl.store.sealed_view import SealedView
from bkctl.store.source import Source, SourceOptions
from tests.commands.console import bkctl
from tests.model import History
from tests.store.at_rest import EncryptedStore, encrypt_store
from tests.store.sealed import plain_bytes_in
from tests.titan.test_stores import NotAsColumns, assert_shows, made, many_values
from tests.titan.titan_store import MANIFEST, TitanStore

BLOB = "db/titandb/000002.blob"
SECRET = b"00137" * 20
"""A part of a value of `many_values`."""


def encrypted(data_dir: Path, *, left_plain: Callable[[str], bool]) -> EncryptedStore:
    """Encrypt the store in `data_dir/db`, its titandb too; names in that begin with `titandb/`."""
    store = encrypt_store(data_dir, left_plain=left_plain)
    for path in sorted((data_dir / "db" / "titandb").iterdir()):
        name = f"titandb/{path.name}"
        if path.name != "CURRENT" and not left_plain(name):
            store.encrypt(f"db/{name}")
    store.write_file_dict()
    return store


def of_history(
    data_dir: Path,
    history: History,
    *,
    flush: bool = True,
    left_plain: Callable[[str], bool] = lambda name: False,
) -> EncryptedStore:
    data_dir.mkdir()
    made(data_dir / "db", history, flush=flush)
    return encrypted(data_dir, left_plain=left_plain)


def source_of(store: EncryptedStore) -> Source:
    return Source(SourceOptions(store.path, master_key=store.key_file))


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("as_rows", [True, False])
def test_values_are_those_of_the_plain_store(
    flush: bool, as_rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = many_values()
    store = of_history(tmp_path / "store", history, flush=flush)
    assert not plain_bytes_in(store.path, [SECRET])
    if as_rows:
        monkeypatch.setattr(column_scan, "MergedScan", NotAsColumns)
    with source_of(store) as source:
        assert len(source.blob_files) > 3
        for window in ((0, 15), (0, 30), (15, 30)):
            assert_shows(history, source, *window)
        assert not plain_bytes_in(source.db_dir.parent, [SECRET])
        database = open_database(source.without([]), source.path)
        scan = database.scan_columns("default", b"z", b"{")
        values = []
        while (read := scan.take()) is not None:
            values += read[1].tolist()
        assert any(SECRET in value for value in values)
        database.close()


@pytest.mark.parametrize(
    "left_plain",
    [
        lambda name: name.startswith("titandb/"),
        lambda name: name.endswith((".sst", ".log")),
        lambda name: name == f"titandb/{MANIFEST}",
        lambda name: name in ("titandb/000002.blob", "titandb/000006.blob"),
    ],
)
def test_files_from_before_encryption_are_read_beside_encrypted_ones(
    left_plain: Callable[[str], bool], tmp_path: Path
) -> None:
    history = many_values()
    store = of_history(tmp_path / "store", history, left_plain=left_plain)
    with source_of(store) as source:
        assert_shows(history, source, 0, 30)


def test_an_encrypted_current_of_titan_is_read(tmp_path: Path) -> None:
    history = many_values(30)
    store = of_history(tmp_path / "store", history)
    store.encrypt("db/titandb/CURRENT")
    store.write_file_dict()
    with source_of(store) as source:
        assert_shows(history, source, 0, 30)


@pytest.mark.parametrize(
    ("forgotten", "told"),
    [
        (BLOB, r"titandb/000002\.blob: is no plain blob file, and .*file\.dict has no entry"),
        (f"db/titandb/{MANIFEST}", rf"titandb/{MANIFEST}: is no plain MANIFEST, and .*file\.dict"),
    ],
)
def test_a_file_without_its_entry_is_refused(forgotten: str, told: str, tmp_path: Path) -> None:
    store = of_history(tmp_path / "store", many_values(30))
    del store.infos[f"{store.seen_at}/{forgotten}"]
    store.write_file_dict()
    with pytest.raises(CorruptionError, match=told):
        source_of(store)


def test_an_entry_of_another_file_is_damage_told_by_name(tmp_path: Path) -> None:
    store = of_history(tmp_path / "store", many_values())
    store.note(BLOB)
    store.write_file_dict()
    at = ["--db", store.path, "--region-map", "none", "--storage", tmp_path / "repo", "--json"]
    done = bkctl("backup", *at, "--name", "b", "--master-key", store.key_file)
    assert done.code == 3
    (error,) = done.document["errors"]
    assert error["kind"] == "corruption"
    assert str(store.path / BLOB) in error["message"]
    assert not list((tmp_path / "repo").rglob("backupmeta"))


def test_a_store_without_its_titandb_is_no_smaller_backup(tmp_path: Path) -> None:
    store = of_history(tmp_path / "store", many_values())
    shutil.rmtree(store.path / "db" / "titandb")
    at = ["--db", store.path, "--region-map", "none", "--storage", tmp_path / "repo", "--json"]
    done = bkctl("backup", *at, "--name", "b", "--master-key", store.key_file)
    assert done.code == 3
    assert "000002.blob: missing, and the value of 7A" in done.document["errors"][0]["message"]
    assert not list((tmp_path / "repo").rglob("backupmeta"))


@pytest.mark.parametrize("flush", [True, False])
def test_the_raft_log_is_applied_beside_values_in_blob_files(flush: bool, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    plain = TitanStore(tmp_path / "store" / "db", per_file=20)
    keys = [versioned_key(b"k%03d" % i, 10) for i in range(60)]
    values = [b"%03d" % i * (200 if i % 3 else 2) for i in range(60)]
    for i in range(60):
        plain.default_record(b"k%03d" % i, 10, values[i])
    plain.close(flush=flush)
    store = encrypted(tmp_path / "store", left_plain=lambda name: False)
    layout = locate(store.path, master_key=store.key_file)
    assert layout.at_rest is not None
    with SealedView(layout, layout.at_rest) as view:
        with view.replaying() as folder:
            kv = SealedKv(folder, view.source, layout.at_rest.open)
            assert list(kv.records("default", keys[7], keys[7] + b"\0")) == [(keys[7], values[7])]
            kv.delete("default", keys[5])
            kv.put("default", keys[12], b"short")
            kv.delete_range("default", keys[10], keys[50])
            kv.put("default", keys[30], b"anew")
            kv.finish()
        database = open_database(view.db_dir, view.source)
        scan = database.scan_columns("default", b"z", b"{")
        found: dict[bytes, bytes] = {}
        while (read := scan.take()) is not None:
            found |= zip(read[0].tolist(), read[1].tolist(), strict=True)
        left = {keys[i]: values[i] for i in range(60) if not 10 <= i < 50 and i != 5}
        assert found == left | {keys[30]: b"anew"}
        database.close()
    layout.at_rest.close()
