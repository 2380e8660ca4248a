"""`bkctl restore`: makes a new store from a backup and all it builds on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl import interrupts
from bkctl.codec.tso import format_ts
from bkctl.commands import file_options as files
from bkctl.commands import options
from bkctl.commands.jobs import bounded_jobs
from bkctl.errors import UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.restore.plan import RestorePlan, RestoreRequest
    from bkctl.restore.restore import RestoreResult
    from bkctl.ui.output import Page
    from bkctl.verify.file import Finding

HELP = """Restore a backup, with all it builds on, into a new RocksDB directory.

Which one: its name, latest (the default), or --at TS for the newest that ends there or before. An
incremental backup brings its base along. Every file is verified first: its hash, and that each
block and the order of its keys are sound. --to must not exist, or be an empty directory; it appears
in one step when all is done, and not at all if anything is damaged.
What a killed restore left beside it (DIR.bkctl-tmp-...) goes with the next one to the same place.

With --start-key and --end-key only those keys are restored. Files of a local backup are hard-linked
where possible: do not change the owner or mode of files in the new directory, as the backup shares
them. The directory is its user's alone to read, or with --group-readable the group's too.

\b
Example:
  bkctl restore latest --storage local:///backups --to /var/lib/restored
  bkctl restore --at 2026-11-23T10:15:00Z --storage /backups --to /tmp/db --dry-run

\b
Exit codes: 0 restored, or planned; 1 failed; 2 no such backup, bad option or
a --to that is not empty; 5 the backup is damaged; 129/130/143 interrupted.
"""
_MAX_SHOWN = 50

Backup = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The backup; default: latest.")
]
Name = Annotated[
    str | None, options.option("--name", metavar="NAME", help="The same as an option.")
]
At = Annotated[
    int | None,
    options.option(
        "--at", metavar="TS", parser=options.parse_ts, help="The newest backup up to this time."
    ),
]
To = Annotated[Path | None, options.option("--to", metavar="DIR", help="The directory to make.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
NoVerify = Annotated[bool, options.option("--no-verify", help="Take files as they are, unread.")]
Jobs = Annotated[
    int | None,
    options.option(
        "--jobs", metavar="N", min=1, help="Files at a time, 4 a core at most; default: 4."
    ),
]


def restore(
    backup: Backup = None,
    storage: options.StorageUrl = None,
    to: To = None,
    name: Name = None,
    at: At = None,
    start_key: options.StartKey = None,
    end_key: options.EndKey = None,
    key_format: options.KeyFormatOption = options.KeyFormat.HEX,
    allow_gaps: options.AllowGaps = False,
    dry_run: DryRun = False,
    no_verify: NoVerify = False,
    jobs: Jobs = None,
    crypter_method: options.CrypterMethod = None,
    crypter_key: options.CrypterKey = None,
    crypter_key_file: options.CrypterKeyFile = None,
    group_readable: files.GroupReadable = False,
    progress: options.Progress = options.ProgressMode.AUTO,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Restore a backup and say what came of it."""
    from bkctl.restore.plan import DEFAULT_JOBS, RestoreRequest
    from bkctl.storage.url import parse_storage

    given = [choice for choice in (backup, name, at) if choice is not None]
    if len(given) > 1:
        raise UsageError("NAME, --name and --at exclude each other; give one of them")
    first, last = options.parse_key_window(start_key, end_key, key_format)
    request = RestoreRequest(
        storage=parse_storage(options.required("--storage", storage)),
        target=options.required("--to", to),
        name=backup or name,
        at=at,
        start_key=first,
        end_key=last,
        verify=not no_verify,
        jobs=bounded_jobs(jobs, DEFAULT_JOBS),
        cipher=options.cipher(crypter_method, crypter_key, crypter_key_file),
        allow_gaps=allow_gaps,
    )
    findings = _plan(request, json) if dry_run else _restore(request, progress, json)
    if findings:
        raise typer.Exit(5)


def _plan(request: RestoreRequest, as_json: bool) -> tuple[Finding, ...]:
    from bkctl.restore.restore import plan_restore
    from bkctl.ui.output import Page, print_json

    plan = plan_restore(request)
    _warn(plan)
    if as_json:
        status = "damaged" if plan.findings else "planned"
        print_json(_document(request.target, plan, plan.findings, status))
    else:
        page = Page.of_stdout()
        page.line(f"{page.bold(str(request.target))}: would be made, nothing is done")
        _print_plan(page, plan)
        _print_findings(page, plan.findings)
    return plan.findings


def _restore(
    request: RestoreRequest, progress: options.ProgressMode, as_json: bool
) -> tuple[Finding, ...]:
    from bkctl.restore.restore import restore as restore_backup
    from bkctl.ui.output import Page, print_json
    from bkctl.ui.transfer import TransferLine

    line = TransferLine(progress.value)
    try:
        result = restore_backup(request, line.show)
        interrupts.settle()
    finally:
        line.close()
    _warn(result.plan)
    if as_json:
        status = "damaged" if result.findings else "ok"
        document = _document(result.target, result.plan, result.findings, status)
        document["how"] = {how.value: count for how, count in result.counts}
        print_json(document | {"seconds": result.seconds})
    else:
        _print_result(Page.of_stdout(), result)
    return result.findings


def _warn(plan: RestorePlan) -> None:
    from bkctl.archive.coverage import KeySet

    for name in plan.damaged_newer:
        message = f"backup {name} is damaged and was passed over; see bkctl list"
        log.warning("damaged_backup", message, name=name)
    for hole in plan.holes:
        log.warning("gaps", f"not restored: {hole}")
    if plan.uncovered:
        message = f"not in the backup, which never covered them: keys {plan.uncovered}"
        log.warning("gaps", message, gaps=len(plan.uncovered.ranges))
    if plan.limited_to is not None:
        keys = KeySet((plan.limited_to,))
        log.warning("limited", f"{plan.chain[-1].name} is limited to keys {keys}")


def _document(
    target: Path, plan: RestorePlan, findings: tuple[Finding, ...], status: str
) -> dict[str, object]:
    return {
        "to": str(target),
        "status": status,
        "backups": [backup.name for backup in plan.chain],
        "mode": plan.chain[-1].facts.mode,
        "end_ts": plan.end_ts,
        "holes": [str(hole) for hole in plan.holes],
        "uncovered": [
            {"start_key": keys.start_key.hex().upper(), "end_key": keys.end_key.hex().upper()}
            for keys in plan.uncovered.ranges
        ],
        "limited_to": plan.limited_to
        and {
            "start_key": plan.limited_to.start_key.hex().upper(),
            "end_key": plan.limited_to.end_key.hex().upper(),
        },
        "files": len(plan.files),
        "files_in_part": plan.partial,
        "files_left_out": plan.left_out,
        "size": plan.size,
        "damages": [
            {"file": finding.file, "offset": finding.offset, "what": finding.what}
            for finding in findings
        ],
    }


def _print_result(page: Page, result: RestoreResult) -> None:
    from bkctl.ui.human import format_count, format_duration

    if result.findings:
        page.line(f"{page.bold(str(result.target))}: not made, as the backup is damaged")
        _print_findings(page, result.findings)
        return
    page.line(f"{page.bold(str(result.target))}: restored in {format_duration(result.seconds)}")
    _print_plan(page, result.plan)
    came = ", ".join(f"{format_count(count)} {how.value}" for how, count in result.counts if count)
    if came:
        page.line(f"  how     {came}")


def _print_plan(page: Page, plan: RestorePlan) -> None:
    from bkctl.ui.human import format_count, format_size

    page.line(f"  from    {' → '.join(backup.name for backup in plan.chain)}")
    if plan.end_ts:
        page.line(f"  as of   {plan.end_ts} ({format_ts(plan.end_ts)})")
    parts = [f"{format_count(len(plan.files))}, {format_size(plan.size)}"]
    if plan.partial:
        parts.append(f"{format_count(plan.partial)} of them in part")
    if plan.left_out:
        parts.append(f"{format_count(plan.left_out)} left out")
    page.line(f"  files   {', '.join(parts)}")


def _print_findings(page: Page, findings: tuple[Finding, ...]) -> None:
    for finding in findings[:_MAX_SHOWN]:
        page.line(f"  {finding}")
    if len(findings) > _MAX_SHOWN:
        page.line(f"  and {len(findings) - _MAX_SHOWN:,} more (see --json)")
