"""Whole backups of real stores: exact by the oracles, tiled without gap, nothing when damaged."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from rocksdict import IngestExternalFileOptions, Options, Rdict

from bkctl.archive.report import Report
from bkctl.backup.backup import take_backup
from bkctl.codec.memcomparable import decode
from bkctl.errors import UsageError
from bkctl.sst.writer import Compression
from tests.backup.helpers import Quiet, backup, cut_short, files_of, request
from tests.oracles import OracleLine, bench_tool, read_oracle, require_shared, require_tool

STORES = ["mvcc-short", "mvcc-long"]


def copy(name: str, tmp_path: Path) -> Path:
    shared = require_shared() / "stores"
    target = tmp_path / name
    shutil.copytree(shared / name, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.copy(shared / f"{name}.regions.json", tmp_path)
    return target


def assert_exact(report: Report, line: OracleLine) -> None:
    assert report.status == "ok"
    assert (report.total_kvs, report.total_bytes, report.crc64xor) == (
        line.kvs,
        line.bytes,
        line.crc64xor,
    )


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("codec", ["zstd", "lz4", "snappy", "none"])
@pytest.mark.parametrize("name", STORES)
def test_every_oracle_line_is_reproduced(name: str, codec: str, jobs: int, tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    sstsum = bench_tool("sstsum")
    for line in read_oracle(stores / f"{name}.oracle"):
        repository = tmp_path / f"{line.start_ts}-{line.end_ts}"
        report = backup(
            stores / name,
            repository,
            start_ts=line.start_ts,
            end_ts=line.end_ts,
            jobs=jobs,
            compression=Compression(codec),
        )
        assert_exact(report, line)
        files = sorted(map(str, repository.glob("*/*.sst")))
        assert len(files) == report.files
        if files:
            told = subprocess.run([sstsum, "txn", *files], capture_output=True, check=True)
            assert [int(word) for word in told.stdout.split()[:6]] == [
                line.kvs,
                line.bytes,
                line.crc64xor,
                line.puts,
                line.deletes,
                line.default_kvs,
            ]


@pytest.mark.parametrize("codec", ["zstd", "lz4", "snappy", "none"])
def test_rocksdb_of_older_days_reads_and_ingests_the_files(codec: str, tmp_path: Path) -> None:
    sst_dump, ldb = require_tool("sst_dump"), require_tool("ldb")
    stores = require_shared() / "stores"
    line = read_oracle(stores / "mvcc-long.oracle")[3]
    repository = tmp_path / "repo"
    backup(stores / "mvcc-long", repository, end_ts=line.end_ts, compression=Compression(codec))
    target = tmp_path / "db"
    ingested = 0
    for file in repository.glob("*/*.sst"):
        checked = subprocess.run(
            [sst_dump, f"--file={file}", "--command=verify"], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
        assert "corrupt" not in (checked.stdout + checked.stderr).lower()
        # ldb takes files into the default family only, so one family's files are enough here.
        if file.name.endswith("_write.sst"):
            subprocess.run(
                [ldb, f"--db={target}", "--create_if_missing", "ingest_extern_sst", str(file)],
                check=True,
                capture_output=True,
            )
            ingested += 1
    scanned = subprocess.run(
        [ldb, f"--db={target}", "scan", "--hex", "--no_value"], capture_output=True, check=True
    )
    assert ingested
    assert len(scanned.stdout.split(b"\n")) - 1 == line.kvs


@pytest.mark.parametrize("name", STORES)
def test_small_files_tile_their_ranges(name: str, tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    line = read_oracle(stores / f"{name}.oracle")[3]
    repository = tmp_path / "repo"
    report = backup(
        stores / name,
        repository,
        end_ts=line.end_ts,
        name="b",
        sst_max_size=50_000,
        jobs=2,
    )
    assert_exact(report, line)
    family = "write"
    files = sorted(
        (file for file in files_of(repository, "b") if file.cf == family),
        key=lambda file: file.start_key,
    )
    assert len(files) > 8 or name == "mvcc-long"
    for before, after in itertools.pairwise(files):
        assert before.end_key == after.start_key
    assert files[0].start_key == b""
    assert files[-1].end_key == b""


def test_files_are_cut_after_whole_batches_of_entries(tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    line = read_oracle(stores / "mvcc-short.oracle")[3]
    repository = tmp_path / "repo"
    backup(stores / "mvcc-short", repository, end_ts=line.end_ts, name="b", sst_max_size=1)
    files = [file for file in files_of(repository, "b") if file.cf == "write"]
    starts = {bytes.fromhex(r["start_key"]) for r in _regions(stores / "mvcc-short")}
    for file in files:
        is_last = not file.end_key or file.end_key in {decode(s) for s in starts if s}
        assert is_last or file.total_kvs == 1024


def _regions(store: Path) -> list[dict[str, str]]:
    import json

    regions: list[dict[str, str]] = json.loads(Path(f"{store}.regions.json").read_text())["regions"]
    return regions


def test_a_window_of_keys(tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    line = read_oracle(stores / "mvcc-short.oracle")[3]
    cut = b"t\x80\x00\x00\x00\x00\x00\x00\x67"
    low = backup(stores / "mvcc-short", tmp_path / "r", end_ts=line.end_ts, end_key=cut, name="a")
    high = backup(
        stores / "mvcc-short", tmp_path / "r", end_ts=line.end_ts, start_key=cut, name="b"
    )
    assert low.total_kvs
    assert high.total_kvs
    assert low.total_kvs + high.total_kvs == line.kvs
    assert low.crc64xor ^ high.crc64xor == line.crc64xor


def test_a_raw_backup_of_a_real_clusters_files(tmp_path: Path) -> None:
    real = require_shared() / "br-raw-v5.2.1"
    store = tmp_path / "raw"
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(store), options)
    copies = [str(shutil.copy(file, tmp_path)) for file in real.glob("*.sst")]
    for file in copies:
        os.chmod(file, 0o644)
    db.ingest_external_file(copies, IngestExternalFileOptions())
    db.close()
    report = backup(store, tmp_path / "repo", end_ts=1 << 60, is_raw=True, name="b")
    assert (report.total_kvs, report.total_bytes) == (1000, 85_000)
    assert f"{report.crc64xor:016x}" == "219e2d9e5943185b"
    sums = subprocess.run(
        [bench_tool("sstsum"), "raw", *map(str, (tmp_path / "repo").glob("b/*.sst"))],
        capture_output=True,
        check=True,
    )
    assert [int(word) for word in sums.stdout.split()[:3]] == [1000, 85_000, 0x219E2D9E5943185B]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)


@pytest.mark.parametrize("name", STORES)
def test_a_damaged_block_fails_its_range_and_publishes_nothing(name: str, tmp_path: Path) -> None:
    store = copy(name, tmp_path)
    largest = max(store.glob("*.sst"), key=lambda path: path.stat().st_size)
    flip(largest)
    report = backup(store, tmp_path / "repo", end_ts=440000000001000000, name="b", jobs=2)
    assert report.status == "partial"
    assert {error.kind for error in report.errors} == {"corruption"}
    assert all(largest.name in error.message for error in report.errors)
    assert report.ranges.done + report.ranges.failed == report.ranges.total
    assert not (tmp_path / "repo" / "b" / "backupmeta").exists()
    assert not list((tmp_path / "repo" / "b").rglob(".bkctl*"))


def test_a_name_is_used_once(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-long"
    first = backup(store, tmp_path / "repo", end_ts=440000000001000000, name="b")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "repo" / "b").iterdir()}
    with pytest.raises(UsageError, match="b exists already"):
        backup(store, tmp_path / "repo", end_ts=440000000001000000, name="b")
    assert first.status == "ok"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "repo" / "b").iterdir()} == files


def test_a_worker_killed_in_its_range_fails_that_range_only(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    killed: list[int] = []

    def kill_one(event: str) -> None:
        if event == "range_started" and not killed:
            killed.extend(_children(os.getpid())[:1])
            os.kill(killed[0], signal.SIGKILL)

    listener = Quiet(kill_one)
    report = take_backup(
        request(store, tmp_path / "repo", end_ts=440000000001000000, name="b"), listener
    )
    assert killed
    # The kill may come after the worker's last range; a range in work fails alone.
    assert report.ranges.failed <= 1
    assert report.ranges.done + report.ranges.failed == report.ranges.total
    if report.ranges.failed:
        assert "SIGKILL" in report.errors[0].message
        assert not (tmp_path / "repo" / "b" / "backupmeta").exists()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [
        child
        for child in map(int, text.split())
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_cancelling_publishes_nothing(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    report = cut_short(store, tmp_path / "repo", end_ts=440000000001000000, name="b", batch_size=1)
    assert report.status == "cancelled"
    assert 0 < report.ranges.done < report.ranges.total
    assert not (tmp_path / "repo" / "b" / "backupmeta").exists()


def test_an_empty_store_is_a_backup_of_nothing(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    report = backup(store, tmp_path / "repo", end_ts=1, name="b")
    assert (report.status, report.files, report.total_kvs) == ("ok", 0, 0)
    assert report.ranges.done == 8
    assert (tmp_path / "repo" / "b" / "backupmeta").exists()


def test_timestamps_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--start-ts"):
        request(tmp_path, tmp_path / "repo", start_ts=2, end_ts=1)


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    from tests.store.test_source import listing

    store = copy("mvcc-long", tmp_path)
    before = listing(store)
    assert backup(store, tmp_path / "repo", end_ts=440000000001000000).status == "ok"
    assert listing(store) == before


def test_a_rate_limit_holds_over_all_workers(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-long"
    rate = 2 << 20
    report = backup(store, tmp_path / "repo", end_ts=440000000001000000, jobs=2, rate_limit=rate)
    assert report.status == "ok"
    # Never faster; how much slower depends on the machine.
    assert report.size / report.seconds <= rate * 1.1
