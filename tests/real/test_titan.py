"""A store of a real TiKV with Titan on, as it is by default: TiKV's own backups are the truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bkctl.store import column_scan
from bkctl.store.database import Database
from bkctl.store.source import Source, SourceOptions
from bkctl.store.tables import UnreadableError
from tests.commands.console import bkctl
from tests.real.stores import truth, unpack

# Ways and jobs by which all windows are backed up; two of them are by the others.
WHOLE = {("columns", 1)}
if os.environ.get("BKCTL_TITAN_WINDOWS") == "all":
    WHOLE = {(way, jobs) for way in ("columns", "rows") for jobs in (1, 2)}


class NotAsColumns:
    """What columns are read with, where they are not to be."""

    def __init__(self, *_: object) -> None:
        raise UnreadableError("not as columns")


FIGURES = ("total_kvs", "total_bytes", "crc64xor")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("titan", tmp_path_factory.mktemp("titan"))[0]


@pytest.fixture(params=["columns", "rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How families are read; by rows, `default` is, and the others by RocksDB's iterator.

    Workers are forked, so they read in the same way.
    """
    if request.param == "rows":
        monkeypatch.setattr(column_scan, "MergedScan", NotAsColumns)
        monkeypatch.setattr(column_scan, "Lookup", NotAsColumns)
    return str(request.param)


def backup(store: Path, repository: Path, name: str, *more: object) -> dict[str, Any]:
    at = ["--db", store, "--region-map", "store", "--storage", repository, "--name", name]
    done = bkctl("backup", *at, "--json", *more)
    assert done.code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def options(window: dict[str, Any]) -> list[object]:
    given: list[object] = ["--start-ts", window["start_ts"], "--end-ts", window["end_ts"]]
    for name in ("start_key", "end_key"):
        if window[name]:
            given += ["--" + name.replace("_", "-"), window[name]]
    return given


@pytest.mark.parametrize("jobs", [1, 2])
def test_windows_are_those_of_tikv(tmp_path: Path, store: Path, way: str, jobs: int) -> None:
    for window in truth("titan")["windows"]:
        name = window["name"]
        if name not in ("inc13", "mid") and (way, jobs) not in WHOLE:
            continue
        report = backup(store, tmp_path, name, *options(window), "--jobs", jobs)
        assert {key: report[key] for key in FIGURES} == {key: window[key] for key in FIGURES}


def test_each_way_reads_what_it_is_to_read(store: Path, way: str) -> None:
    with Source(SourceOptions(store)) as source:
        database = Database(source.db_dir, source.path)
        values = database.scan_columns("default", b"z", b"{")
        writes = database.scan_columns("write", b"z", b"{")
        largest = 0
        while (read := values.take()) is not None:
            largest = max(largest, int(read[1].lengths.max()))
        assert writes.take() is not None
        assert largest >= 32 << 10
        assert (values.is_merged, writes.is_merged) == ((way == "columns"),) * 2
        assert (values.is_plain, writes.is_plain) == (False, way == "rows")
        del values, writes
        database.close()


def test_a_chain_is_verified_merged_and_restored(tmp_path: Path, store: Path) -> None:
    windows = {window["name"]: window for window in truth("titan")["windows"]}
    repository, incremental = tmp_path / "repo", windows["inc13"]
    full = {**windows["full1"], "end_key": incremental["end_key"]}
    backup(store, repository, "full", *options(full))
    backup(store, repository, "incr", *options(incremental))
    at = ["--storage", repository]
    assert bkctl("verify", *at, "--all", "--level", "deep").code == 0
    for name in ("full", "incr"):
        checked = bkctl("verify", *at, name, "--against", store, "--region-map", "store")
        assert checked.code == 0, checked.stdout
    whole = {**incremental, "start_ts": 0}
    expected = backup(store, tmp_path / "other", "whole", *options(whole))
    merged = bkctl("merge", *at, "incr", "--name", "merged", "--json")
    assert merged.code == 0, merged.stderr
    assert {key: merged.document[key] for key in FIGURES} == {key: expected[key] for key in FIGURES}
    restored = tmp_path / "restored"
    assert bkctl("restore", *at, "incr", "--to", restored).code == 0
    again = bkctl("verify", "--storage", tmp_path / "other", "--against", restored)
    assert again.code == 0, again.stdout
