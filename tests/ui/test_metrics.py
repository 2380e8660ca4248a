"""What a run's metrics say, read by prometheus-client's own parser, and by promtool where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bkctl.archive.meta import BackupFile
from bkctl.archive.report import RangeCounts, RangeError, Report
from bkctl.errors import KINDS
from bkctl.pool.events import DoneRange, OperationCounts, PhaseSeconds
from bkctl.ui.metrics import FAMILIES, RunMetrics
from bkctl.ui.metrics_file import Samples, read_samples, write_metrics
from tests.oracles import ROOT
from tests.ui.runs import backup_range

END_TS = 440000000001000000
DOCS = ROOT / "docs" / "metrics.md"


def a_file(cf: str, kvs: int, size: int) -> BackupFile:
    return BackupFile(f"{cf}.sst", b"", b"", b"", 0, END_TS, 0, kvs, kvs * 10, cf, size)


def a_report(status: str = "ok", *kinds: str, end_ts: int = END_TS) -> Report:
    return Report(
        name="b",
        status=status,
        mode="txn",
        start_ts=5,
        end_ts=end_ts,
        store_id=1,
        cluster_id=1,
        ranges=RangeCounts(4, 2, 1, 1),
        files=3,
        total_kvs=30,
        total_bytes=300,
        crc64xor=0,
        size=9000,
        seconds=1.5,
        errors=tuple(RangeError(1, b"", b"", kind, "x") for kind in kinds),
    )


def a_run(path: Path, report: Report, code: int, now: float, *, is_raw: bool = False) -> Samples:
    """A run of one range with two files; the file afterwards."""
    metrics = RunMetrics(is_raw=is_raw)
    metrics.started(1, None, 2)
    files = (a_file("default", 10, 5000), a_file("write", 20, 4096))
    seconds = PhaseSeconds(0.25, 0.02, 4000)
    metrics.range_done(0, DoneRange(backup_range(1), 30, 300, 9096, files, seconds))
    metrics.range_failed(0, backup_range(2), "key_is_locked", "may yet come right")
    metrics.storage_used([OperationCounts("create", 2, 1, 3, 40, 50)])
    metrics.storage_used([OperationCounts("create", 1), OperationCounts("read", 1)])
    metrics.finished()
    metrics.finish(report, code, now)
    write_metrics(path, metrics.render(read_samples(path)))
    return read_samples(path)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"bkctl_backup_{name}", frozenset(labels.items())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bkctl.prom"


def test_a_run_is_measured_by_phase_and_family(path: Path) -> None:
    samples = a_run(path, a_report(), 0, 1000)
    for phase, seconds in (("snapshot", 0.25), ("scan", 0.02), ("save", 4000)):
        assert value(samples, "range_duration_seconds_count", type=phase) == 1
        assert value(samples, "range_duration_seconds_sum", type=phase) == seconds
    assert value(samples, "range_duration_seconds_bucket", type="scan", le="0.01") == 0
    assert value(samples, "range_duration_seconds_bucket", type="scan", le="0.02") == 1
    assert value(samples, "range_duration_seconds_bucket", type="save", le="327.68") == 0
    assert value(samples, "range_duration_seconds_bucket", type="save", le="+Inf") == 1
    assert value(samples, "range_size_bytes_bucket", cf="write", le="4096.0") == 1
    assert value(samples, "range_size_bytes_bucket", cf="default", le="4096.0") == 0
    assert value(samples, "range_size_bytes_sum", cf="default") == 5000
    assert value(samples, "scan_kv_count", cf="write") == 20
    assert value(samples, "scan_kv_size_bytes", cf="write") == 200
    assert value(samples, "thread_pool_size") == 2
    assert value(samples, "storage_requests_total", operation="create") == 3
    assert value(samples, "storage_retries_total", operation="create") == 3
    assert value(samples, "storage_failures_total", operation="create") == 1
    assert value(samples, "storage_sent_bytes_total") == 40
    assert value(samples, "storage_received_bytes_total") == 50


def test_raw_scans_have_their_own_name(path: Path) -> None:
    samples = a_run(path, a_report(), 0, 1000, is_raw=True)
    assert value(samples, "range_duration_seconds_count", type="raw_scan") == 1


def test_a_success_is_told(path: Path) -> None:
    samples = a_run(path, a_report(), 0, 1000.5)
    assert value(samples, "last_run_status") == value(samples, "runs_total", status="ok") == 1
    assert value(samples, "last_run_timestamp_seconds") == 1000.5
    assert value(samples, "last_run_duration_seconds") == 1.5
    assert value(samples, "last_run_start_ts") == 5
    assert value(samples, "last_run_ranges", state="skipped") == 1
    assert value(samples, "last_run_kvs") == 30
    assert value(samples, "last_run_bytes") == 300
    assert value(samples, "last_run_files") == 3
    assert value(samples, "last_run_size_bytes") == 9000
    assert value(samples, "last_success_timestamp_seconds") == 1000.5
    assert value(samples, "last_success_end_ts") == END_TS
    assert value(samples, "last_success_data_timestamp_seconds") == (END_TS >> 18) / 1000
    assert all(value(samples, "error_counter", error=kind) == 0 for kind in KINDS)


def test_a_failure_keeps_the_last_success(path: Path) -> None:
    first = a_run(path, a_report("failed", "other", end_ts=7), 1, 900)
    assert value(first, "last_success_timestamp_seconds") == 0
    a_run(path, a_report(), 0, 1000)
    for now in (2000, 3000):
        samples = a_run(path, a_report("partial", "key_is_locked", "storage", end_ts=9), 3, now)
    assert value(samples, "last_run_status") == 0
    assert value(samples, "last_run_exit_code") == 3
    assert value(samples, "last_run_timestamp_seconds") == 3000
    assert value(samples, "last_run_end_ts") == 9
    assert value(samples, "last_success_timestamp_seconds") == 1000
    assert value(samples, "last_success_end_ts") == END_TS
    assert value(samples, "last_success_data_timestamp_seconds") == (END_TS >> 18) / 1000
    assert value(samples, "error_counter", error="key_is_locked") == 2
    assert value(samples, "error_counter", error="other") == 1


def test_counters_and_histograms_go_on_and_series_never_vanish(path: Path) -> None:
    a_run(path, a_report(), 0, 1000)
    a_run(path, a_report(), 0, 2000)
    samples = read_samples(path)
    assert value(samples, "runs_total", status="ok") == 2
    assert value(samples, "scan_kv_count", cf="write") == 40
    assert value(samples, "range_duration_seconds_count", type="scan") == 2
    assert value(samples, "range_duration_seconds_bucket", type="scan", le="0.01") == 0
    assert value(samples, "range_duration_seconds_bucket", type="scan", le="+Inf") == 2
    # A run that does nothing adds nothing, and takes nothing away.
    metrics = RunMetrics()
    metrics.finish(a_report("failed", "other"), 6, 3000)
    write_metrics(path, metrics.render(samples))
    after = read_samples(path)
    assert after.keys() == samples.keys()
    gauges = ("last_run", "thread_pool", "error_counter", "runs_total")
    for key in samples:
        if not key[0].removeprefix("bkctl_backup_").startswith(gauges):
            assert after[key] == samples[key], key


def test_a_histogram_of_other_buckets_is_not_gone_on_from(path: Path) -> None:
    a_run(path, a_report(), 0, 1000)
    text = path.read_text().replace('type="scan",le="0.02"', 'type="scan",le="0.03"')
    path.write_text(text.replace('le="0.02",type="scan"', 'le="0.03",type="scan"'))
    samples = a_run(path, a_report(), 0, 2000)
    assert value(samples, "range_duration_seconds_count", type="scan") == 1
    assert value(samples, "range_duration_seconds_sum", type="scan") == 0.02
    assert value(samples, "range_size_bytes_count", cf="write") == 2
    assert value(samples, "runs_total", status="ok") == 2


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(
        r"^\| `(bkctl_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \| ([^|]+) \|$", DOCS.read_text(), re.M
    )
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows
    }
    assert len(documented) == len(rows)
    assert documented == {
        f"bkctl_backup_{family.name}": (family.kind.__name__.lower(), family.labels)
        for family in FAMILIES
    }


def test_every_kind_of_error_is_documented() -> None:
    (row,) = [line for line in DOCS.read_text().splitlines() if "_error_counter`" in line]
    assert set(re.findall(r"`(\w+)`", row)) >= KINDS


def test_the_types_in_the_file_are_those_of_the_families(path: Path) -> None:
    a_run(path, a_report(), 0, 1000)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", path.read_text(), re.M))
    assert types == {
        f"bkctl_backup_{family.name}": family.kind.__name__.lower()
        if family.name.endswith("_total") or family.kind.__name__ != "Counter"
        else "untyped"
        for family in FAMILIES
    }
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.samples, family.name


def test_promtool_reads_it(path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    a_run(path, a_report(), 0, 1000)
    with path.open() as file:
        done = subprocess.run(
            [promtool, "check", "metrics"], stdin=file, capture_output=True, text=True
        )
    # 3 is for complaints of style: TiKV's name is what it is.
    assert done.returncode in (0, 3)
    complaint = "bkctl_backup_error_counter metric name should not include type 'counter'"
    assert done.stderr.splitlines() in ([], [complaint])
