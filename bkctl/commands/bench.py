"""`bkctl bench`: measures backup speed on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bkctl.codec.tso import parse_timestamp
from bkctl.commands import options
from bkctl.errors import UsageError
from bkctl.files.access import users_own_files
from bkctl.files.small import read_small

if TYPE_CHECKING:
    from bkctl.bench.progress import SilentWatcher
    from bkctl.bench.results import Findings
    from bkctl.bench.run import OwnStore

HELP = """Measure backup speed on this machine.

Makes stores of short values, long values, many versions and raw keys, or takes the one of --db,
and backs them up, full and incremental, with each codec and number of workers, several times. In
the same rounds run the peers that are found: refscan (the same job in C++; $REFSCAN or on the
PATH), ldb backup and tar with zstd of the whole directory. Shown are medians and spread, the
memory of the largest process, and bkctl's speed over each peer's: by the run's own seconds, and
whole (*), from the program's start to its end. Nothing is left but what --keep and --output ask
for. As it is, this takes about two minutes and a few hundred MB of temporary files.

A store of --db should not be written to meanwhile. It is only read; incremental backups are
measured if --start-ts is given.

\b
Example:
  bkctl bench
  bkctl bench --store short,long --codec all --runs 5 --json
  bkctl bench --db /var/lib/tikv --region-map store --start-ts -1h
  bkctl bench --output bench.json --chart bench.svg

\b
Exit codes: 0 measured; 1 failed; 2 bad option or unreadable input;
129/130/143 interrupted.
"""
STORES = ("short", "long", "versions", "raw")
_OWN, _ALL = "own", "all"
_CODECS = ("zstd", "lz4", "snappy", "none")
_MAX_JOBS = 1024

Stores = Annotated[
    str | None,
    options.option(
        "--store",
        metavar="KIND,...",
        help="short, long, versions, raw, own; default: own with --db, otherwise the other four.",
    ),
]
Rows = Annotated[
    int,
    options.option("--rows", metavar="N", min=16, help="Rows of short values; others have fewer."),
]
Runs = Annotated[int, options.option("--runs", metavar="N", min=1, help="Rounds to run.")]
Codec = Annotated[
    str, options.option("--codec", metavar="CODEC,...", help="zstd, lz4, snappy, none; or all.")
]
JobCounts = Annotated[
    str, options.option("--jobs", metavar="N,...", help="Numbers of worker processes.")
]
Keep = Annotated[bool, options.option("--keep", help="Keep the stores that were made.")]
Output = Annotated[
    Path | None, options.option("--output", metavar="FILE", help="Write the results as JSON here.")
]
Earlier = Annotated[
    Path | None,
    options.option(
        "--from", metavar="FILE", help="Measure nothing; show what an earlier --output holds."
    ),
]
Chart = Annotated[
    Path | None, options.option("--chart", metavar="FILE", help="Write a chart as SVG here.")
]
PageFile = Annotated[
    Path | None,
    options.option(
        "--page", metavar="FILE", help="Put the tables between the marks in this Markdown page."
    ),
]


def bench(
    store: Stores = None,
    rows: Rows = 1_000_000,
    runs: Runs = 3,
    codec: Codec = "zstd",
    jobs: JobCounts = "1,2",
    db: options.Db = None,
    region_map: options.RegionMapFrom = None,
    start_ts: options.StartTs = None,
    end_ts: options.EndTs = None,
    raw: options.Raw = False,
    cf: options.Cf = None,
    work_dir: options.WorkDir = None,
    keep: Keep = False,
    earlier: Earlier = None,
    output: Output = None,
    chart: Chart = None,
    page: PageFile = None,
    progress: options.Progress = options.ProgressMode.AUTO,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Measure, and show what was found."""
    from bkctl.bench.run import BenchRequest, run_bench
    from bkctl.bench.stores import KINDS

    for path in (output, chart, page):
        _check_writable(path)
    if page is not None:
        _check_page(page)
    if earlier is not None:
        _show(_load(earlier), output, chart, page, as_json=json)
        return
    words = _chosen("--store", store, [*STORES, _OWN]) or ([_OWN] if db else list(STORES))
    request = BenchRequest(
        kinds=tuple(kind for kind in KINDS if kind.word in words),
        own=_own_store(db, region_map, start_ts, end_ts, raw, cf) if _OWN in words else None,
        rows=rows,
        runs=runs,
        codecs=tuple(_chosen("--codec", codec, _CODECS)),
        jobs=_job_counts(jobs),
        work_dir=work_dir,
        keep=keep,
    )
    with _watcher(progress.value) as watcher:
        findings = run_bench(request, watcher)
    _show(findings, output, chart, page, as_json=json)


def _chosen(name: str, text: str | None, known: Sequence[str]) -> list[str]:
    """The words of a list, each once; UsageError for one that is not known."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in known and word != _ALL:
            raise UsageError(f"{name} {word}: choose of {', '.join(known)}, or all")
    if _ALL in words:
        return [word for word in known if word != _OWN]
    if text is not None and not words:
        raise UsageError(f"{name} names nothing; choose of {', '.join(known)}, or all")
    return list(dict.fromkeys(words))


def _job_counts(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word[:9]) <= _MAX_JOBS for word in words):
        raise UsageError(f"--jobs {text}: give numbers of workers, 1 to {_MAX_JOBS}, like 1,2")
    return tuple(dict.fromkeys(map(int, words)))


def _own_store(
    db: Path | None,
    region_map: str | None,
    start_ts: int | None,
    end_ts: int | None,
    raw: bool,
    cf: str | None,
) -> OwnStore:
    from bkctl.bench.run import OwnStore

    options.family_of(raw, cf)
    end = parse_timestamp("now") if end_ts is None else end_ts
    options.check_ts_window(start_ts or 0, end)
    return OwnStore(
        db=options.required("--db", db),
        region_map=options.required("--region-map", region_map),
        is_raw=raw,
        family=cf,
        start_ts=None if raw else start_ts or None,
        end_ts=end,
    )


def _watcher(mode: str) -> SilentWatcher:
    import sys

    from bkctl.bench.progress import make_watcher

    return make_watcher(mode, sys.stderr, options.notify)


def _check_writable(path: Path | None) -> None:
    """Find out now, and not when all is measured, that a file cannot be written."""
    if path is None:
        return
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path}: cannot be written; name a file in a directory that is there")


_MAX_READ = 64 << 20


def _read(path: Path) -> str:
    try:
        return read_small(path, _MAX_READ).decode("utf-8")
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise UsageError(f"{path}: cannot be read ({why})") from None


def _check_page(page: Path) -> None:
    from bkctl.bench.table import BEGIN, END, parts

    if parts(_read(page)) is None:
        raise UsageError(f"{page}: the tables' place is not marked; add lines {BEGIN} and {END}")


def _load(path: Path) -> Findings:
    import json

    from bkctl.bench.results import parse_findings

    text = _read(path)
    try:
        return parse_findings(json.loads(text))
    except ValueError:
        raise UsageError(f"{path}: no JSON; give a file that --output wrote") from None
    except UsageError as e:
        raise UsageError(f"{path}: {e}; give a file that --output wrote") from None


def _show(
    findings: Findings,
    output: Path | None,
    chart: Path | None,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    import json

    from bkctl.bench.chart import draw
    from bkctl.bench.table import print_findings, put_into
    from bkctl.ui.output import Page, print_json

    with users_own_files():
        if output is not None:
            output.write_text(json.dumps(findings.to_json_dict(), indent=1) + "\n", "utf-8")
        if chart is not None:
            chart.write_text(draw(findings), "utf-8")
        if page is not None:
            page.write_text(put_into(_read(page), findings), "utf-8")
    if as_json:
        print_json(findings.to_json_dict())
    else:
        print_findings(Page.of_stdout(), findings)
