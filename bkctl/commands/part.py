"""`bkctl backup --part`: one store's part of a backup that several machines take together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.commands import options
from bkctl.commands.backup_log import log_ending
from bkctl.commands.jobs import telling_jobs
from bkctl.commands.signals import stop_on_signal
from bkctl.commands.watch import Watch
from bkctl.errors import BkctlError, CancelledError, UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report
    from bkctl.backup.request import BackupRequest
    from bkctl.fleet.part import PartOutcome

Part = Annotated[
    bool,
    options.option(
        "--part",
        help="Take this store's part of a backup that the machines of other stores take parts of, "
        "too; bkctl seal publishes it. All give the same --name, --end-ts and options.",
    ),
]
Wait = Annotated[
    str | None,
    options.option(
        "--wait",
        metavar="SPAN",
        help="With --part: wait that long, like 30m, for the parts that this one depends on.",
    ),
]


def check_options(part: bool, wait: str | None, end_ts: int | None) -> None:
    """Raise UsageError where a part has no fixed end, or --wait no part."""
    if not part:
        if wait is not None:
            raise UsageError("--wait is for --part; add that, or leave --wait out")
        return
    if end_ts is None or isinstance(end_ts, options.FromClock):
        raise UsageError(
            "--part needs an --end-ts that is the same on all machines: a TSO or a time, as in "
            '--end-ts "$(date -u +%Y-%m-%dT%H:00:00Z)" for the last full hour'
        )


def run_part(
    request: BackupRequest,
    wait: str | None,
    progress: options.ProgressMode,
    watch: Watch,
    asked_jobs: int | None,
    *,
    as_json: bool,
) -> None:
    """Take a store's part and say what came of it, and what is left to others."""
    from bkctl.backup.outcome import failed_report
    from bkctl.backup.wait import Patience
    from bkctl.fleet.part import take_part
    from bkctl.ui.output import print_json
    from bkctl.ui.progress import make_listener

    begun = time.time()
    watch.failed = lambda error: failed_report(request, error, begun)
    log.detail(
        "starting",
        f"part of a backup to {request.storage}",
        db=str(request.source.path),
        storage=str(request.storage),
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        incremental=request.incremental,
        jobs=request.jobs,
    )
    patience = None if wait is None else Patience(options.duration("--wait", wait))
    with stop_on_signal() as stop:
        try:
            listener = telling_jobs(watch.listener(make_listener(progress.value)), asked_jobs)
            outcome = take_part(request, listener, stop.is_asked, options.notify, patience)
        except BkctlError as e:
            error = CancelledError(stop.signum) if isinstance(e, CancelledError) else e
            watch.report = failed_report(request, error, begun)
            if as_json:
                print_json(watch.report.to_json_dict())
            raise error from None
        watch.report = outcome.report
    if as_json:
        print_json({**outcome.report.to_json_dict(), "left": list(outcome.left)})
    else:
        _print_summary(outcome)
    for line in outcome.left:
        log.info("left", line)
    _end(outcome, stop.signum, waited=wait is not None)


def _end(outcome: PartOutcome, signum: int, *, waited: bool) -> None:
    report = outcome.report
    log_ending(report)
    if report.status == "cancelled":
        raise CancelledError(signum)
    if report.errors:
        kinds = {error.kind for error in report.errors}
        raise typer.Exit(4 if kinds == {"key_is_locked"} else 3)
    if waited and not outcome.is_settled:
        log.warning("wait", "--wait is over, and what is left of this store depends on others")
        raise typer.Exit(3)


def _print_summary(outcome: PartOutcome) -> None:
    from bkctl.codec.tso import format_ts
    from bkctl.ui.output import Page
    from bkctl.ui.summary import print_figures

    report: Report = outcome.report
    page, counts = Page.of_stdout(), report.ranges
    state = "part taken" if report.status == "ok" else f"part {report.status}"
    page.line(f"{page.bold(report.name)}: {state} of store {report.store_id}, not sealed yet")
    page.line(f"  where   {report.storage}")
    since = f"after {report.start_ts} ({format_ts(report.start_ts)}) " if report.start_ts else ""
    page.line(f"  window  {since}up to {report.end_ts} ({format_ts(report.end_ts)})")
    page.line(f"  ranges  {counts.done} of {counts.total} of its own done, {counts.failed} failed")
    print_figures(page, report)
