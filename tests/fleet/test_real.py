"""Parts of a real cluster's stores make the backup that the stores together make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.commands import Fleet, content
from tests.real.stores import truth, unpack
from tests.real.test_power_loss import cut

ACKED = 600, 146_700, f"{2079901543250119461:016x}"


@pytest.fixture(scope="module")
def stores(dead3: list[Path]) -> list[Path]:
    return dead3


def window_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(w for w in truth("dead3")["windows"] if w["name"] == name)
    return found


def options_of(window: dict[str, Any]) -> dict[str, Any]:
    """A window's bounds, as options."""
    bounds = ("start_ts", "end_ts", "start_key", "end_key")
    return {name: window[name] for name in bounds if window[name] or name == "start_ts"}


def figures(report: Any) -> tuple[object, ...]:
    return report["total_kvs"], report["total_bytes"], report["crc64xor"]


WINDOWS = ["full1", "inc13", "acked"]
if os.environ.get("BKCTL_FLEET_WINDOWS") == "all":
    WINDOWS = ["full1", "full2", "full3", "inc12", "inc13", "mid", "acked"]


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_as_tikv_backs_them_up(stores: list[Path], tmp_path: Path, name: str) -> None:
    window = window_of(name)
    fleet = Fleet(stores, tmp_path / "repository", name=name, **options_of(window))
    fleet.parts(0, 1, 2, 0)
    done = fleet.seal()
    assert done.code == 0, done.stderr
    report = done.document
    assert figures(report) == figures(window)
    together = fleet.together(0, 1, 2)
    assert content(report) == content(together)
    assert [part["store_id"] for part in report["parts"]] == [1, 2, 3]
    assert {each["region_id"]: each["why"] for each in report["replicas"]} == {
        each["region_id"]: each["why"] for each in together["replicas"]
    }
    assert not list(fleet.folder.glob("parts*/**/*.*"))
    assert {path.name for path in fleet.folder.glob("*.sst")} == set(_files(fleet))


def _files(fleet: Fleet) -> list[str]:
    from bkctl.archive.backup_dir import BackupDir
    from bkctl.storage.url import open_storage, parse_storage

    with open_storage(parse_storage(str(fleet.storage))) as storage:
        return [file.name for file in BackupDir(storage, fleet.name).read_meta().files]


def test_two_stores_after_a_power_loss_have_all_that_was_acknowledged(tmp_path: Path) -> None:
    stores = unpack("dead3", tmp_path)
    cut(stores[0] / "db/000018.log", 998_903)
    cut(stores[1] / "db/000018.log", 125_820)
    fleet = Fleet(stores, tmp_path / "repository", **options_of(window_of("acked")))
    fleet.parts(1, 0, 1)
    done = fleet.seal()
    assert done.code == 0, done.stderr
    assert figures(done.document) == ACKED


def test_one_store_alone_is_refused_with_the_remedy(stores: list[Path], tmp_path: Path) -> None:
    fleet = Fleet(stores, tmp_path / "repository", **options_of(window_of("acked")))
    fleet.parts(2)
    done = fleet.seal()
    assert done.code == 3
    assert not (fleet.folder / "backupmeta").exists()
    assert {error["kind"] for error in done.document["errors"]} == {"not_leader"}
    assert "of its 3 voters 1 are at hand" in done.document["errors"][0]["message"]
    assert [remedy[:30] for remedy in done.document["remedies"]] == [
        "on the machine of store 2: bkc",
        "on the machine of store 3: bkc",
    ]
    # Both of what is asked for make a majority with it.
    fleet.parts(1, 0)
    again = fleet.seal()
    assert again.code == 3
    assert all("its machine" not in remedy for remedy in again.document["remedies"])
    fleet.parts(2, 0)
    assert fleet.seal().code == 0


def test_a_minority_is_marked(stores: list[Path], tmp_path: Path) -> None:
    options = options_of(window_of("acked"))
    fleet = Fleet(stores, tmp_path / "repository", allow_minority=True, **options)
    fleet.parts(2)
    done = fleet.seal()
    assert done.code == 7, done.stderr
    together = fleet.together(2)
    assert figures(done.document) == figures(together)
    assert done.document["minority"] == together["minority"]
