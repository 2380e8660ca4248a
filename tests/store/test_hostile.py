"""A store on which RocksDB crashes: what ends is a helper, and an error names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from rocksdict import DBCompressionType, Options, Rdict

from bkctl.errors import CorruptionError
from bkctl.store.source import Source, SourceOptions
from tests.commands.console import process
from tests.sst.mutations import with_wild_restart


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A raw store of one file, which is not compressed."""
    path = tmp_path / "store"
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    db = Rdict(str(path), options)
    for number in range(1000):
        db[b"z%06d" % number] = b"v" * 50
    db.flush()
    db.close()
    return path


def make_hostile(store: Path) -> Path:
    (path,) = store.glob("*.sst")
    path.write_bytes(with_wild_restart(path.read_bytes()))
    return path


def test_opening_it_is_an_error_that_names_the_file(store: Path) -> None:
    path = make_hostile(store)
    with pytest.raises(CorruptionError, match=rf"^{path}: .*RocksDB crashed .*SIGSEGV"):
        Source(SourceOptions(store))


@pytest.mark.parametrize("command", ["ranges", "backup", "verify"])
def test_commands_say_so_in_one_line(store: Path, tmp_path: Path, command: str) -> None:
    repository = tmp_path / "repo"
    of_store = ("--db", store, "--region-map", "none", "--raw")
    to = ("--storage", repository, "--progress", "none")
    assert process("backup", *of_store, *to, "--name", "before").returncode == 0
    path = make_hostile(store)
    arguments = {
        "ranges": of_store,
        "backup": (*of_store, *to),
        "verify": (*to, "--against", store),
    }
    ended = process(command, *arguments[command])
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"bkctl: corruption: {path}: ")
    assert ended.stderr.count("\n") == 1
    assert "SIGSEGV" in ended.stderr
    assert [found.name for found in repository.iterdir()] == ["before"]
