"""Prunes for people and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict

from bkctl.codec.tso import format_ts
from bkctl.repository.prune import Decision, Kind, PrunePlan
from bkctl.repository.retention import Group, Policy, time_of
from bkctl.ui.human import format_count, format_size
from bkctl.ui.output import Page

_BACKUPS = (Kind.BACKUP, Kind.DAMAGED)
_RUNS = (Kind.LEFTOVER, Kind.HALF_DELETED)


def prune_document(
    plan: PrunePlan, policy: Policy, leftovers_after: int, removed: Collection[str] | None
) -> dict[str, object]:
    """The JSON document of a prune; `removed` are the names that are gone, None in a dry run."""
    return {
        "storage": plan.url,
        "dry_run": removed is None,
        "policy": {**asdict(policy), "leftovers_after": leftovers_after},
        "backups": [
            {
                **_document(decision, removed),
                "state": decision.backup.state.value,
                "kind": decision.backup.facts.kind or None,
                "start_ts": decision.backup.facts.start_ts,
                "end_ts": decision.backup.facts.end_ts,
            }
            for decision in plan.of(*_BACKUPS)
        ],
        "leftovers": [
            {**_document(decision, removed), "kind": decision.kind.value}
            for decision in plan.of(*_RUNS)
        ],
        "untouched": [decision.name for decision in plan.of(Kind.OTHER)],
        "freed": _freed(plan, removed),
    }


def _document(decision: Decision, removed: Collection[str] | None) -> dict[str, object]:
    return {
        "name": decision.name,
        "action": "keep" if decision.is_kept else "remove",
        "done": decision.is_kept or decision.name in (removed or ()),
        "reasons": list(decision.reasons),
        "objects": decision.objects,
        "size": decision.size,
    }


def _freed(plan: PrunePlan, removed: Collection[str] | None) -> dict[str, int]:
    gone = [d for d in plan.removals if removed is None or d.name in removed]
    return {
        "backups": sum(decision.kind in _BACKUPS for decision in gone),
        "leftovers": sum(decision.kind in _RUNS for decision in gone),
        "objects": sum(decision.objects for decision in gone),
        "size": sum(decision.size for decision in gone),
    }


def print_plan(page: Page, plan: PrunePlan, *, dry_run: bool) -> None:
    """Print what is to become of every folder, and why."""
    if not plan.decisions:
        page.line(f"{plan.url}: no backups")
        return
    width = max(len(decision.name) for decision in plan.decisions)
    for title, decisions in _sections(plan):
        page.line(page.bold(title))
        for decision in decisions:
            verb = "keep" if decision.is_kept else "remove"
            size = format_size(decision.size)
            line = f"  {verb:<6}  {decision.name:<{width}}  {_about(decision)}  {size:>10}"
            page.line(f"{line}  {'; '.join(decision.reasons)}")
    if dry_run:
        page.line(_totals(plan, None))


def print_outcome(page: Page, plan: PrunePlan, removed: Collection[str]) -> None:
    """Print what was removed."""
    if plan.decisions:
        page.line(_totals(plan, removed))


def warnings(plan: PrunePlan) -> Iterator[str]:
    """What somebody should look at."""
    for decision in plan.of(Kind.DAMAGED):
        yield f"backup {decision.name} is {decision.reasons[0]}"


def _sections(plan: PrunePlan) -> Iterator[tuple[str, list[Decision]]]:
    groups: dict[Group, list[Decision]] = {}
    for decision in plan.of(*_BACKUPS):
        groups.setdefault(Group.of(decision.backup), []).append(decision)
    for group, decisions in groups.items():
        yield _title(group), decisions
    for title, kinds in (("unfinished", _RUNS), ("not of bkctl", (Kind.OTHER,))):
        if found := list(plan.of(*kinds)):
            yield title, found


def _title(group: Group) -> str:
    whose = f"store {group.store_id or '?'} of cluster {group.cluster_id or '?'}"
    window = group.window
    keys = ""
    if window is not None and (window.start_key or window.end_key):
        start, end = window.start_key.hex().upper(), window.end_key.hex().upper()
        keys = f", keys {start or '(start)'} to {end or '(end)'}"
    cf = f" ({group.cf})" if group.cf else ""
    return f"{group.mode or 'unknown'}{cf} backups of {whose}{keys}"


def _about(decision: Decision) -> str:
    backup = decision.backup
    if decision.kind in _BACKUPS:
        kind = backup.facts.kind or backup.state.value
        end = backup.facts.end_ts
        ended = format_ts(end).partition(",")[0] if end else f"{time_of(backup):%Y-%m-%dT%H:%M:%SZ}"
        return f"{kind:<5} {ended:<24}"
    return f"{decision.kind.value:<30}"


def _totals(plan: PrunePlan, removed: Collection[str] | None) -> str:
    freed = _freed(plan, removed)
    parts = [format_count(freed["backups"], "backup")]
    if freed["leftovers"]:
        parts.append(format_count(freed["leftovers"], "leftover"))
    parts.append(format_count(freed["objects"], "object"))
    parts.append(format_size(freed["size"]))
    return f"{'would remove' if removed is None else 'removed'}: {', '.join(parts)}"
