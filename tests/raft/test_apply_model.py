"""A raft log is applied as a model of TiKV's own rules applies it, in random histories.

`BKCTL_APPLY_ROUNDS` is how many there are.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from rocksdict import Rdict

from bkctl.proto import raft_serverpb_pb2
from bkctl.raft.applying import Applying, ApplyLog, Finish, PinLog, ReadLog
from bkctl.raft.locate import find_raft_log
from bkctl.raft.source import RaftSource
from bkctl.raft.standing import Standing
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.source import SourceOptions
from tests.raft.apply_cluster import Cluster
from tests.raft.apply_local import STATES, Local, open_kv
from tests.raft.apply_model import FAMILIES, OWN, Region, Store

ROUNDS = int(os.environ.get("BKCTL_APPLY_ROUNDS", "40"))
MODES = ("committed", "committed", "all")


def make(seed: int, mode: str, folder: Path) -> Local:
    rng = random.Random(seed)
    cluster = Cluster(rng, is_stale=rng.random() < 0.4)
    cluster.run(rng.choice((10, 60, 200)))
    local = Local(cluster, mode)
    folder.mkdir()
    local.write(folder)
    return local


def check(found: dict[str, dict[bytes, bytes]], expected: Store) -> None:
    """All records of all families, and the regions."""
    for family in FAMILIES:
        pairs = {key[1:]: value for key, value in found[family].items() if key[:1] == b"z"}
        assert pairs == expected.kv[family], family
    regions = {}
    for key, value in found["raft"].items():
        if key[:2] == b"\x01\x03":
            region_id = int.from_bytes(key[2:10], "big")
            regions[region_id] = raft_serverpb_pb2.RegionLocalState.FromString(value)
    assert regions.keys() == expected.regions.keys()
    for region_id, state in regions.items():
        check_region(state, found["raft"], expected.regions[region_id])


def check_region(
    state: raft_serverpb_pb2.RegionLocalState, raft: dict[bytes, bytes], region: Region
) -> None:
    assert state.state == STATES[region.state], region
    assert state.region == region.message(), region
    if region.state == "Merging":
        assert (state.merge_state.min_index, state.merge_state.commit) == region.merge
    record = raft.get(b"\x01\x02" + region.id.to_bytes(8, "big") + b"\x03", b"")
    applied = raft_serverpb_pb2.RaftApplyState.FromString(record)
    # A merge's source may have gone on behind what the merge wanted of it, or not.
    if region.state != "Tombstone":
        assert (applied.applied_index or 5) == region.applied, region
    if record:
        truncated = applied.truncated_state
        assert (truncated.index, truncated.term) == region.truncated, region


def check_standings(found: list[Standing], expected: Store, local: Local) -> None:
    """Each region once, as it is; complete only where nobody else can know more."""
    standings = {standing.region_id: standing for standing in found}
    assert standings.keys() == expected.regions.keys()
    assert len(standings) == len(found)
    for region in expected.regions.values():
        standing = standings[region.id]
        assert standing.trouble == ""
        assert standing.state == region.state.lower()
        if region.state != "Tombstone":
            assert standing.applied_to == region.applied
        assert (standing.start_key, standing.end_key) == (region.start, region.end)
        if standing.completeness.value == "complete" and not standing.is_gone:
            assert region.is_alone
            assert region.applied >= local.parts[region.id].last


def read(path: Path) -> dict[str, dict[bytes, bytes]]:
    db, families = open_kv(path)
    found = {name: _pairs(family) for name, family in families.items()}
    families.clear()
    db.close()
    return found


def apply_log(applying: Applying, store: Path, mode: RaftLogMode) -> list[Standing]:
    """Apply the pinned log to its end; what is told of the regions."""
    reading = ReadLog(store / "db", store / "db", store / "import", tells=False)
    assert not [*applying(reading)]
    told = [each for batch in applying(ApplyLog(mode)) for each in batch]
    assert not [*applying(Finish())]
    return told


def _pairs(family: Rdict) -> dict[bytes, bytes]:
    found = {}
    for key, value in family.items():
        assert isinstance(key, bytes)
        found[key] = value
    return found


def test_logs_are_applied_as_a_model_applies_them(tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        mode = MODES[seed % 3]
        folder = tmp_path / str(seed)
        local = make(seed, mode, folder)
        place = find_raft_log(folder)
        assert place is not None
        applying = Applying()
        assert [*applying(PinLog(place, folder, seed % 5 == 0, False))] == []
        told = apply_log(applying, folder, RaftLogMode(mode))
        expected = local.expected(mode)
        try:
            check(read(folder / "db"), expected)
            check_standings([*{s.region_id: s for s in told}.values()], expected, local)
        except AssertionError as e:
            raise AssertionError(f"round {seed}, {mode}: {e}") from e


@pytest.mark.parametrize("mode", ["committed", "all", "ignore"])
def test_a_source_shows_what_the_model_has(tmp_path: Path, mode: str) -> None:
    for seed in range(1, 2 + ROUNDS // 30):
        folder = tmp_path / f"{seed}"
        local = make(-seed, mode, folder)
        before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
        options = SourceOptions(folder / "db", raft_log=RaftLogMode(mode))
        expected = local.expected(mode)
        with RaftSource(options) as source:
            found = _view(source)
            check(found, expected)
            if mode != "ignore":
                check_standings([*source.standings], expected, local)
            assert source.ident.store_id == OWN
        assert before == {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def _view(source: RaftSource) -> dict[str, dict[bytes, bytes]]:
    from bkctl.store.database import Database

    database = Database(source.db_dir, source.path)
    try:
        return {
            name: dict(database.scan(name, b"", b"\xff").take(1 << 20))
            for name in ("raft", *FAMILIES)
        }
    finally:
        database.close()
