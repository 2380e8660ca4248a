"""Restoring what someone made who means harm: an error that names the file, and nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.sst.soundness import check_sound
from bkctl.storage.url import parse_storage
from bkctl.store.builder import NamedFile, StoreBuilder
from tests.commands.console import process
from tests.oracles import ROOT
from tests.restore.fuzz import make_backup
from tests.sst.mutations import sound_files, without_properties

HOSTILE = without_properties()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A backup with a sound file and one on which RocksDB crashes, their hashes being right."""
    path = tmp_path / "repo"
    make_backup(path, {"default": sound_files(tmp_path)[0], "write": HOSTILE})
    return path


@pytest.mark.parametrize("options", [(), ("--no-verify",)])
def test_a_file_on_which_rocksdb_crashes_is_named(
    repository: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    target = tmp_path / "new" / "db"
    ended = process("restore", "--storage", repository, "--to", target, *options)
    assert ended.returncode == 5, ended.stderr
    assert "b/write.sst: " in ended.stdout
    assert "rocksdb.properties" in ended.stdout
    assert ended.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo"]


def test_a_crash_that_nobody_foresaw_names_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "hostile.sst"
    hostile.write_bytes(HOSTILE)
    with StoreBuilder() as builder:
        builder.make(tmp_path / "db", ["write"])
        with pytest.raises(Exception, match=r"^b/write.sst: RocksDB crashed .* SIGSEGV"):
            builder.ingest("write", [NamedFile("b/write.sst", hostile)])


def test_what_rocksdb_refuses_is_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.sst" for number in range(3)]
    for file, content in zip(files, [*sound_files(tmp_path)[:2], b"no SST file"], strict=True):
        file.write_bytes(content)
    named = [NamedFile(f"b/{file.name}", file) for file in (files[0], files[2])]
    with StoreBuilder() as builder:
        builder.make(tmp_path / "db", ["write"])
        refused = builder.ingest("write", named)
    assert refused is not None
    assert refused.shown_name == "b/2.sst"


def test_every_block_of_a_file_is_looked_through(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(sound_files(tmp_path)[-2])
    check_sound(_Bytes(bytes(data)), "f")
    # In the middle, where RocksDB does not look to take a file in.
    data[len(data) // 2] ^= 0xFF
    make_backup(tmp_path / "other", {"write": bytes(data)})
    result = restore(RestoreRequest(parse_storage(str(tmp_path / "other")), tmp_path / "db"))
    assert [finding.file for finding in result.findings] == ["b/write.sst"]
    assert "checksum" in result.findings[0].what


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def test_mutated_files_end_in_the_right_store_or_in_an_error_that_names_them() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.restore.fuzz", "0", "120"],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert sum(counts.values()) == 120
    assert counts["refused"] > 60
    assert counts["restored"] > 20
