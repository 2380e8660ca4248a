"""Fixtures that all rooms' tests share: a sample store, copies of shared stores, damage."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from examples.make_store import Made, make_store, region_map_of

SAMPLE_ROWS = 200
SAMPLE_SEED = 7

# No test asserts a time: Hypothesis' own limits for an example and for drawing it would.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell has what it runs in the background ignore Ctrl-C, and all that tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class SampleStore:
    """A closed store, its region map, and what backups of it should count."""

    path: Path
    region_map: Path
    made: Made


@pytest.fixture
def sample_store(tmp_path: Path) -> SampleStore:
    """A store of a few hundred rows in eight regions; the test may change it."""
    path = tmp_path / "store"
    made = make_store(path, SAMPLE_ROWS, SAMPLE_SEED)
    return SampleStore(path, region_map_of(path), made)


@pytest.fixture
def copy_store(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a store, with its region map if it has one, to where it may be written to."""

    def copy(source: Path) -> Path:
        target = tmp_path / "copies" / source.name
        shutil.copytree(source, target)
        target.chmod(0o755)
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if region_map_of(source).exists():
            shutil.copyfile(region_map_of(source), region_map_of(target))
        return target

    return copy


@pytest.fixture
def flip_bytes() -> Callable[[Path, int, int], None]:
    """Inverts `count` bytes of a file from `offset` on; a negative offset counts from its end."""

    def flip(path: Path, offset: int, count: int) -> None:
        data = bytearray(path.read_bytes())
        start = offset if offset >= 0 else len(data) + offset
        assert start >= 0
        assert start + count <= len(data)
        for position in range(start, start + count):
            data[position] ^= 0xFF
        path.write_bytes(data)

    return flip
