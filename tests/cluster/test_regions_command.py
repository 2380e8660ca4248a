"""`bkctl regions` with several stores: the cluster's regions, and every replica of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bkctl.codec.memcomparable import decode
from tests.cluster.commands import Peer, Split
from tests.cluster.stores import Left, elect, write_rocksdb
from tests.cluster.test_election import BEHIND, VOTERS, left_of, promote, region_of
from tests.cluster.test_simulated import play
from tests.cluster.writes import KEYS
from tests.commands.console import Outcome, bkctl
from tests.real.stores import unpack


def regions(lefts: list[Left] | list[Path], *given: object) -> Outcome:
    paths = [write_rocksdb(each) if isinstance(each, Left) else each for each in lefts]
    return bkctl("regions", *(word for path in paths for word in ("--db", path)), *given)


def two_of_five(folder: Path) -> list[Left]:
    """Stores 1 and 3 of a region that three others, of which one is here, had voted on last."""
    region = region_of(*VOTERS, Peer(4, 4, "learner"))
    return [
        left_of(folder, 1, region, [(6, None), (6, promote(Peer(4, 4)))]),
        left_of(folder, 3, region, [(6, None), (6, promote(Peer(4, 4))), (6, BEHIND)]),
    ]


@pytest.mark.parametrize("seed", [6, 13, 20, 27])
def test_the_clusters_regions_are_told_once_and_as_they_are_chosen(
    tmp_path: Path, seed: int
) -> None:
    played = play(seed, tmp_path)
    choices, chosen, _ = elect(played.lefts)
    document: dict[str, list[dict[str, Any]]] = regions(played.lefts, "--json").document
    ids = [left.store.id for left in played.lefts]
    assert [
        (e["region_id"], e["conf_ver"], e["version"], e["start_key"], e["end_key"], e["store_id"])
        for e in document["regions"]
    ] == [
        (
            *(region.id, region.epoch.conf_ver, region.epoch.version),
            *(region.start_key.hex().upper(), region.end_key.hex().upper()),
            ids[chosen.numbers[region.id]] if region.id in chosen.numbers else None,
        )
        for region in chosen.region_map.regions
    ]
    for entry in document["regions"]:
        choice = choices[entry["region_id"]]
        assert entry["majority"] is choice.has_majority
        assert (entry["lacking"] or "") == choice.lacking
        assert entry["why"] == (choice.why if entry["store_id"] else None)
    assert {each["region_id"]: (each["kind"], each["message"]) for each in document["refused"]} == {
        region_id: (why.kind, why.message) for region_id, why in chosen.refused.items()
    }
    left_out = {each.region_id for each in (*chosen.skipped, *chosen.region_map.skipped)}
    assert {each["region_id"] for each in document["skipped"]} == left_out


def test_what_has_no_majority_is_told_and_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    paths = [write_rocksdb(each) for each in two_of_five(tmp_path)]
    found = regions(paths)
    assert found.code == 0
    assert "total: 1 region, 1 refused, 1 without a majority of voters at hand" in found.stdout
    assert "not_leader: of its 4 voters 2 are at hand, fewer than a majority" in found.stdout
    document = regions(paths, "--json", "--allow-minority").document
    (entry,) = document["regions"]
    assert (entry["store_id"], entry["majority"], document["refused"]) == (3, False, [])
    assert "missing: store 2, 4" in entry["lacking"]
    shown = regions(paths, "--allow-minority").stdout
    assert "0 refused, 1 without a majority" in shown
    assert "missing: store 2, 4" in shown


def test_keys_that_nobody_has_are_gaps(tmp_path: Path) -> None:
    split = Split(KEYS[12], 9, (11, 12, 13), False)
    region = region_of(*VOTERS)
    lefts = [
        left_of(tmp_path, number, region, [(6, None), (6, split)], commit=7) for number in (1, 2)
    ]
    # Both have the split committed, but of what it made neither has more than the log says.
    paths = [write_rocksdb(each) for each in lefts]
    assert regions(paths, "--json").document["gaps"] == []
    one = [regions(paths[:1], "--raft", "--json").document["regions"]]
    assert {each["region_id"] for each in one[0]} == {2, 9}
    document = regions(paths, "--raft", "--json").document["regions"]
    assert [(each["region_id"], each["store_id"], each["chosen"]) for each in document] == [
        *((2, 1, True), (2, 2, False)),
        *((9, 1, True), (9, 2, False)),
    ]


def test_a_skipped_region_is_no_gap_and_a_gap_is_told(tmp_path: Path) -> None:
    half = region_of(*VOTERS)
    half = type(half)(2, b"", KEYS[12], 1, 1, half.peers)
    lefts = [left_of(tmp_path, number, half, [(6, None)], state="applying") for number in (1, 2, 3)]
    paths = [write_rocksdb(each) for each in lefts]
    document = regions(paths, "--json").document
    assert [each["region_id"] for each in document["skipped"]] == [2]
    assert document["regions"] == []
    assert document["gaps"] == [{"start_key": KEYS[12].hex().upper(), "end_key": ""}]
    shown = regions(paths).stdout
    assert "waits for its data (a snapshot is under way): 2" in shown
    assert "gaps: 1 range of keys that no region covers" in shown
    assert decode(KEYS[12]).decode("ascii", "backslashreplace") in shown
    checked = regions(paths, "--check", "--json")
    assert checked.code == 1


def test_options_of_one_store_are_refused_with_several(tmp_path: Path) -> None:
    paths = [write_rocksdb(each) for each in two_of_five(tmp_path)]
    for option in ("--store-id", "--raft-dir", "--wal-dir"):
        done = regions(paths, option, "1")
        assert (done.code, done.stdout) == (2, "")
        assert f"{option} is one store's" in done.stderr
    assert regions([paths[0], paths[0]]).code == 2


def test_a_pattern_stands_for_all_stores_of_a_real_cluster(tmp_path: Path) -> None:
    first = unpack("dead3", tmp_path)[0]
    document = bkctl("regions", "--db", f"{first.parent}/tikv*", "--json").document
    assert [each["region_id"] for each in document["regions"]] == [28, 32, 24, 10, 12, 4]
    assert all(each["majority"] for each in document["regions"])
    assert (document["refused"], document["skipped"], document["gaps"]) == ([], [], [])
    shown = bkctl("regions", "--db", f"{first.parent}/tikv*", "--raft").stdout.splitlines()
    assert shown[0].split()[:3] == ["region", "store", "read"]
    rows = [line.split() for line in shown[1:-1]]
    assert len([row for row in rows if row[2] == "chosen"]) == 6
    assert {(row[0], row[1]) for row in rows} >= {("10", "1"), ("10", "2"), ("32", "2")}
    alone = bkctl("regions", "--db", f"{first.parent}/tikv3", "--db", first, "--json").document
    assert {each["store_id"] for each in alone["regions"]} <= {1, 2, 3}
