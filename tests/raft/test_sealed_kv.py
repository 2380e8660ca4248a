"""The raft log is applied to a view of an encrypted store as to a plain one, nothing in plain."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError
from bkctl.raft import sealed_kv
from bkctl.raft.rocks_kv import RocksKv
from bkctl.raft.sealed_kv import SealedKv
from bkctl.raft.source import open_source
from bkctl.sst.writer import Compression, SstWriter
from bkctl.store.layout import locate
from bkctl.store.open_view import open_database
from bkctl.store.sealed_view import SealedView
from bkctl.store.source import SourceOptions
from bkctl.store.view import PinnedView
from tests.commands.console import bkctl
from tests.real.stores import truth, unpack
from tests.store.at_rest import EncryptedStore, encrypt_store
from tests.store.sealed import fill, plain_bytes_in, records_of

FAMILIES = ("default", "lock", "write", "raft")
SECRET = b"applied-and-never-plain"


def operate(kv: RocksKv | SealedKv, sst: Path, seed: int) -> list[object]:
    """Random reads and writes; what was read."""
    rng, seen = random.Random(seed), list[object]()

    def key() -> bytes:
        return b"z%06d" % rng.randrange(450)

    for _ in range(600):
        family, what = rng.choice(FAMILIES), rng.random()
        if what < 0.6:
            kv.put(family, key(), SECRET + rng.randbytes(rng.choice((0, 20, 400))))
        elif what < 0.75:
            kv.delete(family, key())
        elif what < 0.8:
            first, last = sorted((key(), key()))
            kv.delete_range(family, first, min(last, first[:-1] + b"\xff"))
        elif what < 0.9:
            first, last = sorted((key(), key()))
            seen.append(list(kv.records(family, first, last)))
        else:
            at = key()
            seen.append(list(kv.records(family, at, at + b"\0")))
    kv.ingest("default", sst, sst.name)
    seen.append([list(kv.records(family, b"", b"\xff")) for family in FAMILIES])
    kv.finish()
    return seen


@pytest.mark.parametrize("piece", [1, 3000, 8 << 20])
def test_writes_are_read_and_last_as_rocksdb_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    seed = piece
    monkeypatch.setattr(sealed_kv, "_PIECE", 20_000 if piece == 1 else piece)
    fill(tmp_path / "plain" / "db")
    store = encrypt_store(Path(shutil.copytree(tmp_path / "plain", tmp_path / "sealed")))
    sst = tmp_path / "ingested.sst"
    writer = SstWriter(sst, Compression("none"))
    writer.write([b"z000007", b"z000500"], [b"ingested", b"too"])
    writer.finish()
    plain_layout = locate(tmp_path / "plain")
    layout = locate(store.path, master_key=store.key_file)
    assert layout.at_rest is not None
    work = tmp_path / "work"
    work.mkdir()
    with PinnedView(plain_layout) as plain, SealedView(layout, layout.at_rest, work) as sealed:
        with plain.replaying() as folder:
            expected = operate(RocksKv(folder, plain.source), sst, seed)
        with sealed.replaying() as folder:
            kv = SealedKv(folder, sealed.source, layout.at_rest.open)
            assert kv.has_family("raft")
            assert not kv.has_family("other")
            assert operate(kv, sst, seed) == expected
        read = [records_of(open_database(view.db_dir, view.source)) for view in (plain, sealed)]
        assert read[0] == read[1]
        assert plain_bytes_in(work, [SECRET, b"z0000", b"ingested"]) == []
        assert {file.family for file in sealed.state.live_files} >= {"write", "raft"}
    layout.at_rest.close()


@pytest.fixture
def cut_store(tmp_path: Path) -> Path:
    """A real store as a loss of power left it: what was acknowledged is in its raft log alone."""
    (store,) = unpack("one", tmp_path)
    os.truncate(store / "db" / "000043.log", 1_677_594)
    return store


def encrypt_all(store: Path) -> EncryptedStore:
    encrypted = encrypt_store(store)
    for path in (store / "raft-engine").iterdir():
        if path.name != "LOCK":
            encrypted.encrypt(f"raft-engine/{path.name}")
    encrypted.write_file_dict()
    return encrypted


def test_what_only_the_raft_log_has_is_backed_up(cut_store: Path, tmp_path: Path) -> None:
    def applied(options: SourceOptions) -> object:
        with open_source(options) as source:
            database = open_database(source.db_dir, source.path)
            found = records_of(database), source.standings, list(source.raft_records(b"", b"\xff"))
            database.close()
            return found

    expected = applied(SourceOptions(cut_store))
    store = encrypt_all(cut_store)
    assert applied(SourceOptions(store.path, master_key=store.key_file)) == expected
    window = {each["name"]: each for each in truth("one")["windows"]}["acked"]
    keys = ["--start-key", window["start_key"], "--end-key", window["end_key"]]
    done = bkctl(
        *("backup", "--db", store.path, "--region-map", "store", "--storage", tmp_path / "r"),
        *("--end-ts", window["end_ts"], "--master-key", store.key_file, "--json", *keys),
    )
    assert done.code == 0, done.stderr
    figures = [done.document[name] for name in ("total_kvs", "total_bytes", "crc64xor")]
    assert figures == [1500, 360150, f"{9974316431638705321:016x}"]


def test_a_raft_log_that_is_not_what_its_entry_says_is_refused(cut_store: Path) -> None:
    store = encrypt_all(cut_store)
    for name in [name for name in store.infos if name.endswith(".raftlog")]:
        store.infos[name].iv = bytes(16)
    store.write_file_dict()
    refused = bkctl(
        *("ranges", "--db", store.path, "--region-map", "store", "--master-key", store.key_file)
    )
    assert refused.code == CorruptionError.exit_code
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "raft-engine" in refused.stderr
