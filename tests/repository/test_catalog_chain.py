"""Chains: which backup builds on which, and what a name or a time resolves to."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.report import KeyRange
from bkctl.errors import UsageError
from bkctl.repository.catalog import Catalog
from bkctl.repository.chain import ChainNode
from bkctl.repository.summary import BackupFacts, BackupState, BackupSummary, Claim

WHOLE = KeyRange(b"", b"")


def backup(name: str, start_ts: int, end_ts: int, **other: object) -> BackupSummary:
    facts = BackupFacts("txn", start_ts, end_ts, store_id=1, cluster_id=7, window=WHOLE)
    summary = BackupSummary(name, BackupState.COMPLETE, "", None, facts, created=float(end_ts))
    about = {field.name for field in dataclasses.fields(BackupFacts)}
    facts_given = {key: value for key, value in other.items() if key in about}
    rest = {key: value for key, value in other.items() if key not in about}
    changed = dataclasses.replace(facts, **facts_given)  # type: ignore[arg-type]
    return dataclasses.replace(summary, facts=changed, **rest)  # type: ignore[arg-type]


def catalog(*backups: BackupSummary) -> Catalog:
    return Catalog.of("local:///r", backups)


def names(backups: list[BackupSummary]) -> list[str]:
    return [backup.name for backup in backups]


def drawn(nodes: tuple[ChainNode, ...]) -> list[object]:
    return [(node.backup.name, drawn(node.children)) for node in nodes]


FULL = backup("full", 0, 10)
ONE = backup("one", 10, 20)
TWO = backup("two", 20, 30)


def test_a_chain_is_the_full_backup_and_its_incrementals_in_order() -> None:
    repository = catalog(TWO, FULL, ONE)
    assert drawn(repository.chains.roots) == [("full", [("one", [("two", [])])])]
    assert names(repository.resolve()) == ["full", "one", "two"]
    assert names(repository.resolve("one")) == ["full", "one"]
    assert names(repository.resolve("full")) == ["full"]


def test_several_incrementals_may_build_on_one() -> None:
    branch = backup("branch", 10, 40)
    repository = catalog(FULL, ONE, TWO, branch)
    assert drawn(repository.chains.roots) == [("full", [("one", [("two", [])]), ("branch", [])])]
    assert names(repository.resolve("latest")) == ["full", "branch"]


def test_an_incremental_without_its_base_is_an_orphan() -> None:
    repository = catalog(FULL, TWO, backup("three", 30, 40))
    assert repository.chains.is_orphan(TWO)
    assert not repository.chains.is_orphan(FULL)
    assert drawn(repository.chains.roots) == [("full", []), ("two", [("three", [])])]
    with pytest.raises(UsageError, match="three needs one that ends at 20"):
        repository.resolve("three")


@pytest.mark.parametrize(
    "other",
    [
        {"store_id": 2},
        {"cluster_id": 8},
        {"mode": "raw"},
        {"window": KeyRange(b"a", b"b")},
        {"state": BackupState.UNFINISHED},
    ],
)
def test_a_base_is_of_the_same_data_and_finished(other: dict[str, object]) -> None:
    base = backup("base", 0, 10, **other)
    assert catalog(base, ONE).chains.is_orphan(ONE)


@pytest.mark.parametrize("unknown", [{"store_id": None}, {"cluster_id": None}, {"window": None}])
def test_what_is_not_known_keeps_no_backups_apart(unknown: dict[str, object]) -> None:
    base = backup("base", 0, 10, **unknown)
    assert names(catalog(base, ONE).resolve("one")) == ["base", "one"]


def test_of_two_bases_a_whole_full_one_is_taken() -> None:
    again = backup("again", 0, 20, created=1.0)
    assert names(catalog(FULL, ONE, TWO, again).resolve("two")) == ["again", "two"]
    broken = dataclasses.replace(again, state=BackupState.DAMAGED)
    assert names(catalog(FULL, ONE, TWO, broken).resolve("two")) == ["full", "one", "two"]


def test_a_damaged_base_stays_in_the_chain() -> None:
    broken = dataclasses.replace(ONE, state=BackupState.DAMAGED)
    assert names(catalog(FULL, broken, TWO).resolve()) == ["full", "one", "two"]


def test_an_incremental_over_nothing_is_not_its_own_base() -> None:
    empty, again = backup("empty", 10, 10), backup("again", 10, 10)
    repository = catalog(FULL, empty, again, ONE)
    assert names(repository.resolve("empty")) == ["full", "empty"]
    assert names(repository.resolve("one")) == ["full", "one"]
    assert catalog(empty, again).chains.is_orphan(again)


@pytest.mark.parametrize(
    ("at", "chain"), [(10, ["full"]), (19, ["full"]), (20, ["full", "one"]), (99, ["full", "one"])]
)
def test_a_time_means_the_newest_backup_that_ends_by_then(at: int, chain: list[str]) -> None:
    assert names(catalog(FULL, ONE).resolve(at=at)) == chain


def test_a_time_before_the_first_backup_is_refused() -> None:
    with pytest.raises(UsageError, match="the first ends at 10"):
        catalog(FULL, ONE).resolve(at=9)


def test_latest_passes_over_what_is_not_complete() -> None:
    unfinished = backup("unfinished", 0, 50, state=BackupState.UNFINISHED)
    broken = backup("broken", 0, 60, state=BackupState.DAMAGED)
    assert names(catalog(FULL, unfinished, broken).resolve("latest")) == ["full"]


def test_of_backups_with_one_end_the_newest_is_one_that_can_be_restored() -> None:
    orphan = backup("zz", 25, 30)
    assert names(catalog(FULL, ONE, TWO, orphan).resolve()) == ["full", "one", "two"]


def test_the_newest_of_several_stores_is_no_ones_guess() -> None:
    repository = catalog(FULL, backup("other", 0, 20, store_id=2))
    with pytest.raises(UsageError, match="several stores"):
        repository.resolve()
    assert names(repository.resolve("other")) == ["other"]


def test_names_that_are_none_are_refused_with_a_hint() -> None:
    repository = catalog(FULL, ONE)
    with pytest.raises(UsageError, match="did you mean full"):
        repository.resolve("ful")
    with pytest.raises(UsageError, match="bkctl list"):
        repository.resolve("q")
    with pytest.raises(UsageError, match="no complete backup"):
        catalog().resolve()


def test_an_unfinished_backup_is_refused_and_its_owner_named() -> None:
    mine = backup(
        "mine", 0, 5, state=BackupState.UNFINISHED, claim=Claim("box", 42, "2026-11-23T10:00:00Z")
    )
    with pytest.raises(UsageError, match="host box, pid 42, since 2026"):
        catalog(mine).resolve("mine")
    assert catalog(mine).chains.look_up("mine") == mine


timestamps = st.integers(0, 6)


@st.composite
def repositories(draw: st.DrawFn) -> Catalog:
    windows = draw(st.lists(st.tuples(timestamps, timestamps), max_size=10))
    return catalog(
        *(
            backup(
                f"b{number}",
                min(window),
                max(window),
                store_id=draw(st.sampled_from([None, 1, 2])),
                state=draw(st.sampled_from(list(BackupState))),
            )
            for number, window in enumerate(windows)
        )
    )


def walked(nodes: tuple[ChainNode, ...]) -> Iterator[BackupSummary]:
    for node in nodes:
        yield node.backup
        yield from walked(node.children)


@given(repositories())
def test_every_backup_is_drawn_once_and_every_chain_is_without_gap(repository: Catalog) -> None:
    chains = repository.chains
    assert sorted(names(list(walked(chains.roots)))) == names(list(repository.backups))
    for entry in repository.backups:
        if entry.state is BackupState.UNFINISHED or chains.is_orphan(entry):
            continue
        line = chains.chain_of(entry)
        assert line[0].facts.start_ts == 0
        assert line[-1] == entry
        for before, after in itertools.pairwise(line):
            assert before.facts.end_ts == after.facts.start_ts
