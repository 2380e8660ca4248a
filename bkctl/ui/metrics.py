"""A run as Prometheus metrics: TiKV's own backup metrics with our prefix, and how the run ended.

docs/metrics.md says what each means. Counters and histograms go on from run to run as they would in
a process that never ends: what the file of the run before says is added, so that `increase()` and
`rate()` hold. Gauges tell of the last run; those of the last success stay until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bkctl.archive.report import Report
from bkctl.codec.tso import physical_ms
from bkctl.errors import KINDS
from bkctl.pool.events import DoneRange, OperationCounts, SilentListener
from bkctl.ui.metrics_file import Samples, continued

PREFIX = "bkctl_"

# As TiKV's: from 10 ms and from 4 KiB, doubling.
SECONDS_BUCKETS = tuple(0.01 * 2**power for power in range(16))
SIZE_BUCKETS = tuple(float(4096 << power) for power in range(20))


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; a counter's name that does not end in `_total` is TiKV's, and stays as it is."""

    name: str
    kind: type[Gauge] | type[Counter] | type[Histogram]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What its kind is made with, besides name and help."""
        return {"labelnames": self.labels} | ({"buckets": self.buckets} if self.buckets else {})


def _last_success(what: str) -> str:
    return f"{what} of the last run that published; 0 while there was none."


FAMILIES = (
    Family(
        "range_duration_seconds",
        Histogram,
        "Seconds a range took, by phase: snapshot, scan (raw_scan) or save.",
        ("type",),
        SECONDS_BUCKETS,
    ),
    Family(
        "range_size_bytes",
        Histogram,
        "Bytes of each file of a range as stored, by column family.",
        ("cf",),
        SIZE_BUCKETS,
    ),
    Family("thread_pool_size", Gauge, "Worker processes of the last run."),
    Family("error_counter", Counter, "Errors that runs ended with, by kind.", ("error",)),
    Family("scan_kv_count", Counter, "Records of ranges that were saved.", ("cf",)),
    Family("scan_kv_size_bytes", Counter, "Plain bytes of ranges that were saved.", ("cf",)),
    Family("runs_total", Counter, "Runs, by how they ended.", ("status",)),
    Family("storage_requests_total", Counter, "Calls of the storage.", ("operation",)),
    Family("storage_failures_total", Counter, "Calls that failed in the end.", ("operation",)),
    Family("storage_retries_total", Counter, "Times that a call was tried again.", ("operation",)),
    Family("storage_sent_bytes_total", Counter, "Bytes of objects that were sent."),
    Family("storage_received_bytes_total", Counter, "Bytes of objects that were read."),
    Family("last_run_status", Gauge, "1 if the last run published, otherwise 0."),
    Family("last_run_exit_code", Gauge, "The last run's exit code."),
    Family("last_run_timestamp_seconds", Gauge, "When the last run ended, in unix time."),
    Family("last_run_duration_seconds", Gauge, "How long the last run took."),
    Family("last_run_start_ts", Gauge, "The last run's start timestamp, a TSO."),
    Family("last_run_end_ts", Gauge, "The last run's end timestamp, a TSO."),
    Family("last_run_ranges", Gauge, "The last run's ranges.", ("state",)),
    Family("last_run_kvs", Gauge, "Records of the last run."),
    Family("last_run_bytes", Gauge, "Plain bytes of the last run's keys and values."),
    Family("last_run_files", Gauge, "SST files of the last run."),
    Family("last_run_size_bytes", Gauge, "Bytes of the last run's SST files as stored."),
    Family("last_success_timestamp_seconds", Gauge, _last_success("End, in unix time,")),
    Family("last_success_end_ts", Gauge, _last_success("End timestamp, a TSO,")),
    Family(
        "last_success_data_timestamp_seconds", Gauge, _last_success("End timestamp as unix time")
    ),
)
_LAST_SUCCESS = "last_success_"
_NAMES = frozenset(family.name for family in FAMILIES)


class RunMetrics(SilentListener):
    """Measures one run of a command; `render` gives the metrics after `finish`."""

    def __init__(self, command: str = "backup", *, is_raw: bool = False) -> None:
        self._prefix = f"{PREFIX}{command}_"
        self._scan = "raw_scan" if is_raw else "scan"
        self._registry = CollectorRegistry()
        self._is_published = False
        self._metrics: dict[str, Any] = {
            family.name: family.kind(
                self._prefix + family.name, family.help, registry=self._registry, **family.settings
            )
            for family in FAMILIES
        }
        # Series that are there from the first run on: an increase from nothing is not seen.
        for kind in sorted(KINDS):
            self._metrics["error_counter"].labels(kind)
        for status in ("ok", "partial", "failed", "cancelled"):
            self._metrics["runs_total"].labels(status)

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        self._metrics["thread_pool_size"].set(jobs)

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        if done.seconds is not None:
            durations = self._metrics["range_duration_seconds"]
            for phase, seconds in asdict(done.seconds).items():
                durations.labels(self._scan if phase == "scan" else phase).observe(seconds)
        for file in done.files:
            self._metrics["range_size_bytes"].labels(file.cf).observe(file.size)
            self._metrics["scan_kv_count"].labels(file.cf).inc(file.total_kvs)
            self._metrics["scan_kv_size_bytes"].labels(file.cf).inc(file.total_bytes)

    def storage_used(self, counts: Sequence[OperationCounts]) -> None:
        """See Listener."""
        for count in counts:
            self._metrics["storage_requests_total"].labels(count.operation).inc(count.calls)
            self._metrics["storage_failures_total"].labels(count.operation).inc(count.failures)
            self._metrics["storage_retries_total"].labels(count.operation).inc(count.retries)
            self._metrics["storage_sent_bytes_total"].inc(count.bytes_sent)
            self._metrics["storage_received_bytes_total"].inc(count.bytes_received)

    def finish(self, report: Report, exit_code: int, now: float) -> None:
        """Take the run's outcome; `now` is in unix seconds."""
        for error in report.errors:
            self._metrics["error_counter"].labels(error.kind).inc()
        self._metrics["runs_total"].labels(report.status).inc()
        for state, count in asdict(report.ranges).items():
            self._metrics["last_run_ranges"].labels(state).set(count)
        is_published = report.status == "ok"
        self._set("last_run_status", int(is_published))
        self._set("last_run_exit_code", exit_code)
        self._set("last_run_timestamp_seconds", now)
        self._set("last_run_duration_seconds", report.seconds)
        self._set("last_run_start_ts", report.start_ts)
        self._set("last_run_end_ts", report.end_ts)
        self._set("last_run_kvs", report.total_kvs)
        self._set("last_run_bytes", report.total_bytes)
        self._set("last_run_files", report.files)
        self._set("last_run_size_bytes", report.size)
        if is_published:
            self._set("last_success_timestamp_seconds", now)
            self._set("last_success_end_ts", report.end_ts)
            data = physical_ms(report.end_ts) / 1000
            self._set("last_success_data_timestamp_seconds", data)
        self._is_published = is_published

    def _set(self, name: str, value: float) -> None:
        self._metrics[name].set(value)

    def render(self, before: Samples) -> bytes:
        """The metrics in Prometheus' text format, going on from the samples of the run before."""
        before = self._usable(before)
        for family in FAMILIES:
            if family.labels and family.kind is not Gauge:
                for labels in self._labels(family, before):
                    # Other runs' series stay, even if this one had nothing for them.
                    self._metrics[family.name].labels(**labels)
        return continued(self._registry, before, self._exposed_name, self._is_kept)

    def _usable(self, before: Samples) -> Samples:
        """Without histograms of other buckets, which cannot be added to."""
        usable = dict(before)
        for family in FAMILIES:
            buckets = {float(bound) for bound in (*family.buckets, math.inf)}
            name = self._prefix + family.name
            found = [float(dict(key[1])["le"]) for key in before if key[0] == f"{name}_bucket"]
            if found and {*found} != buckets:
                for part in ("_bucket", "_count", "_sum"):
                    usable = {key: usable[key] for key in usable if key[0] != name + part}
        return usable

    def _labels(self, family: Family, before: Samples) -> Iterator[dict[str, str]]:
        name = self._prefix + family.name
        for sample, labels in before:
            if sample in (name, f"{name}_count") and {key for key, _ in labels} == {*family.labels}:
                yield dict(labels)

    def _exposed_name(self, family: str) -> str:
        """What prometheus_client calls `x_total` is `x` where TiKV's name is that."""
        return family if family.removeprefix(self._prefix) in _NAMES else f"{family}_total"

    def _is_kept(self, name: str) -> bool:
        return not self._is_published and name.startswith(self._prefix + _LAST_SUCCESS)
