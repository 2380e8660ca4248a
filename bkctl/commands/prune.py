"""`bkctl prune`: removes old backups, and what dead runs left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from bkctl import interrupts
from bkctl.commands import file_options as files
from bkctl.commands import options
from bkctl.commands.signals import Stop, stop_on_signal
from bkctl.errors import CancelledError, UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.repository.lock import RepositoryLock
    from bkctl.repository.prune import PrunePlan
    from bkctl.repository.retention import Policy
    from bkctl.storage.base import Storage

HELP = """Remove the backups that no --keep option keeps, and what dead runs left.

A backup stays if one of the options keeps it, or if one that stays builds on it: no chain is
broken. Backups of different stores, modes and key ranges are judged apart, by the UTC time at which
they end; the newest of each always stays. Damaged ones and those whose base is missing stay too.

A run that failed or was killed can be resumed, so what it left stays until nothing was written
there for --leftovers-after. What is neither bkctl's nor br's is never touched.

\b
Example:
  bkctl prune --storage local:///backups --keep-daily 7 --keep-weekly 5 --dry-run
  bkctl prune --storage 'gcs://bucket/backups' --keep-last 3 --keep-within 30d

\b
Exit codes: 0 pruned; 1 failed; 2 bad option, nothing was removed; 6 another
run holds the repository's lock; 129/130/143 interrupted. A prune that was cut off
leaves only whole backups; the next one does the rest.
"""


KeepLast = Annotated[
    int | None, options.option("--keep-last", metavar="N", min=1, help="Keep the N newest.")
]
KeepDaily = Annotated[
    int | None,
    options.option(
        "--keep-daily", metavar="N", min=1, help="Keep the newest of each of the last N days."
    ),
]
KeepWeekly = Annotated[
    int | None,
    options.option("--keep-weekly", metavar="N", min=1, help="The same of N ISO weeks."),
]
KeepMonthly = Annotated[
    int | None, options.option("--keep-monthly", metavar="N", min=1, help="The same of N months.")
]
KeepWithin = Annotated[
    str | None,
    options.option(
        "--keep-within",
        metavar="SPAN",
        help="Keep all that ended within SPAN (30d, 36h; s, m, h, d, w) of the newest.",
    ),
]
LeftoversAfter = Annotated[
    str,
    options.option(
        "--leftovers-after",
        metavar="SPAN",
        help="Remove unfinished runs after SPAN without change; until then --resume can use them.",
    ),
]
DryRun = Annotated[bool, options.option("--dry-run", help="Only say what would go, and why.")]


def prune(
    storage: options.StorageUrl = None,
    keep_last: KeepLast = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_within: KeepWithin = None,
    leftovers_after: LeftoversAfter = "7d",
    dry_run: DryRun = False,
    group_readable: files.GroupReadable = False,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Remove old backups and leftovers."""
    from bkctl.repository.retention import Policy
    from bkctl.storage.url import open_storage, parse_storage

    policy = Policy(
        last=keep_last or 0,
        daily=keep_daily or 0,
        weekly=keep_weekly or 0,
        monthly=keep_monthly or 0,
        within=None if keep_within is None else options.duration("--keep-within", keep_within),
    )
    if policy.is_empty:
        raise UsageError("nothing says what to keep; give --keep-last or another --keep option")
    after = options.duration("--leftovers-after", leftovers_after)
    with open_storage(parse_storage(options.required("--storage", storage))) as opened:
        run = _dry_run if dry_run else _run
        run(opened, policy, after, as_json=json)


def _dry_run(storage: Storage, policy: Policy, after: int, *, as_json: bool) -> None:
    from bkctl.repository.prune import plan_prune
    from bkctl.ui import output, prunes

    plan = plan_prune(storage, policy, after, time.time())
    _warn(plan)
    if as_json:
        output.print_json(prunes.prune_document(plan, policy, after, None))
    else:
        prunes.print_plan(output.Page.of_stdout(), plan, dry_run=True)


def _run(storage: Storage, policy: Policy, after: int, *, as_json: bool) -> None:
    from bkctl.repository.lock import repository_lock
    from bkctl.repository.prune import carry_out, plan_prune
    from bkctl.ui import output, prunes

    page = output.Page.of_stdout()
    removed: list[str] = []
    storage.list_folders()  # or the lock would make a mistyped directory
    with (
        stop_on_signal() as stop,
        repository_lock(storage, "prune", notify=options.notify) as lock,
    ):
        plan = plan_prune(storage, policy, after, time.time())
        _warn(plan)
        if not as_json:
            prunes.print_plan(page, plan, dry_run=False)
        try:
            for decision in carry_out(storage, plan, lambda: _check(lock, stop)):
                removed.append(decision.name)
        finally:
            if as_json:
                output.print_json(prunes.prune_document(plan, policy, after, removed))
            else:
                prunes.print_outcome(page, plan, removed)


def _check(lock: RepositoryLock, stop: Stop) -> None:
    if stop.is_asked() and not interrupts.is_settled():
        raise CancelledError(stop.signum, "the next prune does the rest")
    lock.check()


def _warn(plan: PrunePlan) -> None:
    from bkctl.ui import prunes

    for warning in prunes.warnings(plan):
        log.warning("damaged_backup", warning)
