"""Backups of a store whose regions have changed since PD's map of them was made."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from bkctl.backup import replan
from bkctl.backup.execute import parts_of
from bkctl.regions import pd
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Peer, Region, RegionEpoch
from tests.cluster.commands import Split
from tests.cluster.stores import write_rocksdb
from tests.cluster.test_election import BEHIND, VOTERS, left_of, region_of
from tests.cluster.writes import KEYS
from tests.commands.console import Outcome, bkctl
from tests.regions.fake_pd import FakePd, answering, fake_pd

PEERS = tuple(Peer(number, number) for number in (1, 2, 3))
CUT = KEYS[12]
WHOLE = Region(2, b"", b"", RegionEpoch(1, 1), PEERS, PEERS[0])
LEFT = Region(2, b"", CUT, RegionEpoch(1, 2), PEERS, PEERS[0])
NEW_PEERS = tuple(Peer(10 + number, number) for number in (1, 2, 3))
RIGHT = Region(9, CUT, b"", RegionEpoch(1, 2), NEW_PEERS, NEW_PEERS[0])
MOVED = replace(RIGHT, leader=NEW_PEERS[1])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replan, "_PAUSE_SECONDS", 0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Store 1, whose region 2 has split by its raft log."""
    split = Split(CUT, 9, (11, 12, 13), False)
    entries = [(6, None), (6, BEHIND), (6, split)]
    return write_rocksdb(left_of(tmp_path, 1, region_of(*VOTERS), entries, commit=8))


@contextmanager
def serving(maps: Sequence[list[Region]]) -> Iterator[FakePd]:
    """A PD that serves one map after the other, and the last one from then on."""
    found: list[FakePd] = []

    def answer(connection: socket.socket, ended: threading.Event) -> None:
        asked = [path for path in found[0].paths if "/regions/key" in path]
        if "/regions/key" in found[0].paths[-1]:
            content = pd.dump(maps[min(len(asked), len(maps)) - 1])
        else:
            content = '{"gc_safe_point": 1}'
        answering(content.encode())(connection, ended)

    with fake_pd(answer) as server:
        found.append(server)
        yield server


def back_up(store: Path, repository: Path, *given: object) -> Outcome:
    return bkctl(
        *("backup", "--db", store, "--storage", repository, "--name", "b", "--json"),
        *("--end-ts", 1 << 60, "--progress", "none", *given),
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_split_is_read_whenever_pd_tells_of_it(store: Path, tmp_path: Path, count: int) -> None:
    with serving([[WHOLE]] * count + [[LEFT, RIGHT]]) as server:
        done = back_up(store, tmp_path / "repo", "--region-map", "pd", "--pd", server.address)
    assert done.code == 0, done.stderr
    report = done.document
    assert (report["status"], report["ranges"]["total"], report["uncovered"]) == ("ok", 2, [])
    assert {each["region_id"]: each["replica"] for each in report["replicas"]} == {
        2: "unknown",
        9: "unknown",
    }
    notes = "\n".join(report.get("notes", []))
    times = ["", "once", "2 times", "3 times", "3 times"][count]
    assert (f"planned again {times}, as" in notes) is bool(count)
    assert ("own records have them" in notes) is (count == 4)


def test_what_moved_away_is_left_out_and_then_not_covered(store: Path, tmp_path: Path) -> None:
    with serving([[WHOLE], [WHOLE], [LEFT, MOVED]]) as server:
        given = ("--region-map", "pd", "--pd", server.address)
        done = back_up(store, tmp_path / "repo", *given)
        assert done.code == 3
        assert [e["kind"] for e in done.document["errors"]] == ["not_leader"]
        assert not (tmp_path / "repo" / "b" / "backupmeta").exists()
    with serving([[WHOLE], [WHOLE], [LEFT, MOVED]]) as server:
        given = ("--region-map", "pd", "--pd", server.address)
        done = back_up(store, tmp_path / "repo", *given, "--allow-gaps")
    assert (done.code, len(done.document["uncovered"])) == (0, 1)


def test_a_static_map_of_a_region_that_split_is_enough(store: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(pd.dump([WHOLE]))
    done = back_up(store, tmp_path / "repo", "--region-map", tmp_path / "map.json")
    assert (done.code, done.document["ranges"]["total"]) == (0, 2), done.stderr
    shown = bkctl("ranges", "--db", store, "--region-map", tmp_path / "map.json", "--json")
    assert [each["region_id"] for each in shown.document["ranges"]] == [2, 9]
    assert "own records have them" in shown.stderr
    ignoring = ("--raft-log", "ignore", "--name", "c")
    done = back_up(store, tmp_path / "repo", "--region-map", tmp_path / "map.json", *ignoring)
    # Its records are those of before the split.
    assert (done.code, done.document["ranges"]["total"]) == (0, 1)


def test_a_map_ahead_of_the_store_fails_after_three_tries(tmp_path: Path) -> None:
    behind = write_rocksdb(left_of(tmp_path, 1, region_of(*VOTERS), [(6, None)], commit=6))
    with serving([[LEFT, RIGHT]]) as server:
        done = back_up(behind, tmp_path / "repo", "--region-map", "pd", "--pd", server.address)
    assert done.code == 3
    assert [e["kind"] for e in done.document["errors"]] == ["epoch_not_match", "region_not_found"]
    assert "planned again 3 times" in done.document["notes"][0]
    assert sum("/regions/key" in path for path in server.paths) == 4


def test_a_map_in_a_pipe_is_read_once(store: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, pd.dump([WHOLE]).encode())
    os.close(writer)
    try:
        done = back_up(store, tmp_path / "repo", "--region-map", f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    assert (done.code, done.document["ranges"]["total"]) == (0, 2), done.stderr


def test_pd_is_to_be_named(store: Path, tmp_path: Path) -> None:
    done = back_up(store, tmp_path / "repo", "--region-map", "pd")
    assert done.code == 2
    assert "--region-map pd asks PD for the regions; give --pd URL" in done.stderr


def test_a_range_is_tried_again_as_it_is_read_now() -> None:
    whole = BackupRange(WHOLE, KEYS[3], b"", False, takes_all=True)
    now = [BackupRange(LEFT, b"", CUT, False), BackupRange(RIGHT, CUT, b"", False)]
    parts = parts_of(whole, now)
    assert [(each.region.id, each.start_key, each.end_key) for each in parts] == [
        (2, KEYS[3], CUT),
        (9, CUT, b""),
    ]
    assert all(each.takes_all for each in parts)
    assert parts_of(whole, now[:1]) == []
    assert parts_of(whole, now[1:]) == []
    assert parts_of(whole, []) == []
    inner = replace(whole, start_key=KEYS[3], end_key=KEYS[5])
    assert [each.end_key for each in parts_of(inner, now)] == [KEYS[5]]
    behind = replace(whole, start_key=KEYS[13], end_key=KEYS[14])
    assert [each.region.id for each in parts_of(behind, now)] == [9]
