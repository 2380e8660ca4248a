from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from bkctl.codec.memcomparable import encode
from bkctl.regions.region import Peer, Region, RegionEpoch
from tests.commands.console import bkctl, process, write_map
from tests.conftest import SampleStore
from tests.oracles import require_shared

HERE, THERE = Peer(1, 1), Peer(2, 4)
END_TS = 440000000001000000
RANGE_FIELDS = [
    "region_id",
    "epoch_version",
    "start_key",
    "end_key",
    "approximate_size",
    "approximate_keys",
]


def region(region_id: int, start: bytes, end: bytes, leader: Peer | None = HERE) -> Region:
    bounds = (encode(start) if start else b"", encode(end) if end else b"")
    return Region(region_id, *bounds, RegionEpoch(5, 7), (HERE, THERE), leader, 96, 2500)


@pytest.fixture
def region_map(tmp_path: Path) -> Path:
    """Regions led by stores 1 and 4, unordered, with a gap from f to m."""
    return write_map(
        tmp_path / "regions.json",
        region(6, b"m", b""),
        region(2, b"", b"b"),
        region(4, b"b", b"f", THERE),
    )


def test_json_has_ranges_skipped_regions_and_gaps(region_map: Path) -> None:
    outcome = bkctl("ranges", "--region-map", region_map, "--store-id", 1, "--json")
    assert outcome.code == 0
    assert outcome.document == {
        "ranges": [
            dict(zip(RANGE_FIELDS, [2, 7, "", "62", 96, 2500], strict=True)),
            dict(zip(RANGE_FIELDS, [6, 7, "6D", "", 96, 2500], strict=True)),
        ],
        "skipped": [{"region_id": 4, "reason": "leader is on store 4"}],
        "gaps": [{"start_key": "66", "end_key": "6D"}],
    }


def test_without_store_and_id_every_region_counts(region_map: Path) -> None:
    document = bkctl("ranges", "--region-map", region_map, "--json").document
    assert [entry["region_id"] for entry in document["ranges"]] == [2, 4, 6]
    assert document["skipped"] == []


def test_keys_bound_the_plan(region_map: Path) -> None:
    arguments = ["ranges", "--region-map", region_map, "--json", "--key-format", "escaped"]
    document = bkctl(*arguments, "--start-key", r"a\x00", "--end-key", "c").document
    bounds = [(entry["start_key"], entry["end_key"]) for entry in document["ranges"]]
    assert bounds == [("6100", "62"), ("62", "63")]


def test_csv_has_a_header_and_whole_keys(tmp_path: Path) -> None:
    long_key = b"k" * 300
    unknown = Region(3, encode(long_key), b"", RegionEpoch(1, 1), (HERE,), HERE)
    path = write_map(tmp_path / "regions.json", region(2, b"", long_key), unknown)
    outcome = bkctl("ranges", "--region-map", path, "--csv", env={"COLUMNS": "40"})
    rows = list(csv.reader(io.StringIO(outcome.stdout)))
    assert rows == [
        RANGE_FIELDS,
        ["2", "7", "", long_key.hex().upper(), "96", "2500"],
        ["3", "1", long_key.hex().upper(), "", "", ""],
    ]


def test_the_table_says_ranges_reasons_gaps_totals_and_window(region_map: Path) -> None:
    outcome = bkctl("ranges", "--region-map", region_map, "--store-id", 1, "--end-ts", END_TS)
    assert "total: 2 ranges, about 192.0 MiB, about 5,000 keys" in outcome.stdout
    assert "  leader is on store 4: 4" in outcome.stdout
    assert "  f to m" in outcome.stdout
    assert "window: full, as of 440000000001000000 (2023-03-10T16:46:36.878Z" in outcome.stdout


def test_an_incremental_window_is_shown_with_both_times(region_map: Path) -> None:
    arguments = ["--start-ts", "2023-03-10T00:00:00Z", "--end-ts", END_TS]
    outcome = bkctl("ranges", "--region-map", region_map, *arguments)
    assert (
        "incremental, after 439984167321600000 (2023-03-10T00:00:00.000Z) up to" in outcome.stdout
    )


def test_a_raw_plan_takes_keys_as_they_are(tmp_path: Path) -> None:
    raw_region = Region(2, b"a", b"z", RegionEpoch(1, 1), (HERE,), HERE)
    path = write_map(tmp_path / "regions.json", raw_region)
    outcome = bkctl("ranges", "--region-map", path, "--raw", "--json")
    assert outcome.document["ranges"][0]["start_key"] == "61"
    assert outcome.document["gaps"][0] == {"start_key": "", "end_key": "61"}
    shown = bkctl("ranges", "--region-map", path, "--raw", "--cf", "write").stdout
    assert "window: raw keys of column family write" in shown


def test_the_whole_key_space_is_one_range() -> None:
    document = bkctl("ranges", "--region-map", "none", "--raw", "--json").document
    (only,) = document["ranges"]
    assert (only["start_key"], only["end_key"]) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "--region-map is missing"),
        (["--region-map", "store"], "give --db"),
        (["--region-map", "nowhere.json"], "nowhere.json"),
        (["--region-map", "none", "--json", "--csv"], "--json and --csv"),
        (["--region-map", "none", "--cf", "write"], "--cf write"),
        (["--region-map", "none", "--start-ts", "9", "--end-ts", "5"], "lies after --end-ts 5"),
        (["--region-map", "none", "--start-key", "62", "--end-key", "61"], "--end-key 61"),
        (["--region-map", "none", "--start-key", "6"], "--start-key: '6'"),
        (["--region-map", "none", "--end-ts", "later"], "'--end-ts': 'later' is no timestamp"),
        (["--region-map", "none", "--store-id", "0"], "'--store-id'"),
        (["--region-map", "none", "--key-format", "base64"], "'--key-format'"),
        (["--region-map", "none", "--recovery", "hope"], "'--recovery'"),
        (["--region-map", "none", "--db", "/nonexistent/db"], "/nonexistent/db"),
    ],
)
def test_mistakes_end_with_2_and_say_what_is_wrong(arguments: list[str], what: str) -> None:
    outcome = bkctl("ranges", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert what in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_map_of_the_other_mode_is_refused(tmp_path: Path) -> None:
    path = write_map(tmp_path / "regions.json", Region(2, b"a", b"z", RegionEpoch(1, 1)))
    outcome = bkctl("ranges", "--region-map", path)
    assert outcome.code == 2
    assert "--raw" in outcome.stderr


def test_a_store_says_who_it_is(sample_store: SampleStore) -> None:
    arguments = ["--db", sample_store.path, "--region-map", sample_store.region_map, "--json"]
    document = bkctl("ranges", *arguments).document
    regions = json.loads(sample_store.region_map.read_text())["regions"]
    led = [entry["id"] for entry in regions if entry["leader"]["store_id"] == 1]
    assert [entry["region_id"] for entry in document["ranges"]] == led
    overruled = bkctl("ranges", *arguments, "--store-id", 77).document
    assert overruled["ranges"] == []


def test_a_store_knows_its_own_regions(sample_store: SampleStore) -> None:
    document = bkctl(
        "ranges", "--db", sample_store.path, "--region-map", "store", "--json"
    ).document
    assert document["ranges"]
    assert document["ranges"][0]["start_key"] == ""


def test_a_family_that_the_store_lacks_is_refused(sample_store: SampleStore) -> None:
    arguments = ["--db", sample_store.path, "--region-map", "none", "--raw", "--cf", "absent"]
    outcome = bkctl("ranges", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "absent" in outcome.stderr


def test_the_store_is_not_touched(sample_store: SampleStore) -> None:
    def listing() -> list[tuple[str, int, int]]:
        return sorted(
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sample_store.path.rglob("*")
        )

    before = listing()
    assert bkctl("ranges", "--db", sample_store.path, "--region-map", "store").code == 0
    assert listing() == before


def test_a_shared_store_is_planned_by_a_process_of_its_own() -> None:
    store = require_shared() / "stores" / "mvcc-short"
    done = process("ranges", "--db", store, "--region-map", f"{store}.regions.json", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert [entry["region_id"] for entry in document["ranges"]] == list(range(2, 31, 4))
    assert document["ranges"][0]["end_key"] == "7480000000000000655F7280000000000001F4"
    assert document["gaps"] == []


@pytest.mark.parametrize("name", [".bkctl-view-abcdefgh", "bkctl-view-abcdefgh"])
def test_links_in_the_temporary_directory_lead_nowhere(
    name: str, sample_store: SampleStore, tmp_path: Path
) -> None:
    victim, temporary = tmp_path / "victim", tmp_path / "temporary"
    for path in (victim / "deep", temporary):
        path.mkdir(parents=True)
    for path in (victim / "owner", victim / "deep" / "file"):
        path.write_bytes(b"precious")
    (temporary / name).symlink_to(victim)
    os.utime(temporary / name, (0, 0), follow_symlinks=False)
    done = process(
        *("ranges", "--db", sample_store.path, "--region-map", sample_store.region_map),
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in victim.rglob("*")) == ["deep", "file", "owner"]
    assert os.listdir(temporary) == [name]
