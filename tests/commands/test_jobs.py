"""`--jobs`: bounded by the cores and by the work there is, and said where it is lowered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bkctl.pool.pool import started_pool
from tests.commands.console import Outcome, bkctl
from tests.conftest import SampleStore


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers were asked for, each time that some were."""
    counts: list[int] = []

    def counted(count: int, *args: object) -> object:
        counts.append(count)
        return started_pool(count, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("bkctl.backup.workers.started_pool", counted)
    return counts


def backup(store: SampleStore, repository: Path, *options: object) -> Outcome:
    return bkctl(
        *("backup", "--db", store.path, "--region-map", store.region_map, "--name", "b"),
        *("--storage", repository, "--progress", "none", *options),
    )


def test_more_than_four_a_core_are_not_started(
    sample_store: SampleStore, tmp_path: Path, started: list[int]
) -> None:
    repository = tmp_path / "repo"
    outcome = backup(sample_store, repository, "--jobs", 9)
    assert outcome.code == 0
    assert started == [4]
    assert outcome.stderr == "bkctl: --jobs 9 is lowered to 4, 4 for each core\n"
    for command in (
        ("verify", "b", "--progress", "none"),
        ("restore", "b", "--to", tmp_path / "to", "--progress", "none"),
        ("merge", "b"),
    ):
        told = bkctl(*command, "--storage", repository, "--jobs", 10**9).stderr
        assert f"--jobs {10**9} is lowered to 4, 4 for each core\n" in told


def test_more_than_the_work_has_parts_is_said(sample_store: SampleStore, tmp_path: Path) -> None:
    outcome = backup(sample_store, tmp_path / "repo", "--jobs", 4, "--region-map", "none")
    assert "--jobs 4 is lowered to 1: there is work of 1 part\n" in outcome.stderr


@pytest.mark.parametrize("options", [(), ("--jobs", 1), ("--jobs", 4)])
def test_what_makes_sense_is_taken_without_a_word(
    sample_store: SampleStore, tmp_path: Path, options: tuple[object, ...]
) -> None:
    outcome = backup(sample_store, tmp_path / "repo", *options)
    assert (outcome.code, outcome.stderr) == (0, "")
