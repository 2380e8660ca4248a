"""Measures backup speed on this machine: records a second, plain MB/s, peak memory, with spread.

    make bench                                   the usual stores, 1 and 2 workers, zstd and lz4
    python -m benchmarks.run --rows 300000 --runs 3

Where a `refscan` (the same job on librocksdb in C++) is on the PATH or named by $REFSCAN, it runs
in turn with bkctl in the same run, and the ratio of the medians is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.stores import END_TS, StoreKind, make_store


@dataclass(frozen=True, slots=True)
class Measured:
    """One combination's runs: seconds each, what was backed up, peak memory of a process in MiB."""

    store: str
    codec: str
    jobs: int
    seconds: list[float]
    kvs: int
    plain_bytes: int
    peak_mib: float
    peer_seconds: list[float]

    @property
    def ratio(self) -> float | None:
        """bkctl's speed over the peer's, by medians; None without a peer."""
        if not self.peer_seconds:
            return None
        return statistics.median(self.peer_seconds) / statistics.median(self.seconds)


def run_bkctl(store: Path, repository: Path, codec: str, jobs: int, raw: bool) -> dict[str, object]:
    """One backup; its report."""
    command = [sys.executable, "-m", "bkctl", "backup", "--db", str(store)]
    command += ["--region-map", f"{store}.regions.json", "--storage", str(repository)]
    command += ["--end-ts", str(END_TS), "--compression", codec, "--jobs", str(jobs)]
    command += ["--json", "--progress", "none", *(["--raw"] if raw else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report: dict[str, object] = json.loads(done.stdout)
    return report


def run_refscan(refscan: str, store: Path, out: Path, codec: str, jobs: int) -> float:
    """One run of the native yardstick; its seconds."""
    command = [refscan, str(store), str(out), "0", str(END_TS), str(jobs), codec]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(
    kind: StoreKind, store: Path, work: Path, codec: str, jobs: int, runs: int, refscan: str | None
) -> Measured:
    """Run bkctl, and the peer if there is one, in turn."""
    seconds, peer_seconds = [], []
    report: dict[str, object] = {}
    for _ in range(runs):
        shutil.rmtree(work, ignore_errors=True)
        report = run_bkctl(store, work / "repo", codec, jobs, kind.is_raw)
        seconds.append(float(str(report["seconds"])))
        if refscan and not kind.is_raw:
            peer_seconds.append(run_refscan(refscan, store, work / "peer", codec, jobs))
    shutil.rmtree(work, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Measured(
        kind.name,
        codec,
        jobs,
        seconds,
        int(str(report["total_kvs"])),
        int(str(report["total_bytes"])),
        peak,
        peer_seconds,
    )


def show(results: list[Measured]) -> None:
    """Print the table."""
    table = Table(title="backup speed (median of runs)")
    for column in ("store", "codec", "jobs", "seconds", "min-max", "records/s", "MB/s", "ratio"):
        table.add_column(column, justify="left" if column in ("store", "codec") else "right")
    for result in results:
        median = statistics.median(result.seconds)
        ratio = "-" if result.ratio is None else f"{result.ratio:.2f}"
        table.add_row(
            result.store,
            result.codec,
            str(result.jobs),
            f"{median:.2f}",
            f"{min(result.seconds):.2f}-{max(result.seconds):.2f}",
            f"{result.kvs / median:,.0f}",
            f"{result.plain_bytes / median / 1e6:.1f}",
            ratio,
        )
    Console().print(table)


def main() -> None:
    """Make the stores, measure, print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the largest store")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--codec", action="append", choices=["zstd", "lz4", "snappy", "none"])
    parser.add_argument("--jobs", type=int, action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kinds = [
        StoreKind("short values", options.rows, 100),
        StoreKind("many versions", options.rows // 3, 100, versions=6),
        StoreKind("long values", options.rows // 8, 1024),
        StoreKind("raw", options.rows, 100, is_raw=True),
    ]
    refscan = os.environ.get("REFSCAN") or shutil.which("refscan")
    results = []
    with tempfile.TemporaryDirectory(prefix="bkctl-bench-") as folder:
        for kind in kinds:
            store = Path(folder) / kind.name.replace(" ", "-")
            make_store(kind, store)
            for codec in options.codec or ["zstd", "lz4"]:
                for jobs in options.jobs or [1, 2]:
                    work = Path(folder) / "work"
                    results.append(measure(kind, store, work, codec, jobs, options.runs, refscan))
            shutil.rmtree(store)
    if options.json:
        rows = [
            {
                "store": r.store,
                "codec": r.codec,
                "jobs": r.jobs,
                "seconds": r.seconds,
                "kvs": r.kvs,
                "plain_bytes": r.plain_bytes,
                "peak_mib": r.peak_mib,
                "peer_seconds": r.peer_seconds,
                "ratio": r.ratio,
            }
            for r in results
        ]
        print(json.dumps(rows))
    else:
        show(results)


if __name__ == "__main__":
    main()
