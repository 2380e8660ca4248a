"""Stores that are encrypted at rest: read exactly, or refused."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError
from bkctl.store.open_view import open_database
from bkctl.store.sealed_database import SealedDatabase
from bkctl.store.source import Source, SourceOptions
from tests.store.at_rest import METHODS, EncryptedStore, encrypt_store
from tests.store.sealed import (
    SECRET,
    options_of,
    plain_bytes_in,
    read,
    records_of,
)
from tests.store.test_source import listing

pytestmark = pytest.mark.usefixtures("shared_memory")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_an_encrypted_store_reads_as_the_plain_one(
    plain_store: Path, method: str, version: int
) -> None:
    expected = read(SourceOptions(plain_store))
    assert len(expected["write"]) > 200
    store = encrypt_store(plain_store, method=method, version=version)
    before = listing(store.path)
    assert read(options_of(store)) == expected
    assert listing(store.path) == before


def test_it_is_rocksdb_that_reads_plain_stores(plain_store: Path) -> None:
    with Source(SourceOptions(plain_store)) as source:
        database = open_database(source.db_dir, source.path)
        assert not isinstance(database, SealedDatabase)
        database.close()


@pytest.mark.parametrize("plain", [".sst", ".log", "OPTIONS", "MANIFEST", "IDENTITY"])
def test_files_from_before_encryption_are_read_beside_encrypted_ones(
    killed_store: Path, plain: str
) -> None:
    expected = read(SourceOptions(killed_store))
    store = encrypt_store(killed_store, left_plain=lambda name: plain in name)
    assert read(options_of(store)) == expected


def test_an_encrypted_current_of_old_tikv_is_read(plain_store: Path) -> None:
    expected = read(SourceOptions(plain_store))
    store = encrypt_store(plain_store)
    store.encrypt("db/CURRENT")
    store.write_file_dict()
    assert read(options_of(store)) == expected
    # One that a newer TiKV replaced by a plain one, and whose entry is still there.
    (store.path / "db" / "CURRENT").write_bytes(store.plain("db/CURRENT"))
    assert read(options_of(store)) == expected


def test_single_keys_are_read(killed_store: Path) -> None:
    store = encrypt_store(killed_store)
    with Source(options_of(store)) as source:
        database = open_database(source.db_dir, source.path)
        assert database.get("write", b"z000001") == b"v" * 50
        assert database.get("write", b"z002999") == b"v" * 50
        assert database.get("write", b"z003000") is None
        assert database.get("lock", b"zlock") == b"x"
        assert database.families == source.families
        assert database.last_sequence >= 3001
        database.close()


def test_a_narrower_view_lacks_its_files_only(plain_store: Path) -> None:
    store = encrypt_store(plain_store)
    with Source(options_of(store)) as source:
        whole = open_database(source.db_dir, source.path)
        writes = [file for file in source.live_files() if file.family == "write"]
        narrow = open_database(source.without(writes), source.path)
        found = records_of(narrow)
        assert found["write"] == []
        assert found["default"] == records_of(whole)["default"]
        assert narrow.last_sequence == whole.last_sequence
        whole.close()
        narrow.close()


def test_the_directory_may_have_been_moved(killed_store: Path, tmp_path: Path) -> None:
    expected = read(SourceOptions(killed_store))
    store = encrypt_store(killed_store)
    elsewhere = killed_store.rename(tmp_path / "elsewhere")
    for path in (elsewhere, elsewhere / "db"):
        assert read(SourceOptions(path, master_key=store.key_file)) == expected
    # Or be all in one folder.
    for path in elsewhere.glob("*.dict"):
        path.rename(elsewhere / "db" / path.name)
    (elsewhere / "db").rename(tmp_path / "one")
    assert read(SourceOptions(tmp_path / "one", master_key=store.key_file)) == expected


def test_logs_in_a_directory_of_their_own_are_read(killed_store: Path, tmp_path: Path) -> None:
    expected = read(SourceOptions(killed_store))
    store = encrypt_store(killed_store)
    wal = tmp_path / "wal"
    wal.mkdir()
    for path in (killed_store / "db").glob("*.log"):
        path.rename(wal / path.name)
        name = f"{store.seen_at}/db/{path.name}"
        store.infos[f"/fast/{path.name}"] = store.infos.pop(name)
    store.write_file_dict()
    assert read(options_of(store, wal_dir=wal)) == expected


def test_the_store_is_only_refused_for_its_key(plain_store: Path) -> None:
    store = encrypt_store(plain_store)
    with pytest.raises(SourceError, match="give its master key with --master-key FILE"):
        Source(SourceOptions(store.path))
    store.write_key_file(store.key_file, bytes(32))
    with pytest.raises(SourceError, match="not sealed by the master key"):
        Source(options_of(store))
    (store.path / "key.dict").unlink()
    with pytest.raises(CorruptionError, match=r"key\.dict: missing"):
        Source(options_of(store))


def test_a_dictionary_of_keys_alone_is_refused(plain_store: Path) -> None:
    store = encrypt_store(plain_store)
    (store.path / "file.dict").unlink()
    with pytest.raises(CorruptionError, match=r"file\.dict: missing"):
        Source(options_of(store))


def forget(store: EncryptedStore, pattern: str) -> str:
    """Take the entries of some files out of the dictionary."""
    paths = list((store.path / "db").glob(pattern))
    for path in paths:
        del store.infos[f"{store.seen_at}/db/{path.name}"]
    store.write_file_dict()
    return paths[0].name


@pytest.mark.parametrize("pattern", ["*.sst", "*.log", "MANIFEST-*", "OPTIONS-*"])
def test_a_file_that_lost_its_entry_is_refused(killed_store: Path, pattern: str) -> None:
    # A log so short that RocksDB would take what it does not understand for one torn at its end.
    log = max((killed_store / "db").glob("*.log"), key=lambda path: path.stat().st_size)
    os.truncate(log, min(log.stat().st_size, 9_000))
    store = encrypt_store(killed_store)
    assert read(options_of(store))
    name = forget(store, pattern)
    with pytest.raises(CorruptionError, match=r"file\.dict") as caught:
        Source(options_of(store))
    assert name.partition("-")[0].lstrip("0") in str(caught.value)


def test_a_log_that_does_not_decrypt_is_refused(killed_store: Path) -> None:
    log = max((killed_store / "db").glob("*.log"), key=lambda path: path.stat().st_size)
    os.truncate(log, min(log.stat().st_size, 9_000))
    store = encrypt_store(killed_store)
    for number in range(20):
        store.infos[f"{store.seen_at}/db/{log.name}"].iv = bytes([number] * 16)
        store.write_file_dict()
        with pytest.raises(CorruptionError, match=rf"{log.name}: does not begin with a log's"):
            Source(options_of(store))


def test_damage_in_a_log_is_refused_unless_asked_for(killed_store: Path) -> None:
    store = encrypt_store(killed_store)
    log = max((killed_store / "db").glob("*.log"), key=lambda path: path.stat().st_size)
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    with pytest.raises(
        CorruptionError, match=rf"{killed_store}/db/{log.name}: the write-ahead log"
    ):
        Source(options_of(store))
    found = read(options_of(store, point_in_time=True))
    assert 1000 <= len(found["write"]) < 3000


def test_damage_in_a_file_is_told_with_its_name(plain_store: Path) -> None:
    store = encrypt_store(plain_store)
    path = max((plain_store / "db").glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=rf"{plain_store}/db/{path.name}: at offset 0: "):
        read(options_of(store))


def test_any_file_of_the_store_can_be_opened(plain_store: Path) -> None:
    raft = plain_store / "raft-engine"
    raft.mkdir()
    (raft / "0000000000000001.raftlog").write_bytes(SECRET)
    (raft / "plain").write_bytes(SECRET)
    store = EncryptedStore(plain_store)
    store.encrypt("raft-engine/0000000000000001.raftlog")
    for path in (plain_store / "db").iterdir():
        if path.name.startswith(("MANIFEST", "OPTIONS")) or path.suffix in (".sst", ".log"):
            store.encrypt(f"db/{path.name}")
    store.write_file_dict()
    assert SECRET not in (raft / "0000000000000001.raftlog").read_bytes()
    with Source(options_of(store)) as source:
        assert source.is_encrypted
        for path in raft.iterdir():
            with source.open_file(path) as reader:
                assert (reader.size, reader.read_at(0, 1000)) == (len(SECRET), SECRET)
                assert reader.read_at(7, 5) == SECRET[7:12]


@pytest.mark.parametrize("seed", range(2))
def test_flipped_and_cut_bytes_are_never_read_wrong(killed_store: Path, seed: int) -> None:
    """What is read of a damaged store is what the plain one reads with the same damage, or none."""
    rng = random.Random(seed)
    expected = read(SourceOptions(killed_store))
    plain = shutil.copytree(killed_store, killed_store.parent / "damaged")
    store = encrypt_store(killed_store)
    paths = [*(killed_store / "db").glob("*.sst"), *(killed_store / "db").glob("*.log")]
    paths += [*killed_store.glob("*.dict"), *(killed_store / "db").glob("MANIFEST-*")]
    for _ in range(10):
        path = rng.choice(paths)
        content = path.read_bytes()
        at = rng.randrange(len(content))
        damaged = bytearray(content) if rng.random() < 0.8 else bytearray(content[:at])
        if len(damaged) == len(content):
            damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read(options_of(store))
        except (CorruptionError, SourceError):
            found = None
        path.write_bytes(content)
        if found is None or found == expected:
            continue
        # A log cut off at its end, as any plain one may be.
        same = plain / path.relative_to(killed_store)
        assert path.suffix == ".log"
        whole = same.read_bytes()
        changed = bytearray(whole[: len(damaged)])
        if len(damaged) == len(whole):
            changed[at] ^= damaged[at] ^ content[at]
        same.write_bytes(changed)
        assert found == read(SourceOptions(plain))
        same.write_bytes(whole)


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_files_that_are_added_to_an_encrypted_view_are_in_memory(
    plain_store: Path, is_encrypted: bool
) -> None:
    options = SourceOptions(plain_store)
    if is_encrypted:
        options = options_of(encrypt_store(plain_store))
    with Source(options) as source:
        for content in ([b"added", b"1"], [b"added" * 2]):
            path = source.add_file("routes", content)
            assert path.read_bytes() == b"".join(content)
        assert bool(plain_bytes_in(source.db_dir.parent, [b"added" * 2])) != is_encrypted
