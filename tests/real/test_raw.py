"""Raw stores of a real TiKV: the counts, bytes and checksums of its own backup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bkctl.codec.tso import parse_timestamp
from tests.backup.test_raw_v2 import held
from tests.commands.console import bkctl
from tests.real.stores import raw_pairs, truth, unpack


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("name", ["raw-V1", "raw-V1TTL"])
def test_raw_pairs_count_as_tikv_counts_them(tmp_path: Path, name: str, jobs: int) -> None:
    (store,) = unpack(name, tmp_path)
    options = ["--db", store, "--region-map", "store", "--raw", "--jobs", jobs, "--name", "b"]
    done = bkctl("backup", *options, "--storage", tmp_path / "repo", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    told = {key: report[key] for key in ("total_kvs", "total_bytes", "crc64xor")}
    assert told == truth(name)["raw"]
    at = ["--storage", tmp_path / "repo", "b"]
    assert bkctl("verify", *at, "--level", "deep").code == 0
    against = bkctl("verify", *at, "--against", store, "--region-map", "store")
    assert against.code == 0, against.stdout


@pytest.mark.parametrize("jobs", [1, 2])
def test_raw_pairs_of_v2_are_those_that_live(tmp_path: Path, jobs: int) -> None:
    (store,) = unpack("raw-V2", tmp_path)
    repository = tmp_path / "repo"
    options = ["--db", store, "--region-map", "store", "--raw", "--jobs", jobs, "--name", "b"]
    assert bkctl("backup", *options, "--storage", repository, "--keyspace", 0).code == 0
    at = ["--storage", repository, "b"]
    assert bkctl("verify", *at, "--level", "deep").code == 0
    assert bkctl("verify", *at, "--against", store, "--region-map", "store").code == 0
    assert bkctl("restore", *at, "--to", tmp_path / "restored").code == 0
    found = held(tmp_path / "restored", parse_timestamp("now"))
    assert found == raw_pairs("raw-V2")
