"""`bkctl merge`: makes one full backup of a chain, as of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.codec.tso import format_ts
from bkctl.commands import file_options as files
from bkctl.commands import options
from bkctl.commands.jobs import bounded_jobs, telling_jobs
from bkctl.commands.signals import stop_on_signal
from bkctl.errors import CancelledError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report
    from bkctl.merge.merge import MergeRequest, MergeResult
    from bkctl.ui.output import Page

HELP = """Merge a chain into one full backup as of its end, from the backups alone.

NAME is the chain's last backup; latest, the default, is the newest in the repository. No store is
read. What comes out has the records, counts and checksum of a full backup taken at that timestamp.
Every file is verified first, and nothing is published if one is damaged. The chain stays as it is;
restore and later incremental backups then use the merged one. A chain that is one full backup
already needs nothing, and that is no error.

A merge that was cut off is taken up again with --resume; if it ran on this machine, by itself.

Temporary files need no space where the repository is local, as its files are linked there. From a
cloud, of encrypted files, or with --work-dir on another file system, they take about 512 MiB a
worker at a time, more only where single files are larger. Those of encrypted files are plain, and
are kept out of the repository.

\b
Example:
  bkctl merge --storage local:///backups
  bkctl merge 20261123T101500.000Z-incr --storage gcs://bucket/backups --dry-run

\b
Exit codes: 0 published, planned, or nothing to merge; 1 failed; 2 no such
chain, one that cannot be merged, or a bad option; 3 some ranges failed, what
is finished is kept for --resume; 5 a backup of the chain is damaged; 6 another
run holds the repository's lock; 129/130/143 interrupted.
"""
_MAX_SHOWN = 50

Chain = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The chain's last backup; default: latest.")
]
Name = Annotated[
    str | None,
    options.option("--name", metavar="NAME", help="The merged backup's name; default: its time."),
]
Resume = Annotated[bool, options.option("--resume", help="Take up a merge that is unfinished.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def merge(
    chain: Chain = None,
    storage: options.StorageUrl = None,
    name: Name = None,
    resume: Resume = False,
    allow_gaps: options.AllowGaps = False,
    dry_run: DryRun = False,
    compression: files.Compression = "zstd",
    compression_level: files.CompressionLevel = None,
    sst_max_size: files.SstMaxSize = "144MiB",
    jobs: options.Jobs = None,
    rate_limit: files.RateLimit = None,
    work_dir: options.WorkDir = None,
    crypter_method: options.CrypterMethod = None,
    crypter_key: options.CrypterKey = None,
    crypter_key_file: options.CrypterKeyFile = None,
    group_readable: files.GroupReadable = False,
    progress: options.Progress = options.ProgressMode.AUTO,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Merge a chain and say what came of it."""
    from bkctl.merge.merge import MergeRequest, plan_merge
    from bkctl.sst.writer import Compression as SstCompression
    from bkctl.storage.url import parse_storage

    request = MergeRequest(
        storage=parse_storage(options.required("--storage", storage)),
        chain=chain,
        name=name,
        compression=SstCompression(compression, compression_level),
        sst_max_size=options.size("--sst-max-size", sst_max_size),
        jobs=bounded_jobs(jobs),
        resume=resume,
        rate_limit=None if rate_limit is None else options.size("--rate-limit", rate_limit),
        work_dir=work_dir,
        cipher=options.cipher(crypter_method, crypter_key, crypter_key_file),
        allow_gaps=allow_gaps,
    )
    if dry_run:
        result = plan_merge(request)
        _tell(result, as_json=json)
    else:
        result = _merge(request, progress, jobs, as_json=json)
    code = _exit_code(result)
    if code:
        raise typer.Exit(code)


def _merge(
    request: MergeRequest,
    progress: options.ProgressMode,
    asked_jobs: int | None,
    *,
    as_json: bool,
) -> MergeResult:
    from bkctl.merge.merge import merge as merge_chain
    from bkctl.merge.workers import merge_workers
    from bkctl.storage.url import load_backend
    from bkctl.ui.progress import make_listener

    load_backend(request.storage)
    # Told within the block: a signal that comes when all is published changes nothing any more.
    with merge_workers(request.jobs) as pool, stop_on_signal() as stop:
        listener = telling_jobs(make_listener(progress.value), asked_jobs)
        result = merge_chain(request, listener, stop.is_asked, options.notify, pool)
        _tell(result, as_json=as_json)
    if result.report is not None and result.report.status == "cancelled":
        raise CancelledError(stop.signum)
    return result


def _tell(result: MergeResult, *, as_json: bool) -> None:
    for hole in result.chain.holes:
        log.warning("gaps", f"not merged: {hole}")
    if result.chain.uncovered:
        message = f"not in the chain, which never covered them: keys {result.chain.uncovered}"
        log.warning("gaps", message, gaps=len(result.chain.uncovered.ranges))
    if as_json:
        _print_json(result)
    else:
        _print(result)


def _exit_code(result: MergeResult) -> int:
    if result.report is None:
        return 5 if result.chain.findings else 0
    kinds = {error.kind for error in result.report.errors}
    if "corruption" in kinds:
        return 5
    return 3 if kinds else 0


def _print_json(result: MergeResult) -> None:
    from bkctl.ui.output import print_json

    if result.report is not None:
        print_json(result.report.to_json_dict())
        return
    chain = result.chain
    print_json(
        {
            "name": result.name,
            "status": _state(result),
            "merged_from": list(chain.names),
            "end_ts": chain.last.facts.end_ts,
            "ranges": len(chain.ranges),
            "files": len(chain.files),
            "size": chain.size,
            "damages": [
                {"file": finding.file, "offset": finding.offset, "what": finding.what}
                for finding in chain.findings
            ],
        }
    )


def _state(result: MergeResult) -> str:
    """What to say where no merge was begun."""
    if result.chain.findings:
        return "damaged"
    return "planned" if len(result.chain.backups) > 1 else "nothing"


def _print(result: MergeResult) -> None:
    from bkctl.ui.output import Page

    page = Page.of_stdout()
    if result.report is not None:
        _print_report(page, result.report)
    else:
        _print_plan(page, result)


def _print_plan(page: Page, result: MergeResult) -> None:
    from bkctl.ui.human import format_count, format_size

    chain, state = result.chain, _state(result)
    if state == "nothing":
        page.line(f"{page.bold(chain.last.name)}: is a full backup; there is nothing to merge")
        return
    if state == "damaged":
        page.line(f"{page.bold(result.name)}: not made, as the chain is damaged")
        _print_lines(page, [str(finding) for finding in chain.findings])
        return
    end_ts = chain.last.facts.end_ts or 0
    page.line(f"{page.bold(result.name)}: would be made, nothing is done")
    page.line(f"  from    {' → '.join(chain.names)}")
    page.line(f"  as of   {end_ts} ({format_ts(end_ts)})")
    page.line(f"  ranges  {format_count(len(chain.ranges))}")
    page.line(f"  files   {format_count(len(chain.files))}, {format_size(chain.size)}, to be read")


def _print_report(page: Page, report: Report) -> None:
    from bkctl.ui.summary import print_figures, print_outcome

    counts = report.ranges
    print_outcome(page, report)
    page.line(f"  from    {' → '.join(report.merged_from)}")
    page.line(f"  as of   {report.end_ts} ({format_ts(report.end_ts)})")
    page.line(f"  ranges  {counts.done} of {counts.total} done, {counts.failed} failed")
    print_figures(page, report)
    # Ranges that were merged together fail together, by the same words.
    _print_lines(page, list(dict.fromkeys(error.message for error in report.errors)))


def _print_lines(page: Page, lines: list[str]) -> None:
    for line in lines[:_MAX_SHOWN]:
        page.line(f"  {line}")
    if len(lines) > _MAX_SHOWN:
        page.line(f"  and {len(lines) - _MAX_SHOWN:,} more (see --json)")
