"""The real cluster's stores, unpacked once; a fleet of them whose parts are taken, not sealed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fleet.commands import Fleet
from tests.real.stores import unpack

END_TS = 470684903272611843
ACKED = {
    "end_ts": END_TS,
    "start_key": "7480000000000003",
    "end_key": "75",
}
"""The window of the last acknowledged writes."""


@pytest.fixture(scope="session")
def dead3(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return unpack("dead3", tmp_path_factory.mktemp("dead3"))


@pytest.fixture(scope="session")
def taken_once(dead3: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    fleet = Fleet(dead3, tmp_path_factory.mktemp("taken") / "repository", **ACKED)
    fleet.parts(0, 1, 2, 0)
    return fleet


@pytest.fixture
def taken(taken_once: Fleet, tmp_path: Path) -> Fleet:
    """A copy, to be changed."""
    shutil.copytree(taken_once.storage, tmp_path / "repository")
    return Fleet(taken_once.stores, tmp_path / "repository", **ACKED)
