from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.codec.memcomparable import encode
from bkctl.regions import pd
from bkctl.regions.region import Peer, Region, RegionEpoch
from tests.commands.console import bkctl, write_map
from tests.conftest import SampleStore

PEER = Peer(1, 1)


def region(region_id: int, start: bytes, end: bytes, version: int = 1) -> Region:
    bounds = (encode(start) if start else b"", encode(end) if end else b"")
    return Region(region_id, *bounds, RegionEpoch(1, version), (PEER,), PEER)


@pytest.fixture
def sound_map(tmp_path: Path) -> Path:
    return write_map(tmp_path / "sound.json", region(3, b"m", b""), region(2, b"", b"m"))


@pytest.fixture
def bad_map(tmp_path: Path) -> Path:
    """A stale duplicate of region 2, a stale overlap 9, a key that is not encoded, a gap c to k."""
    return write_map(
        tmp_path / "bad.json",
        region(2, b"", b"c", version=5),
        region(2, b"", b"d", version=4),
        region(9, b"b", b"c", version=3),
        region(3, b"k", b"m"),
        Region(4, encode(b"m"), b"n", RegionEpoch(1, 1), (PEER,), PEER),
        Region(5, b"n", b"", RegionEpoch(1, 1), (PEER,), PEER),
    )


def test_a_sound_map_ends_with_0(sound_map: Path) -> None:
    for arguments in (["--region-map", sound_map], ["--region-map", sound_map, "--check"]):
        outcome = bkctl("regions", *arguments)
        assert outcome.code == 0
        assert outcome.stdout == "2 regions: 0 overlaps, 0 duplicates, 0 bad keys, 0 gaps\n"


def test_a_bad_map_ends_with_1_and_says_what_is_wrong(bad_map: Path) -> None:
    outcome = bkctl("regions", "--region-map", bad_map)
    assert (outcome.code, outcome.stderr) == (1, "")
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert ["duplicate", "2", "(start)", "d"] in lines
    assert ["overlap", "9", "b", "c"] in lines
    assert ["bad", "key", "4", "m", "n"] in lines
    assert ["gap", "c", "k"] in lines
    assert "overlapped by region 2" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == (
        "6 regions: 1 overlap, 1 duplicate, 2 bad keys, 1 gap"
    )


def test_json_has_problems_by_kind_with_the_maps_own_keys(bad_map: Path) -> None:
    outcome = bkctl("regions", "--region-map", bad_map, "--json")
    assert outcome.code == 1
    document = outcome.document
    assert document["regions"] == 6
    assert [entry["region_id"] for entry in document["overlaps"]] == [9]
    assert [entry["region_id"] for entry in document["duplicates"]] == [2]
    assert [entry["region_id"] for entry in document["bad_keys"]] == [4, 5]
    assert document["gaps"] == [
        {"start_key": encode(b"c").hex().upper(), "end_key": encode(b"k").hex().upper()}
    ]


def test_keys_are_checked_for_the_mode(tmp_path: Path) -> None:
    raw_map = write_map(
        tmp_path / "raw.json",
        Region(2, b"", b"m", RegionEpoch(1, 1)),
        Region(3, b"m", b"", RegionEpoch(1, 1)),
    )
    assert bkctl("regions", "--region-map", raw_map, "--raw").code == 0
    outcome = bkctl("regions", "--region-map", raw_map, "--json")
    assert outcome.code == 1
    assert len(outcome.document["bad_keys"]) == 2


def test_an_empty_map_is_one_gap(tmp_path: Path) -> None:
    outcome = bkctl("regions", "--region-map", write_map(tmp_path / "empty.json"), "--json")
    assert outcome.code == 1
    assert outcome.document["gaps"] == [{"start_key": "", "end_key": ""}]


def test_a_file_that_is_no_map_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"regions": [{"id": 0}]}')
    outcome = bkctl("regions", "--region-map", path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "region at index 0: id" in outcome.stderr


def test_nothing_to_show_is_a_usage_error() -> None:
    outcome = bkctl("regions")
    assert outcome.code == 2
    assert "--db" in outcome.stderr


def test_a_store_prints_its_own_regions_as_a_region_map(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    outcome = bkctl("regions", "--db", sample_store.path)
    assert outcome.code == 0
    printed = pd.parse(outcome.stdout, "stdout")
    listed = pd.load(sample_store.region_map)
    assert [(entry.id, entry.start_key, entry.end_key, entry.epoch) for entry in printed] == [
        (entry.id, entry.start_key, entry.end_key, entry.epoch) for entry in listed
    ]
    path = tmp_path / "printed.json"
    path.write_text(outcome.stdout)
    assert bkctl("ranges", "--db", sample_store.path, "--region-map", path).code == 0


def test_what_is_asked_for_here_decides_between_store_and_map(
    sample_store: SampleStore, bad_map: Path
) -> None:
    env = {"BKCTL_DB": str(sample_store.path), "BKCTL_REGION_MAP": str(bad_map)}
    assert pd.parse(bkctl("regions", env=env).stdout, "stdout")
    assert bkctl("regions", "--check", env=env).code == 1
    assert bkctl("regions", "--region-map", bad_map, env=env).code == 1
    checked = bkctl("regions", "--check", "--json", env={"BKCTL_DB": str(sample_store.path)})
    assert checked.document["overlaps"] == []


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    outcome = bkctl("regions", "--db", tmp_path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert str(tmp_path) in outcome.stderr
