"""A MANIFEST cut exactly between two records never gives a thinner backup."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bkctl.codec.log import TornTailError
from bkctl.errors import CorruptionError, SourceError
from bkctl.store.manifest import read_manifest
from tests.backup.helpers import backup
from tests.backup.test_backup import STORES, copy
from tests.oracles import read_oracle, require_shared
from tests.store.test_manifest import manifest_of


def boundaries(manifest: Path) -> list[int]:
    content = manifest.read_bytes()
    found = []
    for length in range(1, len(content)):
        try:
            read_manifest(content[:length], manifest)
        except TornTailError:
            continue
        found.append(length)
    return found


@pytest.mark.parametrize("name", STORES)
def test_a_cut_between_records_is_refused_or_harmless(name: str, tmp_path: Path) -> None:
    line = read_oracle(require_shared() / "stores" / f"{name}.oracle")[3]
    store = copy(name, tmp_path)
    manifest = manifest_of(store)
    whole = manifest.read_bytes()
    refused = 0
    for length in boundaries(manifest):
        manifest.write_bytes(whole[:length])
        try:
            report = backup(store, tmp_path / "repo", end_ts=line.end_ts, name=f"b{length}")
        except CorruptionError as e:
            refused += "MANIFEST" in str(e)
            continue
        except SourceError as e:
            assert "column family" in str(e)  # noqa: PT017 - cut before the families were made
            continue
        if report.status == "ok":
            assert (report.total_kvs, report.crc64xor) == (line.kvs, line.crc64xor)
    assert refused


def test_a_half_written_file_is_no_obstacle(tmp_path: Path) -> None:
    line = read_oracle(require_shared() / "stores" / "mvcc-long.oracle")[3]
    store = copy("mvcc-long", tmp_path)
    largest = max(store.glob("*.sst"), key=lambda path: path.stat().st_size)
    shutil.copy(largest, store / "000999.sst")
    shutil.copy(largest, store / "000998.sst")
    os.truncate(store / "000998.sst", 5000)
    report = backup(store, tmp_path / "repo", end_ts=line.end_ts)
    assert (report.status, report.total_kvs) == ("ok", line.kvs)
