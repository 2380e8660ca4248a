"""A real TiKV's store, encrypted at rest: what its own backup says is in it, or an error."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bkctl.backup.backup import take_backup
from bkctl.codec.cipher import Cipher
from bkctl.commands.options import load_region_map
from bkctl.errors import BkctlError
from bkctl.mvcc.keys import versioned_key
from bkctl.proto import encryptionpb_pb2 as pb
from bkctl.sst.writer import Compression
from bkctl.store.open_view import open_database
from bkctl.store.sealed_database import SealedDatabase
from bkctl.store.source import Source, SourceOptions
from tests.backup.helpers import Quiet, request
from tests.commands.console import Outcome, bkctl
from tests.real.stores import acked_writes, require_real, truth, unpack
from tests.store.at_rest import EncryptedStore, crypt, header
from tests.store.sealed import records_of

NAME = "encrypted"
ROUNDS = int(os.environ.get("BKCTL_AT_REST_ROUNDS", "10"))
RAFT_LOG_MAGIC = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5"
COUNTS = ("total_kvs", "total_bytes", "crc64xor")


BY_ROCKSDB = """
from pathlib import Path
from bkctl.store import column_scan
from bkctl.store.database import Database
from bkctl.store.tables import UnreadableError

def refuse(*given):
    raise UnreadableError("not as columns")

def opened(self, *given):
    Path({mark!r}).touch()
    init(self, *given)

init, Database.__init__ = Database.__init__, opened
column_scan.MergedScan = column_scan.Lookup = refuse
"""


@pytest.fixture(scope="module")
def key() -> Path:
    return require_real(NAME) / "master.key"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store, not to be changed."""
    (path,) = unpack(NAME, tmp_path_factory.mktemp("real"))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The store, for the test to change."""
    (path,) = unpack(NAME, tmp_path)
    return path


@pytest.fixture
def by_rocksdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has workers, which are spawned here, read records by RocksDB, out of files in memory.

    The file is there once RocksDB has been opened.
    """
    site, mark = tmp_path / "site", tmp_path / "rocksdb-opened"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BY_ROCKSDB.format(mark=str(mark)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return mark


def windows() -> list[dict[str, Any]]:
    try:
        return list(truth(NAME)["windows"])
    except pytest.skip.Exception:
        return []


def take(store: Path, repository: Path, window: dict[str, Any], *options: object) -> Outcome:
    given = ["--db", store, "--region-map", "store", "--storage", repository, "--json"]
    given += ["--start-ts", window["start_ts"], "--end-ts", window["end_ts"], *options]
    for option in ("start_key", "end_key"):
        if window[option]:
            given += [f"--{option.replace('_', '-')}", window[option]]
    return bkctl("backup", *given)


def counts(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    return {name: report[name] for name in COUNTS}


def key_dictionary(store: Path, key: Path) -> pb.KeyDictionary:
    """The store's data keys, unsealed by code that is none of bkctl's."""
    sealed = pb.EncryptedContent()
    sealed.ParseFromString((store / "key.dict").read_bytes()[16:])
    master = AESGCM(bytes.fromhex(key.read_text().strip()))
    content = sealed.content + sealed.metadata["aes_gcm_tag"]
    return pb.KeyDictionary.FromString(master.decrypt(sealed.metadata["iv"], content, None))


def data_keys(store: Path, key: Path) -> list[bytes]:
    return [data_key.key for data_key in key_dictionary(store, key).keys.values()]


def decrypted(store: Path, key: Path, plain: Path) -> Path:
    """The store without encryption, made so by code that is none of bkctl's."""
    keys = key_dictionary(store, key)
    infos = pb.FileDictionary()
    log = (store / "file.dict").read_bytes()
    pos = 16 + int.from_bytes(log[8:16], "big")
    infos.ParseFromString(log[16:pos])
    while pos < len(log):
        name_end = pos + 9 + int.from_bytes(log[pos + 4 : pos + 6], "big")
        end = name_end + int.from_bytes(log[pos + 6 : pos + 8], "big")
        if log[pos + 8] == 1:
            infos.files[log[pos + 9 : name_end].decode()].ParseFromString(log[name_end:end])
        pos = end
    shutil.copytree(store / "db", plain / "db")
    shutil.copyfile(store / "last_tikv.toml", plain / "last_tikv.toml")
    for path in (plain / "db").iterdir():
        info = infos.files.get(f"/var/lib/tikv/encrypted/{store.name}/db/{path.name}")
        if info is not None:
            data_key = keys.keys[info.key_id].key
            path.write_bytes(crypt(path.read_bytes(), "aes256-ctr", data_key, info.iv))
    return plain


@pytest.mark.parametrize("jobs", [1, 2])
def test_windows_count_as_tikv_counts_them(
    shown: Path, key: Path, tmp_path: Path, jobs: int
) -> None:
    for window in windows():
        options = ["--name", window["name"], "--jobs", jobs, "--master-key", key]
        done = take(shown, tmp_path / "r", window, *options)
        assert counts(done) == {name: window[name] for name in COUNTS}, window["name"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_windows_are_the_same_by_rocksdb(
    shown: Path, key: Path, tmp_path: Path, by_rocksdb: Path, jobs: int
) -> None:
    for window in windows()[jobs - 1 :: 2]:
        options = ["--name", window["name"], "--jobs", jobs, "--master-key", key]
        done = take(shown, tmp_path / "r", window, *options)
        assert counts(done) == {name: window[name] for name in COUNTS}, window["name"]
    assert by_rocksdb.exists()


def test_the_raft_log_is_opened_decrypted(shown: Path, key: Path) -> None:
    files = [path for path in (shown / "raft-engine").iterdir() if path.name != "LOCK"]
    assert len(files) > 1
    with Source(SourceOptions(shown, master_key=key)) as source:
        for path in files:
            with source.open_file(path) as reader:
                assert reader.size == path.stat().st_size
                assert reader.read_at(0, len(RAFT_LOG_MAGIC)) == RAFT_LOG_MAGIC
                assert RAFT_LOG_MAGIC not in path.read_bytes()


def test_rocksdb_reads_the_same_of_the_decrypted_store(
    shown: Path, key: Path, tmp_path: Path
) -> None:
    plain = decrypted(shown, key, tmp_path / "plain")
    found = []
    for options in (SourceOptions(plain), SourceOptions(shown, master_key=key)):
        with Source(options) as source:
            database = open_database(source.db_dir, source.path)
            assert isinstance(database, SealedDatabase) == source.is_encrypted
            found.append((records_of(database), database.families, source.ident))
            found[-1][0]["raft"] = list(source.region_records())
            database.close()
    assert found[0] == found[1]
    assert sum(map(len, found[0][0].values())) > 17_000


def test_what_was_acknowledged_last_is_there(shown: Path, key: Path) -> None:
    acked = {raw_key: (value, ts) for raw_key, value, ts in acked_writes(NAME)}
    assert acked
    with Source(SourceOptions(shown, master_key=key)) as source:
        database = open_database(source.db_dir, source.path)
        for raw_key, (value, ts) in acked.items():
            record = database.get("write", versioned_key(raw_key, ts))
            assert record is not None
            assert value in record or len(value) > 255
        database.close()


def test_a_chain_is_whole_and_comes_back(shown: Path, key: Path, tmp_path: Path) -> None:
    named = {window["name"]: window for window in windows()}
    repository, at = tmp_path / "r", ["--storage", tmp_path / "r"]
    key_options = ["--master-key", key]
    for name in ("full1", "inc12"):
        done = take(shown, repository, named[name], "--name", name, *key_options)
        assert counts(done) == {each: named[name][each] for each in COUNTS}
    against = ["--against", shown, "--region-map", "store", *key_options]
    for name in ("full1", "inc12"):
        checked = bkctl("verify", name, *at, "--level", "deep", *against)
        assert checked.code == 0, checked.stdout + checked.stderr
    merged = bkctl("merge", "inc12", *at, "--name", "merged", "--json")
    assert counts(merged) == {name: named["full2"][name] for name in COUNTS}
    assert bkctl("restore", "inc12", *at, "--to", tmp_path / "restored").code == 0
    regions = tmp_path / "regions.json"
    regions.write_text(bkctl("regions", "--db", shown, *key_options).stdout)
    again = ["--db", tmp_path / "restored", "--region-map", "none", "--json"]
    again += ["--end-ts", named["full2"]["end_ts"], "--storage", tmp_path / "again"]
    assert counts(bkctl("backup", *again)) == {name: named["full2"][name] for name in COUNTS}
    planned = bkctl("ranges", "--db", shown, "--region-map", regions, "--json", *key_options)
    assert planned.code == 0, planned.stderr
    assert planned.document["ranges"]


def test_keys_that_are_missing_or_wrong_are_one_line(
    store: Path, key: Path, tmp_path: Path
) -> None:
    window = {"start_ts": 0, "end_ts": 1, "start_key": "", "end_key": ""}
    wrong = tmp_path / "wrong.key"
    EncryptedStore.write_key_file(wrong, bytes(32))
    for options, told in (
        ([], "--master-key FILE (" + str(store / "last_tikv.toml") + " names /var/lib/tikv"),
        (["--master-key", wrong], "not sealed by the master key in"),
        (["--master-key", tmp_path / "none"], "the master key cannot be read (No such file"),
        (["--master-key", key], "sealed by a master key that a KMS keeps (aws"),
    ):
        if key in options:
            seal_with_kms(store / "key.dict")
        refused = take(store, tmp_path / "r", window, *options)
        assert refused.code == 2
        assert told in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert key.read_text().strip() not in refused.stderr
    assert not (tmp_path / "r").exists()


def test_the_key_is_found_where_tikv_has_it(store: Path, key: Path, tmp_path: Path) -> None:
    config = store / "last_tikv.toml"
    named = f'path = "{shutil.copyfile(key, tmp_path / "own.key")}"'
    config.write_text(
        config.read_text().replace('path = "/var/lib/tikv/encrypted/master.key"', named)
    )
    full = windows()[0]
    assert counts(take(store, tmp_path / "r", full)) == {name: full[name] for name in COUNTS}


def seal_with_kms(path: Path) -> None:
    """Have a dictionary of keys say that a KMS keeps its master key."""
    content = pb.EncryptedContent.FromString(path.read_bytes()[16:])
    content.metadata["kms_vendor"] = b"aws"
    content.metadata["kms_ciphertext_key"] = b"sealed"
    sealed = content.SerializeToString()
    path.write_bytes(header(sealed, 1) + sealed)


@pytest.mark.parametrize("dictionaries", [True, False], ids=["dictionaries", "files"])
def test_flipped_and_cut_bytes_are_never_backed_up_wrong(
    store: Path, key: Path, tmp_path: Path, dictionaries: bool
) -> None:
    rng = random.Random(ROUNDS)
    expected = reading(store, key)
    plain = decrypted(store, key, tmp_path / "plain")
    if dictionaries:
        paths = [store / "file.dict", store / "key.dict"]
    else:
        paths = [path for path in (store / "db").iterdir() if path.stat().st_size]
    refused = 0
    for _ in range(ROUNDS):
        path = rng.choice(sorted(paths))
        content = path.read_bytes()
        at = rng.randrange(len(content))
        damaged = bytearray(content[: at if rng.random() < 0.2 else len(content)])
        if len(damaged) == len(content):
            damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = reading(store, key)
        except BkctlError:
            refused += 1
        else:
            # The newest log's end may be torn, as any store's may be.
            assert found in (expected, reading_alike(plain, path, content, bytes(damaged))), (
                path.name
            )
        path.write_bytes(content)
    assert refused > ROUNDS // 3


def reading(store: Path, key: Path | None) -> object:
    with Source(SourceOptions(store, master_key=key)) as source:
        database = open_database(source.db_dir, source.path)
        try:
            return records_of(database)
        finally:
            database.close()


def reading_alike(plain: Path, path: Path, content: bytes, damaged: bytes) -> object:
    """What is read of the plain store with the same damage; None if it is refused."""
    twin = plain / "db" / path.name
    if not twin.exists():
        return None
    whole = twin.read_bytes()
    pairs = zip(whole, content, damaged, strict=False)
    twin.write_bytes(bytes(byte ^ one ^ other for byte, one, other in pairs))
    try:
        return reading(plain, None)
    except BkctlError:
        return None
    finally:
        twin.write_bytes(whole)


class Stopping(Quiet):
    """Stops all workers in the middle of a run, once, and looks at the files there are."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__(self._stop)
        self._look, self.looked = look, 0

    def _stop(self, event: str) -> None:
        if event != "range_done" or self.looked == 2:
            return
        self.looked += 1
        own = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
        children = [int(child) for child in Path(own).read_text().split()]
        for child in children:
            os.kill(child, signal.SIGSTOP)
        try:
            self._look()
        finally:
            for child in children:
                os.kill(child, signal.SIGCONT)


def test_a_run_stopped_in_the_middle_shows_no_value_and_no_key(
    shown: Path, key: Path, tmp_path: Path
) -> None:
    work_dir, repository = tmp_path / "work", tmp_path / "r"
    work_dir.mkdir()
    values = [value for _, value, _ in acked_writes(NAME) if len(value) >= 16][::50]
    plain = decrypted(shown, key, tmp_path / "plain")
    assert files_with(values, plain)
    keys = [bytes.fromhex(key.read_text().strip()), *data_keys(shown, key)]
    secrets = [*values, *keys, *(secret.hex().encode() for secret in keys)]
    seen: set[str] = set()

    def look() -> None:
        for place in (work_dir, repository):
            seen.update(path.suffix for path in place.rglob("*") if path.is_file())
            assert files_with(secrets, place) == []

    window = windows()[0]
    asked = request(shown, repository, start_ts=0, end_ts=window["end_ts"], jobs=2)
    asked = dataclasses.replace(
        asked,
        source=SourceOptions(shown, work_dir, master_key=key),
        load_regions=lambda source: load_region_map("store", source, None),
        compression=Compression("none"),
        cipher=Cipher("aes256-ctr", bytes(range(32))),
        end_key=bytes.fromhex(window["end_key"]),
    )
    listener = Stopping(look)
    report = take_backup(asked, listener)
    assert (report.status, report.total_kvs) == ("ok", window["total_kvs"])
    assert listener.looked == 2
    assert {".sst", ".log"} & seen == {".sst"}
    look()
    assert list(work_dir.iterdir()) == []


def files_with(secrets: list[bytes], folder: Path) -> list[Path]:
    """Files on a disk that hold one of the secrets; those in memory are none."""
    found = []
    for path in folder.rglob("*"):
        in_memory = path.is_symlink() and "memfd:" in os.path.realpath(path)
        if path.is_file() and not in_memory and any(s in path.read_bytes() for s in secrets):
            found.append(path)
    return found
