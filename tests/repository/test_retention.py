"""Which backups retention keeps: restic's rules, and never a chain broken."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.report import KeyRange
from bkctl.codec.tso import compose
from bkctl.repository.chain import Chains
from bkctl.repository.retention import Group, Policy, judge
from bkctl.repository.summary import BackupFacts, BackupState, BackupSummary

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
HOUR = 3600


def ts(hours: float) -> int:
    """The TSO of so many hours after new year 2026."""
    return compose(int((START + timedelta(hours=hours)).timestamp() * 1000))


def backup(name: str, start: float | None, end: float, **other: object) -> BackupSummary:
    """A backup from `start` (None for a full one) to `end`, in hours."""
    facts = BackupFacts("txn", 0 if start is None else ts(start), ts(end), store_id=1, cluster_id=7)
    fields = {field.name for field in dataclasses.fields(BackupFacts)}
    facts = dataclasses.replace(facts, **{k: v for k, v in other.items() if k in fields})  # type: ignore[arg-type]
    rest = {k: v for k, v in other.items() if k not in fields}
    summary = BackupSummary(name, BackupState.COMPLETE, "", None, facts, created=float(end))
    return dataclasses.replace(summary, **rest)  # type: ignore[arg-type]


def fulls(*ends: float) -> list[BackupSummary]:
    return [backup(f"{end:g}", None, end) for end in ends]


def kept(backups: list[BackupSummary], policy: Policy) -> list[str]:
    verdicts = judge(Chains("local:///r", backups), policy)
    assert {verdict.backup.name for verdict in verdicts} == {b.name for b in backups}
    return [verdict.backup.name for verdict in verdicts if verdict.is_kept]


DAILY = fulls(*(day * 24 + hour for day in range(4) for hour in (1, 23)))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(last=1), ["95"]),
        (Policy(last=3), ["71", "73", "95"]),
        (Policy(last=99), [b.name for b in DAILY]),
        (Policy(daily=2), ["71", "95"]),
        # While there are fewer days than asked for, the oldest backup is kept too.
        (Policy(daily=4), ["23", "47", "71", "95"]),
        (Policy(daily=5), ["1", "23", "47", "71", "95"]),
        # 2026-01-01 is a Thursday: all are in one ISO week, and in one month.
        (Policy(weekly=1), ["95"]),
        (Policy(weekly=2), ["1", "95"]),
        (Policy(monthly=1), ["95"]),
        (Policy(within=24 * HOUR), ["71", "73", "95"]),
        (Policy(within=24 * HOUR - 1), ["73", "95"]),
        (Policy(within=0), ["95"]),
        (Policy(last=2, daily=2), ["71", "73", "95"]),
    ],
)
def test_rules(policy: Policy, expected: list[str]) -> None:
    assert kept(DAILY, policy) == expected


def test_days_weeks_and_months_without_a_backup_do_not_count() -> None:
    backups = fulls(0, 24 * 40, 24 * 41, 24 * 90)
    assert kept(backups, Policy(daily=3)) == ["960", "984", "2160"]
    assert kept(backups, Policy(weekly=2)) == ["984", "2160"]
    assert kept(backups, Policy(monthly=3)) == ["0", "984", "2160"]


def test_weeks_are_those_of_iso_across_the_new_year() -> None:
    # Mon 2025-12-29 and Thu 2026-01-01 are in week 1 of 2026, Sun 2025-12-28 is not.
    backups = fulls(-24 * 4 + 1, -24 * 3 + 1, 1)
    assert kept(backups, Policy(weekly=1)) == ["1"]
    assert kept(backups, Policy(weekly=2)) == ["-95", "1"]


CHAIN = [backup("full", None, 1), *(backup(f"i{n}", n, n + 1) for n in range(1, 6))]


def test_what_a_kept_backup_builds_on_is_kept() -> None:
    later = backup("later", None, 9)
    assert kept([*CHAIN, later], Policy(last=1)) == ["later"]
    assert kept([*CHAIN, later], Policy(last=2)) == [*(b.name for b in CHAIN), "later"]
    assert kept(CHAIN, Policy(last=1)) == [b.name for b in CHAIN]
    branch = backup("branch", 2, 8)
    assert kept([*CHAIN, branch], Policy(last=1)) == ["full", "i1", "branch"]


def test_the_reasons_are_told() -> None:
    verdicts = judge(Chains("local:///r", CHAIN[:2]), Policy(last=1, daily=3))
    assert [verdict.reasons for verdict in verdicts] == [
        ("oldest, while daily is below 3", "i1 builds on it"),
        ("last 1 of 1", "daily 1 of 3 (2026-01-01)"),
    ]


def test_a_full_backup_stands_in_for_an_incremental_that_ends_with_it() -> None:
    merged = backup("merged", None, 6, created=1e9)
    assert kept([*CHAIN, merged], Policy(last=1)) == ["merged"]


@pytest.mark.parametrize(
    "other",
    [
        {"store_id": 2},
        {"cluster_id": 8},
        {"store_id": None},
        {"mode": "raw"},
        {"window": KeyRange(b"a", b"b")},
    ],
)
def test_other_data_is_judged_apart(other: dict[str, object]) -> None:
    backups = [*fulls(1, 2), backup("x", None, 3, **other), backup("y", None, 4, **other)]
    assert kept(backups, Policy(last=1)) == ["2", "y"]


def test_column_families_of_raw_stores_are_judged_apart() -> None:
    backups = [backup(cf, None, n, mode="raw", cf=cf) for n, cf in enumerate(("write", "default"))]
    assert kept(backups, Policy(last=1)) == ["write", "default"]


def test_what_cannot_be_restored_stays_and_counts_for_nothing() -> None:
    damaged = backup("damaged", None, 7, state=BackupState.DAMAGED, remark="bad sum")
    above = backup("above", 7, 8)
    orphan = backup("orphan", 50, 60)
    backups = [*fulls(1, 2), damaged, above, orphan]
    assert kept(backups, Policy(last=1)) == ["2", "damaged", "above", "orphan"]
    reasons = {
        verdict.backup.name: "; ".join(verdict.reasons)
        for verdict in judge(Chains("local:///r", backups), Policy(last=1))
    }
    assert reasons["damaged"].startswith("damaged, never removed: bad sum")
    assert reasons["above"] == "builds on damaged, which is damaged; never removed"
    assert reasons["orphan"].startswith("what it builds on is missing")


def test_what_an_unfinished_run_would_build_on_stays() -> None:
    backups = fulls(1, 2)
    unfinished = backup("u", 1, 3, state=BackupState.UNFINISHED)
    chains = Chains("local:///r", [*backups, unfinished])
    verdicts = judge(chains, Policy(last=1), [unfinished])
    assert [(v.backup.name, v.reasons[0]) for v in verdicts if v.is_kept] == [
        ("1", "unfinished u builds on it"),
        ("2", "last 1 of 1"),
    ]


@st.composite
def repositories(draw: st.DrawFn) -> list[BackupSummary]:
    """Fulls and incrementals of one or two stores, some damaged, some without a base."""
    found: list[BackupSummary] = []
    hours = st.integers(0, 24 * 70)
    for number in range(draw(st.integers(0, 14))):
        store = draw(st.sampled_from([1, 1, 1, 2]))
        end = draw(hours)
        start: float | None = None
        if found and draw(st.sampled_from((True, False))):
            ends = [round((b.facts.end_ts or 0) - ts(0)) // (ts(1) - ts(0)) for b in found]
            start = draw(st.sampled_from(ends)) + draw(st.sampled_from((0, 0, 0, 0, 1)))
            end = start + draw(st.integers(0, 60))
        is_damaged = draw(st.integers(0, 9)) == 0
        state = BackupState.DAMAGED if is_damaged else BackupState.COMPLETE
        made = draw(st.floats(0, 100))
        found.append(backup(f"b{number}", start, end, store_id=store, state=state, created=made))
    return found


policies = st.builds(
    Policy,
    last=st.integers(0, 4),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 4),
    monthly=st.integers(0, 3),
    within=st.none() | st.integers(0, 24 * 30 * HOUR),
).filter(lambda policy: not policy.is_empty)


def restorable(backups: list[BackupSummary]) -> set[str]:
    chains = Chains("local:///r", backups)
    return {
        backup.name
        for backup in backups
        if not chains.is_orphan(backup)
        and all(part.is_complete for part in chains.chain_of(backup))
    }


@given(repositories(), policies)
def test_no_kept_backup_lacks_its_base(backups: list[BackupSummary], policy: Policy) -> None:
    staying = kept(backups, policy)
    left = [backup for backup in backups if backup.name in staying]
    before, after = Chains("local:///r", backups), Chains("local:///r", left)
    for backup in left:
        assert before.is_orphan(backup) == after.is_orphan(backup)
        base = before.base_of(backup)
        assert base is None or base.name in staying
    assert restorable(left) == restorable(backups) & set(staying)


@given(repositories(), policies)
def test_removed_in_turn_all_that_is_left_has_its_base_at_every_step(
    backups: list[BackupSummary], policy: Policy
) -> None:
    verdicts = judge(Chains("local:///r", backups), policy)
    left = {backup.name: backup for backup in backups}
    usable = restorable(backups)
    for verdict in reversed(verdicts):
        if not verdict.is_kept:
            del left[verdict.backup.name]
            assert restorable(list(left.values())) == usable & left.keys()


@given(repositories(), policies)
def test_the_newest_of_each_group_stays_and_damage_too(
    backups: list[BackupSummary], policy: Policy
) -> None:
    staying = kept(backups, policy)
    usable = restorable(backups)
    newest: dict[Group, int] = {}
    for backup in backups:
        if backup.name in usable:
            group = Group.of(backup)
            newest[group] = max(newest.get(group, 0), backup.facts.end_ts or 0)
        else:
            assert backup.name in staying
    for group, end in newest.items():
        assert any(
            b.name in staying and Group.of(b) == group and b.facts.end_ts == end for b in backups
        )


@given(repositories(), policies)
def test_a_second_time_nothing_more_goes(backups: list[BackupSummary], policy: Policy) -> None:
    staying = kept(backups, policy)
    left = [backup for backup in backups if backup.name in staying]
    assert kept(left, policy) == staying
