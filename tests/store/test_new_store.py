"""New stores of finished files: what RocksDB's own tools of older days read, and what stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from rocksdict import Rdict

from bkctl.errors import CorruptionError, StorageError
from bkctl.sst.writer import Compression, SstWriter
from bkctl.store.new_store import TIKV_FAMILIES, NewStore
from bkctl.store.source import Source, SourceOptions
from tests.oracles import require_tool

KEYS = [b"z%04d" % number for number in range(1000)]


def sst(path: Path, keys: list[bytes], value: bytes) -> Path:
    writer = SstWriter(path, Compression())
    writer.write(keys, [value] * len(keys))
    writer.finish()
    return path


def make(path: Path, files: list[Path], family: str = "write") -> None:
    with NewStore(path, [family]) as store:
        for file in files:
            store.ingest(family, [file])
        store.finish()


def scanned(path: Path, family: str) -> list[bytes]:
    told = subprocess.run(
        [require_tool("ldb"), f"--db={path}", f"--column_family={family}", "scan"],
        capture_output=True,
        check=True,
    )
    return told.stdout.split(b"\n")[:-1]


def test_an_older_rocksdb_reads_it(tmp_path: Path) -> None:
    make(tmp_path / "db", [sst(tmp_path / "a", KEYS, b"v")])
    assert len(scanned(tmp_path / "db", "write")) == len(KEYS)
    # It has opened the directory for writing now, and reads it again.
    assert len(scanned(tmp_path / "db", "write")) == len(KEYS)


def test_the_families_are_tikvs_and_those_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "db", [sst(tmp_path / "a", KEYS, b"v")], 'an "odd"#one\\')
    assert set(Rdict.list_cf(str(tmp_path / "db"))) == {*TIKV_FAMILIES, 'an "odd"#one\\'}
    assert scanned(tmp_path / "db", "lock") == []


def test_the_directory_holds_nothing_of_the_library(tmp_path: Path) -> None:
    make(tmp_path / "db", [sst(tmp_path / "a", KEYS, b"v")])
    names = {path.name for path in (tmp_path / "db").iterdir()}
    assert not {"rocksdict-config.json", "LOG"} & names
    (options,) = (path for path in (tmp_path / "db").iterdir() if path.name.startswith("OPTIONS"))
    text = options.read_text()
    assert str(tmp_path) not in text
    assert text.count("checksum=kCRC32c") == text.count("format_version=5") == 4


def test_it_can_be_backed_up_again(tmp_path: Path) -> None:
    make(tmp_path / "db", [sst(tmp_path / "a", KEYS, b"v")])
    with Source(SourceOptions(tmp_path / "db")) as source:
        source.require(*TIKV_FAMILIES)


def test_linked_files_stay_as_they_are_even_where_later_ones_overlap(tmp_path: Path) -> None:
    files = [sst(tmp_path / f"f{n}", KEYS[n::3], b"%d" % n) for n in range(9)]
    files.append(sst(tmp_path / "again", KEYS[::7], b"newest"))
    before = {file: (hashlib.sha256(file.read_bytes()).digest(), file.stat()) for file in files}
    links = []
    for file in files:
        links.append(file.with_suffix(".link"))
        os.link(file, links[-1])
    make(tmp_path / "db", links)
    for file, (digest, status) in before.items():
        assert hashlib.sha256(file.read_bytes()).digest() == digest
        now = file.stat()
        assert (now.st_ino, now.st_size, now.st_mtime_ns, now.st_mode, now.st_nlink) == (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_mode,
            2,
        )
    records = dict(line.split(b" : ") for line in scanned(tmp_path / "db", "write"))
    assert len(records) == len(KEYS)
    assert records[KEYS[7]] == b"newest"
    assert records[KEYS[8]] == b"8"


def test_what_is_no_sst_file_is_corruption(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"x" * 1000)
    with pytest.raises(CorruptionError, match="bad"):
        make(tmp_path / "db", [bad])


def test_a_store_that_exists_is_not_taken(tmp_path: Path) -> None:
    make(tmp_path / "db", [])
    with pytest.raises(StorageError, match="db"):
        NewStore(tmp_path / "db")
