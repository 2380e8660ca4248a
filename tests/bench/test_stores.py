from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bkctl.backup.changes import find_changes
from bkctl.bench import stores
from bkctl.bench.stores import (
    END_TS,
    INCREMENT_TS,
    KINDS,
    MIN_ROWS,
    REGIONS,
    StoreKind,
    make_store,
    region_map_of,
)
from bkctl.mvcc.keys import split_versioned
from bkctl.mvcc.write import PUT, parse_write
from bkctl.regions import pd
from bkctl.regions.plan import make_plan
from bkctl.regions.region_map import RegionMap
from bkctl.sst.reader import FileReader, SstReader
from bkctl.store.source import Source, SourceOptions
from tests.commands.console import bkctl

ROWS = 3000
BY_WORD = {kind.word: kind for kind in KINDS}


def made(kind: StoreKind, tmp_path: Path, rows: int = ROWS) -> Path:
    path = tmp_path / "made" / kind.word
    make_store(kind, rows, path)
    return path


def records(path: Path, family: str) -> list[tuple[bytes, bytes]]:
    with Source(SourceOptions(path)) as source:
        files = [source.read_path(file) for file in source.live_files() if file.family == family]
        found = []
        for file in files:
            with FileReader(file) as reader:
                found += list(SstReader(reader, str(file), ingested=True).entries())
    return sorted(found)


def report(path: Path, repository: Path, *options: object) -> dict[str, Any]:
    outcome = bkctl(
        *("backup", "--db", path, "--region-map", region_map_of(path), "--storage", repository),
        *("--jobs", 1, "--end-ts", END_TS, "--compression", "none", "--json", *options),
    )
    assert outcome.code == 0, outcome.stderr
    document: dict[str, Any] = outcome.document
    return document


@pytest.mark.parametrize("word", ["short", "long", "versions"])
def test_versions_are_whole_transactions(word: str, tmp_path: Path) -> None:
    kind = BY_WORD[word]
    path = made(kind, tmp_path)
    long_values = dict(records(path, "default"))
    rows: dict[bytes, int] = {}
    for key, value in records(path, "write"):
        raw_key, commit_ts = split_versioned(key)
        record = parse_write(value)
        rows[raw_key] = rows.get(raw_key, 0) + 1
        assert record.start_ts <= commit_ts <= END_TS
        if record.write_type == PUT and kind.value_length <= 255:
            assert record.short_value is not None
            assert len(record.short_value) == kind.value_length
        elif record.write_type == PUT:
            long = long_values.pop(key[:-8] + (~record.start_ts % (1 << 64)).to_bytes(8, "big"))
            assert len(long) == kind.value_length
    assert len(rows) == ROWS
    assert set(rows.values()) == set(range(1, kind.versions + 1))
    assert list(long_values) == [b"\x01\x01"]


def test_raw_pairs(tmp_path: Path) -> None:
    found = records(made(BY_WORD["raw"], tmp_path), "default")[1:]
    assert len({key for key, _ in found}) == ROWS
    assert {len(value) for _, value in found} == {100}
    assert all(key.startswith(b"zt") for key, _ in found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_backups_of_it_are_whole(kind: StoreKind, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    repository = tmp_path / "repository"
    raw = ["--raw"] if kind.is_raw else []
    full = report(path, repository, *raw)
    assert full["ranges"]["done"] == REGIONS
    assert full["total_kvs"] == ROWS or kind.versions > 1
    verified = bkctl("verify", "--storage", repository, "--level", "deep", "--json")
    assert verified.code == 0, verified.stderr
    if not kind.is_raw:
        late = report(path, repository, "--start-ts", INCREMENT_TS)
        assert 0 < late["total_kvs"] < ROWS / 2
        assert late["total_kvs"] == report(
            path, tmp_path / "all", "--start-ts", INCREMENT_TS, "--read-all"
        )["total_kvs"]  # fmt: skip


def test_an_incremental_backup_leaves_the_lower_level_unread(tmp_path: Path) -> None:
    path = made(BY_WORD["short"], tmp_path)
    with Source(SourceOptions(path)) as source:
        plan = make_plan(1, b"", b"", RegionMap.build(pd.load(region_map_of(path))), False)
        changes = find_changes(source, plan.ranges, INCREMENT_TS, END_TS)
    assert len(changes.unread) == 1
    assert not changes.skipped


def test_files_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_FILE_BYTES", 100_000)
    monkeypatch.setattr(stores, "_CHUNK_ROWS", 500)
    path = made(BY_WORD["short"], tmp_path)
    assert len(list(path.glob("*.sst"))) > 4
    assert len(records(path, "write")) == ROWS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_the_same_parameters_give_the_same_store(kind: StoreKind, tmp_path: Path) -> None:
    def hashes(path: Path) -> list[str]:
        return [
            hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.glob("*.sst"))
        ]

    assert hashes(made(kind, tmp_path / "a")) == hashes(made(kind, tmp_path / "b"))


def test_the_smallest_store_has_a_row_a_region(tmp_path: Path) -> None:
    kind = BY_WORD["long"]
    assert kind.rows(1) == MIN_ROWS
    path = made(kind, tmp_path, MIN_ROWS)
    document = json.loads(region_map_of(path).read_text())
    assert document["count"] == len(document["regions"]) == REGIONS
    assert report(path, tmp_path / "repository")["total_kvs"] == MIN_ROWS
