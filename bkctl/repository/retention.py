"""Retention: which backups to keep. Decides, and touches nothing.

Backups of the same data (store, mode, key range) make a group, and each group is judged by itself,
from its newest backup back in time:

    last N                     the N newest
    daily, weekly, monthly N   the newest of each of the N latest days (ISO weeks, months; UTC) that
                               have a backup; while N is not reached, the oldest backup too
    within SPAN                all that ended at most SPAN before the newest

A backup that one rule keeps is kept, and all that it builds on with it, so no chain is broken and
the newest of a group always stays. What cannot be restored uses up no rule's count, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from bkctl.archive.report import KeyRange
from bkctl.codec.tso import compose, to_datetime
from bkctl.repository.chain import Chains
from bkctl.repository.summary import BackupState, BackupSummary

_MAX_SECONDS = 1 << 36  # fits a TSO


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep; 0 and None are no rule. `within` is in seconds."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    within: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no rule at all."""
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backup is to be kept, and why; one that is to go has no reasons."""

    backup: BackupSummary
    reasons: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class Group:
    """What backups have in common that are judged together; ids are None where unknown."""

    mode: str
    cf: str
    cluster_id: int | None
    store_id: int | None
    window: KeyRange | None

    @classmethod
    def of(cls, backup: BackupSummary) -> Group:
        """A backup's group."""
        facts = backup.facts
        return cls(facts.mode, facts.cf, facts.cluster_id, facts.store_id, facts.window)


def time_of(backup: BackupSummary) -> datetime:
    """When the data was as the backup has it: its end, or if that is unknown when it was made."""
    return to_datetime(_end_ts(backup))


def _end_ts(backup: BackupSummary) -> int:
    if backup.facts.end_ts:
        return backup.facts.end_ts
    return compose(int(backup.created * 1000)) if 0 < backup.created < _MAX_SECONDS else 0


def judge(
    chains: Chains, policy: Policy, unfinished: Iterable[BackupSummary] = ()
) -> list[Verdict]:
    """Judge the finished backups, oldest first, no backup before what it builds on.

    `unfinished` are runs that may be resumed: what those build on stays too.
    """
    finished = [
        backup for backup in chains.oldest_first if backup.state is not BackupState.UNFINISHED
    ]
    reasons: dict[str, list[str]] = {}
    groups: dict[Group, list[BackupSummary]] = {}
    for backup in finished:
        why = _why_not_restorable(chains, backup)
        if why:
            reasons[backup.name] = [why]
        else:
            groups.setdefault(Group.of(backup), []).append(backup)
    for backups in groups.values():
        backups.sort(key=_newness, reverse=True)
        for backup, why in _kept_by_rules(backups, policy):
            reasons.setdefault(backup.name, []).append(why)
    for backup in unfinished:
        base = chains.find_base(backup)
        if base is not None:
            reasons.setdefault(base.name, []).append(f"unfinished {backup.name} builds on it")
    # Youngest first, as a base never stands behind what builds on it.
    for backup in reversed(finished):
        base = chains.base_of(backup)
        if backup.name in reasons and base is not None:
            reasons.setdefault(base.name, []).append(f"{backup.name} builds on it")
    return [Verdict(backup, tuple(reasons.get(backup.name, ()))) for backup in finished]


def _why_not_restorable(chains: Chains, backup: BackupSummary) -> str:
    if not backup.is_complete:
        return f"damaged, never removed: {backup.remark or 'it cannot be read'}"
    if chains.is_orphan(backup):
        return "what it builds on is missing, it cannot be restored; never removed"
    for base in chains.chain_of(backup):
        if not base.is_complete:
            return f"builds on {base.name}, which is damaged; never removed"
    return ""


def _newness(backup: BackupSummary) -> tuple[int, bool, float, str]:
    """Of backups that end together a full one counts as the newest: it needs no other."""
    return _end_ts(backup), backup.facts.kind != "incr", backup.created, backup.name


def _kept_by_rules(
    newest_first: list[BackupSummary], policy: Policy
) -> Iterator[tuple[BackupSummary, str]]:
    periods = (
        ("daily", policy.daily, _day),
        ("weekly", policy.weekly, _week),
        ("monthly", policy.monthly, _month),
    )
    for number, backup in enumerate(newest_first[: policy.last], 1):
        yield backup, f"last {number} of {policy.last}"
    for name, count, period_of in periods:
        yield from _kept_by_period(newest_first, name, count, period_of)
    if policy.within is not None:
        newest = time_of(newest_first[0])
        for backup in newest_first:
            if (newest - time_of(backup)).total_seconds() <= policy.within:
                yield backup, "within the span of the newest"


def _kept_by_period(
    newest_first: list[BackupSummary], name: str, count: int, period_of: Callable[[datetime], str]
) -> Iterator[tuple[BackupSummary, str]]:
    number, before = 0, ""
    for backup in newest_first:
        if number == count:
            return
        period = period_of(time_of(backup))
        if period != before:
            number, before = number + 1, period
            yield backup, f"{name} {number} of {count} ({period})"
        elif backup is newest_first[-1]:
            yield backup, f"oldest, while {name} is below {count}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02d}"


def _month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"
