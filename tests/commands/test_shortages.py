"""Runs that lack memory, space or open files: one line that names it, and never 'damaged'."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands.console import bkctl
from tests.conftest import SampleStore

MIB = 1 << 20


def limited(kind: int, most: int, *args: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m bkctl` with a limit of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bkctl", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(kind, (most, most)),
    )


@pytest.fixture
def repository(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A repository with a backup of the sample store."""
    repository = tmp_path / "repo"
    outcome = bkctl(*backing_up(sample_store, repository))
    assert outcome.code == 0, outcome.stderr
    return repository


def backing_up(store: SampleStore, repository: Path) -> tuple[object, ...]:
    return (
        *("backup", "--db", store.path, "--region-map", store.region_map, "--jobs", 1),
        *("--storage", repository, "--progress", "none"),
    )


@pytest.mark.parametrize("mebibytes", [200, 350])
def test_little_memory(
    sample_store: SampleStore, repository: Path, tmp_path: Path, mebibytes: int
) -> None:
    for args in (
        backing_up(sample_store, tmp_path / "other"),
        ("restore", "latest", "--storage", repository, "--to", tmp_path / "to"),
    ):
        ended = limited(resource.RLIMIT_AS, mebibytes * MIB, *args)
        assert "Traceback" not in ended.stderr
        assert ended.returncode in (0, 1, 3), ended.stdout + ended.stderr
        if ended.returncode:
            assert f"not enough memory (ulimit -v is {mebibytes} MiB)" in ended.stderr or (
                "no more processes or threads can be started" in ended.stderr
            )
            assert "damaged" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("most", [16, 24])
def test_few_open_files(
    sample_store: SampleStore, repository: Path, tmp_path: Path, most: int
) -> None:
    for args in (
        backing_up(sample_store, tmp_path / "other"),
        ("restore", "latest", "--storage", repository, "--to", tmp_path / "to"),
    ):
        ended = limited(resource.RLIMIT_NOFILE, most, *args)
        assert "Traceback" not in ended.stderr
        if ended.returncode:
            assert "damaged" not in ended.stdout + ended.stderr
            assert "ulimit -n" in ended.stderr


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of some size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
        )
        if made.returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk(
    sample_store: SampleStore, repository: Path, full_disk: Callable[[str], Path]
) -> None:
    disk = full_disk("24k")
    for args in (
        backing_up(sample_store, disk / "repo"),
        ("restore", "latest", "--storage", repository, "--to", disk / "to"),
    ):
        outcome = bkctl(*args)
        assert outcome.code in (1, 3)
        assert str(disk) in outcome.stderr
        assert "no space" in outcome.stderr.lower()
        assert "damaged" not in outcome.stdout + outcome.stderr
