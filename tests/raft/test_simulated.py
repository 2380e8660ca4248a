"""Random histories of a raft-engine, read by two readers and held against what it had in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.proto import raft_serverpb_pb2
from bkctl.raft.engine import PinnedRaftEngine, RaftEngineLog
from bkctl.raft.log_file import FileId, LogFile, PlainFile, Queue, parse_name
from bkctl.raft.replay import Replay
from bkctl.raft.table import RegionTable, place_of
from bkctl.raft.walk import Walk
from tests.raft.plain import Region, State, files, read_log
from tests.raft.simulator import KEYS, Simulator

ROUNDS = 10


def simulate(folder: Path, seed: int) -> Simulator:
    folder.mkdir()
    simulator = Simulator(folder, seed)
    simulator.run(simulator.rng.randint(1, 120))
    simulator.save()
    return simulator


def held(log: RaftEngineLog, region_id: int) -> dict[int, bytes]:
    """All entries of a region."""
    first, last = log.first_index(region_id), log.last_index(region_id)
    if first is None or last is None:
        return {}
    entries = log.entries(region_id, first, last + 1)
    return {entry.index: entry.SerializeToString() for entry in entries}


def tables_of(folder: Path) -> dict[int, RegionTable]:
    """What is added up of a folder's files, values included."""
    replay = Replay({})
    found = [*files(folder, "rewrite"), *files(folder, "raftlog")]
    newest = {files(folder, suffix)[-1] for suffix in ("rewrite", "raftlog")}
    for slot, path in enumerate(found):
        file_id = parse_name(path.name)
        assert isinstance(file_id, FileId)
        file = LogFile(file_id, path, PlainFile(path), path.stat().st_size)
        take = replay.append if file_id.queue is Queue.APPEND else replay.rewrite
        for offset, items in Walk(file, is_newest=path in newest):
            take(items, place_of(slot, offset))
        file.reader.close()
    return replay.finish()


def counting(region: Region) -> dict[int, bytes]:
    """The entries that are not behind the state's last index."""
    state = raft_serverpb_pb2.RaftLocalState()
    state.ParseFromString(region.values.get(b"R", b""))
    return {
        index: data
        for index, data in region.entries.items()
        if b"R" not in region.values or index <= state.last_index
    }


@pytest.mark.parametrize("seed", range(0, 300, ROUNDS))
def test_random_histories_are_read_as_another_reader_reads_them(tmp_path: Path, seed: int) -> None:
    for number in range(seed, seed + ROUNDS):
        folder = tmp_path / str(number)
        simulator = simulate(folder, number)
        expected = read_log(folder)
        with PinnedRaftEngine([folder], copy_to=tmp_path if number % 3 == 0 else None) as pinned:
            log = pinned.read({})
            assert log.region_ids() == sorted(expected)
            for region_id, region in expected.items():
                assert held(log, region_id) == counting(region)
        tables = tables_of(folder)
        for region_id, region in expected.items():
            table = tables[region_id]
            assert {*range(table.first, table.end)} == region.entries.keys()
            for key in KEYS:
                assert table.get(key) == region.values.get(key)
        check_memory(simulator, expected)


def check_memory(simulator: Simulator, expected: State) -> None:
    """Nothing is lost of what the engine had; compactions alone may be forgotten."""
    for region_id, region in simulator.regions.items():
        found = expected.get(region_id, Region())
        assert found.values == {key: kept.data for key, kept in region.values.items()}
        if region.entries:
            above = {i: e for i, e in found.entries.items() if i >= min(region.entries)}
            assert above == {index: kept.data for index, kept in region.entries.items()}
    assert expected.keys() - simulator.regions.keys() <= {*simulator.removed}


@pytest.mark.parametrize("seed", range(1000, 1200, ROUNDS))
def test_compacted_entries_are_read_where_they_are_to_be_kept(tmp_path: Path, seed: int) -> None:
    kept_more = 0
    for number in range(seed, seed + ROUNDS):
        folder = tmp_path / str(number)
        simulator = simulate(folder, number)
        expected = read_log(folder)
        keep = {
            region_id: max(1, min(region.entries, default=1) + simulator.rng.randint(-9, 3))
            for region_id, region in simulator.regions.items()
        }
        with PinnedRaftEngine([folder], copy_to=tmp_path if number % 3 == 0 else None) as pinned:
            log = pinned.read(keep)
            for region_id, region in simulator.regions.items():
                found = held(log, region_id)
                entries = {index: kept.data for index, kept in region.entries.items()}
                wanted = {i: e for i, e in entries.items() if i >= keep[region_id]}
                assert wanted.items() <= found.items()
                more = {i: e for i, e in found.items() if i not in entries}
                if entries:
                    assert log.last_index(region_id) == max(entries)
                    # What the log does not know to be compacted may be older: nobody asks for it.
                    known = simulator.compacted.get(region_id, {}).items()
                    kept = {i: e for i, e in more.items() if i >= keep[region_id]}
                    assert kept.items() <= known | expected[region_id].entries.items()
                kept_more += bool(more)
    assert kept_more
