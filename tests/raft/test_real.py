"""Raft logs of real TiKV stores that were killed, held against their kv stores and one another."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2
from bkctl.proto.strict import parse
from bkctl.raft.engine import PinnedRaftEngine
from bkctl.raft.locate import EnginePlace, find_raft_log
from bkctl.raft.log import RaftLog
from bkctl.raft.pin import pin_raft_log
from bkctl.store.database import Database
from bkctl.store.flush import flush_logs
from bkctl.store.layout import StoreLayout
from bkctl.store.view import PinnedView
from tests.oracles import require_shared
from tests.raft.plain import read_log
from tests.raft.writer import Batch, FileWriter

NAMES = ("one", "titan", "dead3", "raw-V1", "raw-V1TTL", "raw-V2")
NORMAL = eraftpb_pb2.EntryNormal

ApplyState = raft_serverpb_pb2.RaftApplyState


def unpack(name: str, target: Path) -> list[Path]:
    """The stores of one of the real clusters."""
    archive = require_shared() / "real" / name / "stores.tar.zst"
    if not archive.is_file():
        pytest.skip(f"the real store {name} is not here")
    with archive.open("rb") as packed:
        plain = zstandard.ZstdDecompressor().stream_reader(packed)
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            tar.extractall(target, filter="data")
    return sorted(path for path in target.iterdir() if path.name.startswith("tikv"))


def read_kv(store: Path, work: Path) -> dict[int, ApplyState]:
    """The regions in the raft family that were not removed, once the logs are replayed."""
    with PinnedView(StoreLayout(store / "db", store / "db", False), work) as view:
        flush_logs(view.db_dir, view.source)
        database = Database(view.db_dir, view.source)
        try:
            found: dict[int, ApplyState] = {}
            for key, value in database.scan("raft", b"\x01\x03", b"\x01\x04").take(1000):
                region = parse(raft_serverpb_pb2.RegionLocalState, value)
                if region.state != raft_serverpb_pb2.Tombstone:
                    apply = database.get("raft", b"\x01\x02" + key[2:10] + b"\x03")
                    assert apply is not None
                    state = parse(raft_serverpb_pb2.RaftApplyState, apply)
                    found[int.from_bytes(key[2:10], "big")] = state
            return found
        finally:
            database.close()


def all_entries(log: RaftLog, region_id: int) -> list[eraftpb_pb2.Entry]:
    first, last = log.first_index(region_id), log.last_index(region_id)
    assert first is not None
    assert last is not None
    return [*log.entries(region_id, first, last + 1)]


def check_region(log: RaftLog, region_id: int, applied: ApplyState) -> None:
    local = log.raft_local_state(region_id)
    assert local is not None
    entries = all_entries(log, region_id)
    first, last = entries[0].index, entries[-1].index
    assert [entry.index for entry in entries] == [*range(first, last + 1)]
    assert last == local.last_index
    commit = max(local.hard_state.commit, applied.commit_index)
    assert applied.applied_index <= commit <= last
    truncated = applied.truncated_state
    assert first <= truncated.index + 1
    assert applied.applied_index >= truncated.index
    terms = [entry.term for entry in entries]
    assert terms == sorted(terms)
    assert truncated.term <= terms[truncated.index + 1 - first]
    assert terms[-1] <= local.hard_state.term
    if first <= truncated.index:
        assert log.term_of(region_id, truncated.index) == truncated.term
    assert log.term_of(region_id, last) == terms[-1]
    for entry in entries:
        if entry.data and entry.entry_type == NORMAL:
            command = parse(raft_cmdpb_pb2.RaftCmdRequest, entry.data)
            assert command.header.region_id == region_id
            assert len(command.requests) > 0 or command.HasField("admin_request")


def logs_of(name: str, folder: Path) -> Iterator[tuple[Path, RaftLog]]:
    for store in unpack(name, folder):
        place = find_raft_log(store)
        assert place == EnginePlace((store / "raft-engine",))
        with pin_raft_log(place, folder, is_live=store.name != "tikv2") as pinned:
            yield store, pinned.read({})


@pytest.mark.parametrize("name", NAMES)
def test_a_real_raft_log_fits_its_kv_store(tmp_path: Path, name: str) -> None:
    checked = 0
    for store, log in logs_of(name, tmp_path):
        states = read_kv(store, tmp_path)
        assert log.region_ids() == sorted(states)
        for region_id, applied in states.items():
            check_region(log, region_id, applied)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", NAMES)
def test_a_real_raft_log_is_read_as_another_reader_reads_it(tmp_path: Path, name: str) -> None:
    for store, log in logs_of(name, tmp_path):
        expected = read_log(store / "raft-engine")
        assert log.region_ids() == sorted(expected)
        for region_id, region in expected.items():
            found = {e.index: e.SerializeToString() for e in all_entries(log, region_id)}
            assert found == region.entries


def test_committed_entries_are_the_same_on_all_replicas(tmp_path: Path) -> None:
    entries: dict[tuple[int, int], bytes] = {}
    compared = 0
    for _, log in logs_of("dead3", tmp_path):
        for region_id in log.region_ids():
            local = log.raft_local_state(region_id)
            assert local is not None
            for entry in all_entries(log, region_id):
                if entry.index <= local.hard_state.commit:
                    data = entry.SerializeToString()
                    compared += (region_id, entry.index) in entries
                    assert entries.setdefault((region_id, entry.index), data) == data
    assert compared > 1000


def test_of_a_real_log_only_what_is_wanted_is_kept(tmp_path: Path) -> None:
    (store,) = unpack("one", tmp_path)
    states = read_kv(store, tmp_path)
    keep = {region_id: state.applied_index for region_id, state in states.items()}
    with PinnedRaftEngine([store / "raft-engine"], copy_to=tmp_path) as pinned:
        log = pinned.read(keep)
        for region_id, applied in keep.items():
            first, last = log.first_index(region_id), log.last_index(region_id)
            assert first is not None
            assert last is not None
            assert first <= applied <= last
            assert log.term_of(region_id, applied) is not None
        assert pinned._copy is not None
        assert pinned._copy.size < 1 << 20


@pytest.mark.parametrize("name", NAMES)
def test_what_a_real_file_held_before_it_was_recycled_is_no_damage(
    tmp_path: Path, name: str
) -> None:
    recycled = tmp_path / "recycled"
    recycled.mkdir()
    for store in unpack(name, tmp_path):
        old = next((store / "raft-engine").glob("*.raftlog")).read_bytes()
        file = FileWriter(recycled, 9).add(Batch().put(7, b"R", b""))
        for shift in (0, 1, 5):
            file.write(old[len(file.content) + shift :])
            with PinnedRaftEngine([recycled]) as pinned:
                assert pinned.read({}).region_ids() == [7]
