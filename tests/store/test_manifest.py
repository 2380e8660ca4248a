"""The MANIFEST reader: agrees with RocksDB's own, and finds every damage."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from rocksdict import AccessType, Options, Rdict

from bkctl.codec.log import BLOCK_SIZE, TornTailError, blocks_of, file_blocks
from bkctl.errors import CorruptionError
from bkctl.store.manifest import ManifestState, read_manifest


def make_store(path: Path, flushes: int = 3) -> Path:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
    db = Rdict(str(path), options, column_families=families, access_type=AccessType.read_write())
    write = db.get_column_family("write")
    for part in range(flushes):
        for i in range(part * 100, part * 100 + 100):
            write[b"z%06d" % i] = b"v" * 20
            db[b"z%06d" % i] = b"v" * 300
        write.flush()
        db.flush()
    db.close()
    return path


def manifest_of(store: Path) -> Path:
    return store / (store / "CURRENT").read_text().strip()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return manifest_of(make_store(tmp_path / "store"))


def test_live_files_and_families_are_those_of_rocksdb(manifest: Path) -> None:
    state = read_manifest(manifest.read_bytes(), manifest)
    on_disk = {path.name: path.stat().st_size for path in manifest.parent.glob("*.sst")}
    assert {file.name: file.size for file in state.live_files} == on_disk
    assert set(state.families) == {"default", "lock", "write", "raft"}
    db = Rdict(
        str(manifest.parent),
        Options(raw_mode=True),
        column_families={name: Options(raw_mode=True) for name in state.families},
        access_type=AccessType.read_only(False),
    )
    told = {
        (live["name"].lstrip("/"), live["start_key"], live["end_key"], live["level"])
        for live in db.live_files()
    }
    db.close()
    assert told == {
        (file.name, file.smallest_key, file.largest_key, file.level) for file in state.live_files
    }


def test_compacted_away_files_are_gone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
    db = Rdict(str(store), Options(raw_mode=True), column_families=families)
    write = db.get_column_family("write")
    for i in range(300):
        write[b"z%06d" % i] = b"newer"
    write.flush()
    write.compact_range(None, None)
    db.close()
    path = manifest_of(store)
    state = read_manifest(path.read_bytes(), path)
    assert len([file for file in state.live_files if file.family == "write"]) == 1


def test_every_truncation_is_found_or_ends_between_records(manifest: Path) -> None:
    content = manifest.read_bytes()
    whole_ends = 0
    for length in range(len(content)):
        try:
            read_manifest(content[:length], manifest)
            whole_ends += 1
        except TornTailError:
            continue
    # Only a cut exactly between two records looks like a shorter history.
    assert whole_ends < 40


def test_a_torn_tail_is_dropped_when_asked(manifest: Path) -> None:
    content = manifest.read_bytes()
    full = read_manifest(content, manifest)
    state = read_manifest(content[:-3], manifest, torn_tail_ok=True)
    assert state.last_sequence <= full.last_sequence


def test_every_flipped_byte_is_found(manifest: Path) -> None:
    content = manifest.read_bytes()
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 0x41
        with pytest.raises(CorruptionError) as caught:
            read_manifest(bytes(damaged), manifest)
        assert manifest.name in str(caught.value)


def test_space_set_aside_behind_the_last_record_is_no_damage(manifest: Path) -> None:
    content = manifest.read_bytes()
    assert read_manifest(content + bytes(5000), manifest) == read_manifest(content, manifest)


def test_damage_between_zeros_is_found(manifest: Path) -> None:
    content = manifest.read_bytes()
    for zeros in (100, BLOCK_SIZE, 3 * BLOCK_SIZE):
        with pytest.raises(CorruptionError, match="checksum mismatch"):
            read_manifest(content + bytes(zeros) + b"x" + bytes(zeros), manifest)


def read_file(path: Path) -> ManifestState:
    with path.open("rb") as file:
        return read_manifest(file_blocks(file.fileno(), path.stat().st_size), path)


def test_a_manifest_of_any_size_is_read_a_piece_at_a_time(manifest: Path) -> None:
    content = manifest.read_bytes()
    expected = read_manifest(content, manifest)
    assert read_manifest(blocks_of(content), manifest) == read_file(manifest) == expected
    os.truncate(manifest, 256 << 20)
    tracemalloc.start()
    try:
        assert read_file(manifest) == expected
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_manifest_of_several_blocks_is_read(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_disable_auto_compactions(True)
    db = Rdict(str(tmp_path / "store"), options)
    for i in range(400):
        db[b"z%06d" % i + b"k" * 200] = b"v"
        db.flush()
    db.close()
    path = manifest_of(tmp_path / "store")
    assert path.stat().st_size > 2 * 32768
    state = read_manifest(path.read_bytes(), path)
    assert len(state.live_files) == len(list(path.parent.glob("*.sst"))) == 400


def test_debian_rocksdb_agrees(manifest: Path) -> None:
    try:
        dump = subprocess.run(
            ["ldb", "manifest_dump", f"--path={manifest}"], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("ldb (Debian's rocksdb-tools) is not installed")
    state = read_manifest(manifest.read_bytes(), manifest)
    assert f"last_sequence {state.last_sequence}" in dump.stdout
