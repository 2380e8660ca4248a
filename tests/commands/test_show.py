"""`bkctl show` as a user or a script meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.report import KeyRange, RangeError
from bkctl.regions.region_map import Skipped
from bkctl.storage.local import LocalStorage
from examples.make_store import END_TS, MID_TS
from tests.backup.helpers import backup, regions_from
from tests.commands.console import bkctl
from tests.conftest import SampleStore
from tests.oracles import require_shared
from tests.repository.test_catalog import report


@pytest.fixture
def repository(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A full backup and an incremental one of the sample store."""
    for name, start_ts, end_ts in (("full", 0, MID_TS), ("incr", MID_TS, END_TS)):
        backup(
            sample_store.path,
            tmp_path / "repo",
            start_ts=start_ts,
            end_ts=end_ts,
            name=name,
            load_regions=regions_from(sample_store.region_map),
        )
    return tmp_path / "repo"


def test_a_backup_is_shown_in_full(repository: Path, sample_store: SampleStore) -> None:
    outcome = bkctl("show", "full", "--storage", repository)
    assert outcome.code == 0
    told = outcome.stdout
    assert told.startswith("full: complete\n")
    assert f"(TSO {MID_TS})" in told
    assert f"{sample_store.made.full_at_mid.kvs:,} kvs" in told
    for heading in ("cf ", "region  epoch", "file "):
        assert f"\n{heading}" in told
    assert "ZSTD, format version 5, crc32c" in told
    assert "8 of 8 ranges done" in told


def test_the_newest_backup_is_shown_with_its_chain(repository: Path) -> None:
    for arguments in ((), ("latest",)):
        outcome = bkctl("show", *arguments, "--storage", repository)
        assert outcome.stdout.startswith("incr: complete")
        assert "full → incr" in outcome.stdout


def test_one_json_document(repository: Path, sample_store: SampleStore) -> None:
    document = bkctl("show", "full", "--storage", repository, "--json").document
    made = sample_store.made.full_at_mid
    assert (document["total_kvs"], document["total_bytes"]) == (made.kvs, made.bytes)
    assert document["chain"] == ["full"]
    assert sum(family["total_kvs"] for family in document["families"]) == made.kvs
    assert sum(region["total_kvs"] for region in document["regions"]) == made.kvs
    assert {family["cf"] for family in document["families"]} == {"default", "write"}
    assert document["table_format"] == {"codec": "ZSTD", "format_version": 5, "checksum": "crc32c"}
    assert document["report"]["status"] == "ok"
    assert document["compression_ratio"] == round(made.bytes / document["size"], 2)
    sizes = [entry["size"] for entry in document["largest_files"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_failed_run_shows_its_errors_skipped_regions_and_gaps(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "repo")
    backup_dir = BackupDir(storage, "b")
    backup_dir.claim(b'{"host": "box", "pid": 42}')
    backup_dir.write_report(
        report(
            "b",
            status="failed",
            errors=(RangeError(3, b"a", b"b", "key_is_locked", "key 61 is locked"),),
            skipped=(Skipped(9, "no peer here"),),
            gaps=(KeyRange(b"m", b"n"),),
        )
    )
    told = bkctl("show", "b", "--storage", storage.url).stdout
    assert told.startswith("b: unfinished\n")
    assert "begun by host box, pid 42" in told
    assert "region 3: key_is_locked: key 61 is locked" in told
    assert "skipped region 9: no peer here" in told
    assert "no region covered m to n" in told


def test_a_single_backup_of_br_is_shown() -> None:
    real = require_shared() / "br-raw-v5.2.1"
    told = bkctl("show", "--storage", real).stdout
    assert "test to u of default" in told
    assert "ratio 6.92" in told
    document = bkctl("show", "br-raw-v5.2.1", "--storage", real, "--json").document
    assert (document["files"], document["total_kvs"], document["total_bytes"]) == (2, 1000, 85_000)
    assert document["raw_ranges"] == [
        {"start_key": b"test".hex(), "end_key": b"u".hex(), "cf": "default"}
    ]
    assert document["report"] is None


def test_a_missing_file_is_no_reason_to_show_nothing(repository: Path) -> None:
    for path in (repository / "full").glob("*.sst"):
        path.unlink()
    outcome = bkctl("show", "full", "--storage", repository)
    assert outcome.code == 0
    assert "is missing" in outcome.stdout


def test_an_unknown_backup_is_exit_2(repository: Path) -> None:
    outcome = bkctl("show", "ful", "--storage", repository)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "did you mean full?" in outcome.stderr
