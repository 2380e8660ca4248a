"""A store of a real TiKV with Titan on, as it is by default: TiKV's own backups are the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real.stores import truth, unpack

# Ways and jobs by which all windows are backed up; two of them are by the others.
WHOLE = {("columns", 1)}
if os.environ.get("BKCTL_TITAN_WINDOWS") == "all":
    WHOLE = {(way, jobs) for way in ("columns", "rows") for jobs in (1, 2)}

FIGURES = ("total_kvs", "total_bytes", "crc64xor")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("titan", tmp_path_factory.mktemp("titan"))[0]


def run(module: str, *args: object, told: Path | None = None) -> str:
    """What a run of bkctl prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        env={**os.environ, "TOLD": str(told)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def backup(store: Path, at: list[object], window: dict[str, Any], *more: object) -> dict[str, Any]:
    return figures(run("bkctl", "backup", *source(store), *at, *options(window), *more))


def figures(report: str) -> dict[str, Any]:
    return {key: json.loads(report)[key] for key in FIGURES}


def source(store: Path) -> list[object]:
    return ["--db", store, "--region-map", "store", "--json"]


def options(window: dict[str, Any]) -> list[object]:
    given: list[object] = ["--start-ts", window["start_ts"], "--end-ts", window["end_ts"]]
    for name in ("start_key", "end_key"):
        if window[name]:
            given += ["--" + name.replace("_", "-"), window[name]]
    return given


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("way", ["columns", "rows"])
def test_windows_are_those_of_tikv(tmp_path: Path, store: Path, way: str, jobs: int) -> None:
    told = tmp_path / "told"
    for window in truth("titan")["windows"]:
        name = window["name"]
        if name not in ("inc13", "mid") and (way, jobs) not in WHOLE:
            continue
        told.write_text("")
        given = [*source(store), "--storage", tmp_path / "repo", "--name", name, "--jobs", jobs]
        module = "bkctl" if way == "columns" else "tests.real.by_rows"
        report = run(module, "backup", *given, *options(window), told=told)
        assert figures(report) == {key: window[key] for key in FIGURES}
        ways = set(told.read_text().splitlines())
        assert ways == (set() if way == "columns" else {"default: rows", "write: rocksdb"})


def test_a_chain_is_verified_merged_and_restored(tmp_path: Path, store: Path) -> None:
    windows = {window["name"]: window for window in truth("titan")["windows"]}
    incremental = windows["inc13"]
    full = {**windows["full1"], "end_key": incremental["end_key"]}
    at: list[object] = ["--storage", tmp_path / "repo"]
    backup(store, [*at, "--name", "full"], full)
    backup(store, [*at, "--name", "incr"], incremental)
    run("bkctl", "verify", *at, "--all", "--level", "deep")
    for name in ("full", "incr"):
        run("bkctl", "verify", *at, name, "--against", store, "--region-map", "store")
    other: list[object] = ["--storage", tmp_path / "other"]
    expected = backup(store, [*other, "--name", "whole"], {**incremental, "start_ts": 0})
    merged = run("bkctl", "merge", *at, "incr", "--name", "merged", "--json")
    assert figures(merged) == expected
    restored = tmp_path / "restored"
    run("bkctl", "restore", *at, "incr", "--to", restored)
    run("bkctl", "verify", *other, "--against", restored)
