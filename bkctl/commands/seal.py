"""`bkctl seal`: publishes a backup whose parts were taken on several machines."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.codec.tso import format_ts
from bkctl.commands import file_options as files
from bkctl.commands import options
from bkctl.commands.backup_log import log_ending
from bkctl.commands.watch import Watchers, watched
from bkctl.errors import BkctlError, CancelledError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report
    from bkctl.fleet.seal import SealOutcome

HELP = """Seal the backup NAME: check its parts, and publish it.

Its parts were taken by bkctl backup --part on the stores' machines. All must be of one cluster,
one window and one set of options; of each region the replica counts that an election among the
recorded states chooses, and its store must have done the region's ranges as of that state; files
are checked by their hashes. What is missing is said store by store, with what to run where, and
nothing is published then. May be repeated.

\b
Example:
  bkctl backup --part --db /var/lib/tikv --region-map store --storage s3://b/x \\
      --name nightly-1 --end-ts 2026-11-24T01:00:00Z --wait 30m   # on each machine
  bkctl seal nightly-1 --storage s3://b/x                         # on any one, after that

\b
Exit codes: 0 published; 1 failed; 2 no such backup, bad option; 3 something
is missing, nothing is published; 4 the same, all of it on locked keys; 6 a
part or another run is at work there; 7 published, but of some regions fewer
than a majority of voters were at hand (--allow-minority of the parts);
129/130/143 interrupted.
"""

_MINORITY = 7

Name = Annotated[str, typer.Argument(metavar="NAME", help="The backup, as its parts name it.")]


def seal(
    name: Name,
    storage: options.StorageUrl = None,
    allow_gaps: options.AllowGaps = False,
    metrics_file: options.MetricsFile = None,
    on_success: options.OnSuccess = None,
    on_failure: options.OnFailure = None,
    group_readable: files.GroupReadable = False,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Seal a backup and say what came of it."""
    watchers = Watchers("backup", metrics_file, on_success, on_failure)
    with watched(watchers, partial(_failed, name, time.time())) as watch:
        from bkctl.fleet.seal import seal as seal_parts
        from bkctl.storage.url import open_storage, parse_storage

        spec = parse_storage(options.required("--storage", storage))
        with open_storage(spec) as opened:
            outcome = seal_parts(opened, name, allow_gaps=allow_gaps, notify=options.notify)
        watch.report = outcome.report
        _tell(outcome, as_json=json)
        if code := _exit_code(outcome.report):
            raise typer.Exit(code)


def _failed(name: str, begun: float, error: BkctlError) -> Report:
    from bkctl.archive.report import RangeError, Report

    return Report(
        name=name,
        status="cancelled" if isinstance(error, CancelledError) else "failed",
        mode="txn",
        start_ts=0,
        end_ts=0,
        seconds=round(time.time() - begun, 3),
        errors=(RangeError(0, b"", b"", error.kind, str(error)),),
        started_at=begun,
    )


def _exit_code(report: Report) -> int:
    if report.status != "ok":
        kinds = {error.kind for error in report.errors}
        return 4 if kinds == {"key_is_locked"} else 3
    return _MINORITY if report.minority else 0


def _tell(outcome: SealOutcome, *, as_json: bool) -> None:
    report = outcome.report
    if as_json:
        from bkctl.ui.output import print_json

        print_json({**report.to_json_dict(), "remedies": list(outcome.remedies)})
    else:
        _print(report)
    log_ending(report)
    for line in outcome.remedies:
        log.info("remedy", f"run {line}", run=line)


def _print(report: Report) -> None:
    from bkctl.ui.output import Page
    from bkctl.ui.summary import print_figures, print_outcome

    page, counts = Page.of_stdout(), report.ranges
    print_outcome(page, report)
    since = f"after {report.start_ts} ({format_ts(report.start_ts)}) " if report.start_ts else ""
    page.line(f"  window  {since}up to {report.end_ts} ({format_ts(report.end_ts)})")
    for part in report.parts:
        page.line(f"  part    store {part.store_id} on {part.host}: {part.ranges} ranges")
    page.line(f"  ranges  {counts.done} of {counts.total} done")
    print_figures(page, report)
