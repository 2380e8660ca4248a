"""Stores with values in blob files show what the model says, in SST files and logs, either way."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.errors import BkctlError, CorruptionError
from bkctl.mvcc import long_values
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.keys import versioned_key
from bkctl.mvcc.raw import RawLayout, RawScanner
from bkctl.store import blob_pins, column_scan, pinning
from bkctl.store.database import Database
from bkctl.store.ident import API_V1
from bkctl.store.layout import locate
from bkctl.store.source import Source, SourceOptions
from bkctl.store.tables import UnreadableError
from bkctl.store.view import PinnedView
from bkctl.titan import blobs
from tests.commands.console import bkctl
from tests.histories import histories
from tests.model import History
from tests.mvcc.test_scan import scan
from tests.titan.blob_writer import LZ4, SNAPPY, ZSTD, BlobFileWriter, deleted, log, next_file
from tests.titan.titan_store import MANIFEST, TitanStore

DICTIONARY = b"".join(b"%05d" % i for i in range(300))
FORMS: tuple[dict[str, object], ...] = (
    {"version": 1, "codec": SNAPPY},
    {"version": 2, "codec": LZ4},
    {"version": 2, "codec": ZSTD, "dictionary": DICTIONARY},
    {"codec": LZ4, "dictionary": DICTIONARY},
    {"block_size": 4096},
    {"codec": ZSTD},
)


ROUNDS = int(os.environ.get("BKCTL_TITAN_ROUNDS", "25"))
EXAMPLES = int(os.environ.get("BKCTL_TITAN_EXAMPLES", "3"))


class NotAsColumns:
    """What columns are read with, where they are not to be."""

    def __init__(self, *_: object) -> None:
        raise UnreadableError("not as columns")


@pytest.fixture(params=["columns", "lookups", "rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How values are come by."""
    if request.param == "rows":
        monkeypatch.setattr(column_scan, "MergedScan", NotAsColumns)
        monkeypatch.setattr(column_scan, "Lookup", NotAsColumns)
    elif request.param == "lookups":
        monkeypatch.setattr(column_scan, "SCAN_CHUNK", 1)
        monkeypatch.setattr(long_values, "_SAMPLE", 0)
        monkeypatch.setattr(long_values, "_FEW", 0)
    return str(request.param)


def figures(counted: Accounting) -> tuple[int, int, int]:
    return counted.total_kvs, counted.total_bytes, counted.crc64xor


@contextmanager
def opened(store: Path) -> Iterator[Any]:
    """A view of a store with empty logs, without the processes that a source has."""
    with PinnedView(locate(store)) as view:
        yield SimpleNamespace(db_dir=view.db_dir, path=view.source)


def many_values(count: int = 300) -> History:
    """Keys with values of many sizes, every third of which comes twice."""
    history = History()
    for i in range(count):
        key = b"k%05d" % i
        for ts in (10, 20)[: 1 + (i % 3 == 0)]:
            history.must_prewrite_put(key, b"%05d" % (i + ts) * (40 + i * 7 % 400), key, ts)
            history.must_commit(key, ts, ts + 1)
    return history


def made(path: Path, history: History, *, flush: bool = True, per_file: int = 100) -> Path:
    store = TitanStore(path, per_file=per_file, forms=FORMS)
    history.replay(store)
    store.close(flush=flush)
    return path


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(histories(), st.booleans())
def test_a_scan_shows_what_the_model_says(history: History, flush: bool) -> None:
    newest = max(history.timestamps(), default=0)
    moments = sorted({0, *history.timestamps()})
    with tempfile.TemporaryDirectory() as folder:
        store = made(Path(folder) / "store", history, flush=flush, per_file=2)
        with Source(SourceOptions(store, work_dir=Path(folder))) as source:
            for start_ts in {0, moments[len(moments) // 2]}:
                assert_shows(history, source, start_ts, newest)


def test_all_forms_of_files_are_read(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that values are fetched in many goes.
    monkeypatch.setattr(blobs, "_FETCH_BYTES", 5000)
    history = many_values()
    store = made(tmp_path / "store", history)
    with opened(store) as view:
        for window in ((0, 15), (0, 30), (15, 30)):
            assert_shows(history, view, *window)


def test_blob_indexes_in_logs_count(way: str, tmp_path: Path) -> None:
    history = many_values()
    store = made(tmp_path / "store", history, flush=False)
    assert not list(store.glob("*.sst"))
    with Source(SourceOptions(store)) as source:
        assert_shows(history, source, 0, 30)


@pytest.mark.parametrize("flush", [True, False])
def test_values_that_titan_moved_are_read_where_they_are_now(
    way: str, flush: bool, tmp_path: Path
) -> None:
    history = many_values(60)
    store = TitanStore(tmp_path / "store", per_file=20, forms=FORMS)
    history.replay(store)
    store.flush()
    store.collect()
    store.close(flush=flush)
    assert not (tmp_path / "store" / "titandb" / "000002.blob").exists()
    with Source(SourceOptions(tmp_path / "store")) as source:
        assert_shows(history, source, 0, 30)


def test_raw_pairs_may_lie_in_blob_files(way: str, tmp_path: Path) -> None:
    pairs = {b"k%04d" % i: b"%d" % i * (i * 31 % 500) for i in range(500)}
    with TitanStore(tmp_path / "store", forms=FORMS) as store:
        for key, value in pairs.items():
            store.put_raw(key, value)
    with opened(tmp_path / "store") as view:
        database = Database(view.db_dir, view.path)
        scanner = RawScanner(database, "default", b"z", b"{", RawLayout(API_V1, 0, 30))
        found: dict[bytes, bytes] = {}
        while (batch := scanner.scan_batch()) is not None:
            found |= zip(batch[0].trimmed(1, 0).tolist(), batch[1].tolist(), strict=True)
        assert found == pairs
        database.close()


def assert_shows(history: History, source: Any, start_ts: int, end_ts: int) -> None:
    expected = history.expected(start_ts, end_ts)
    _, counted, default_kvs = scan(source, start_ts, end_ts)
    assert figures(counted) == (expected.kvs, expected.bytes, expected.crc64xor)
    assert default_kvs == expected.default_kvs


def test_a_range_with_a_missing_blob_fails_by_its_name(tmp_path: Path) -> None:
    store = made(tmp_path / "store", many_values(), per_file=500)
    blob = store / "titandb" / "000002.blob"
    forgotten = [next_file(3), deleted(2)]
    with (store / "titandb" / MANIFEST).open("ab") as manifest:
        manifest.write(log(forgotten))
    at = ["--db", store, "--region-map", "none", "--storage", tmp_path / "repo", "--name", "b"]
    done = bkctl("backup", *at, "--json")
    assert done.code == 3
    (error,) = done.document["errors"]
    assert error["kind"] == "corruption"
    assert f"{blob}: titandb's MANIFEST does not name it, but the value of 7A" in error["message"]
    assert not list((tmp_path / "repo").rglob("backupmeta"))
    shutil.rmtree(store / "titandb")
    done = bkctl("backup", *at, "--name", "d")
    assert done.code == 3
    assert "000002.blob: missing, and the value of 7A" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda blob: blob.unlink(), r"000002\.blob: missing: titandb's MANIFEST names it"),
        (lambda blob: os.truncate(blob, 100), r"000002\.blob: is 100 bytes, the MANIFEST says"),
        (lambda blob: (blob.parent / "CURRENT").unlink(), "CURRENT: missing"),
        (lambda blob: (blob.parent / "CURRENT").write_text("x"), "does not name a MANIFEST"),
        (lambda blob: (blob.parent / MANIFEST).unlink(), f"{MANIFEST}: missing"),
    ],
)
def test_what_is_missing_or_cut_is_told_when_the_store_is_opened(
    change: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    store = made(tmp_path / "store", many_values(20))
    change(store / "titandb" / "000002.blob")
    with pytest.raises(CorruptionError, match=told), opened(store):
        pass


def test_a_folder_without_any_file_is_no_titan(tmp_path: Path) -> None:
    history = many_values(20)
    with TitanStore(tmp_path / "store", min_size=1 << 20) as store:
        history.replay(store)
    shutil.rmtree(tmp_path / "store" / "titandb")
    (tmp_path / "store" / "titandb").mkdir()
    with opened(tmp_path / "store") as view:
        assert_shows(history, view, 0, 30)


def test_a_blob_index_in_another_family_is_damage(tmp_path: Path) -> None:
    store = TitanStore(tmp_path / "store")
    many_values(20).replay(store)
    store.mark("write", b"k00003", 11)
    store.close()
    with (
        opened(tmp_path / "store") as view,
        pytest.raises(CorruptionError, match=r"write has a blob index at key 7A6B"),
    ):
        scan(view, 0, 30)


@pytest.mark.parametrize("flush", [True, False])
def test_rocksdb_never_shows_a_blob_index_as_a_value(flush: bool, tmp_path: Path) -> None:
    store = made(tmp_path / "store", many_values(20), flush=flush)
    with Source(SourceOptions(store)) as source:
        keys = [versioned_key(b"k00003", 10), versioned_key(b"k00003", 9)]
        assert source.missing("default", keys) == (keys[1],)
        database = Database(source.db_dir, source.path)
        for start in (b"z", keys[0]):
            with pytest.raises(CorruptionError, match="blob index"):
                database.scan("default", start, b"{").take(100)
        with pytest.raises(CorruptionError, match="blob index"):
            database.get("default", keys[0])
        assert database.has("default", keys[0])
        assert not database.has("default", keys[1])
        database.close()


def test_what_only_rocksdb_could_read_is_told_beside_blob_indexes(tmp_path: Path) -> None:
    store = TitanStore(tmp_path / "store")
    many_values(20).replay(store)
    store.delete_range("default", b"z0", b"z1")
    store.close()
    with (
        opened(tmp_path / "store") as view,
        pytest.raises(CorruptionError, match=r"\.sst: holds range deletions; beside values in"),
    ):
        scan(view, 0, 30)


def test_files_that_titan_replaces_meanwhile_are_pinned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = many_values(50)
    store = made(tmp_path / "store", history, per_file=20)
    unused = BlobFileWriter(100)
    steps: list[Callable[[], None]] = []

    def add() -> None:
        (store / "titandb" / "000100.blob").write_bytes(unused.finish())
        append(next_file(101) + unused.added())

    def drop() -> None:
        append(next_file(101) + deleted(100))
        (store / "titandb" / "000100.blob").unlink()

    def append(edit: bytes) -> None:
        path = store / "titandb" / MANIFEST
        path.write_bytes(path.read_bytes() + log([edit]))

    def meanwhile(path: Path, size: int, named: str) -> int:
        if steps and path.name == steps_at:
            steps.pop(0)()
        return pinning.open_sized(path, size, named)

    monkeypatch.setattr(blob_pins, "open_sized", meanwhile)
    steps_at = "000002.blob"
    steps.append(add)
    with opened(store) as view:
        assert not steps
        assert "000100.blob" in os.listdir(view.db_dir / "titandb")
        assert_shows(history, view, 0, 30)
    steps_at = "000100.blob"
    steps.append(drop)
    with opened(store) as view:
        assert not steps
        assert "000100.blob" not in os.listdir(view.db_dir / "titandb")
        assert_shows(history, view, 0, 30)


def test_no_changed_byte_is_published_wrong(tmp_path: Path) -> None:
    history = many_values(120)
    store = made(tmp_path / "store", history, per_file=40)
    expected = history.expected(0, 30)
    whole = expected.kvs, expected.bytes, expected.crc64xor
    files = sorted(path for path in (store / "titandb").iterdir())
    contents = {path: path.read_bytes() for path in files}
    refused = 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        path = rng.choice(files)
        content = bytearray(contents[path])
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.choice((1, 1, 3))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        found = read(store)
        if isinstance(found, str):
            refused += 1
            assert "titandb" in found
            assert "\n" not in found
        else:
            assert found == whole, (seed, path)
        path.write_bytes(contents[path])
    assert refused > ROUNDS // 2


def read(store: Path) -> tuple[int, int, int] | str:
    """What is there, or the error that says why not."""
    try:
        with opened(store) as view:
            return figures(scan(view, 0, 30)[1])
    except BkctlError as e:
        return str(e)


def test_damage_in_the_files_of_blob_indexes_is_told_by_their_names(tmp_path: Path) -> None:
    history = many_values(120)
    store = made(tmp_path / "store", history)
    expected = history.expected(0, 30)
    told = 0
    for path in sorted(store.glob("*.sst")):
        content = path.read_bytes()
        for at in range(50, len(content), max(1, len(content) // 8)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
            found = read(store)
            if isinstance(found, str):
                told += 1
                assert ".sst" in found
            else:
                assert found == (expected.kvs, expected.bytes, expected.crc64xor)
        path.write_bytes(content)
    assert told > 8
