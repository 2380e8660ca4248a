"""A raft-engine's log: what it answers, and that the store may go on while it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, StorageError
from bkctl.proto import eraftpb_pb2
from bkctl.raft import blocks
from bkctl.raft.engine import PinnedRaftEngine, RaftEngineLog
from bkctl.raft.log import StoreKey
from bkctl.raft.log_file import PlainFile
from tests.raft.logs import add, indexes, make_log, state
from tests.raft.writer import BEGIN, END, GROUP_KEY, MIDDLE, Batch, FileWriter, entry


@pytest.mark.parametrize("copied", [False, True])
def test_a_log_answers(tmp_path: Path, copied: bool) -> None:
    make_log(tmp_path)
    FileWriter(tmp_path, 5).add(Batch().put(0, b"\x01", b"ident").put(9, b"R", state(5))).write()
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path if copied else None) as pinned:
        log = pinned.read({})
        assert (log.path, log.notes) == (tmp_path, ())
        assert log.region_ids() == [1, 2, 3, 9]
        for region_id in (1, 2, 3):
            assert (log.first_index(region_id), log.last_index(region_id)) == (10, 49)
            assert indexes(log, region_id, 10, 50) == [*range(10, 50)]
            for low in range(10, 50, 3):
                for high in range(low, 51, 7):
                    assert indexes(log, region_id, low, high) == [*range(low, high)]
            local = log.raft_local_state(region_id)
            assert local is not None
            assert local.SerializeToString() == state(49)
        assert [log.term_of(1, index) for index in (9, 10, 49, 50)] == [None, 5, 5, None]
        assert log.store_value(StoreKey.IDENT) == b"ident"
        assert log.store_value(StoreKey.RECOVER_STATE) is None


def test_regions_without_entries_or_records(tmp_path: Path) -> None:
    make_log(tmp_path)
    FileWriter(tmp_path, 5).add(Batch().put(9, b"R", state(5)).compact(3, 50)).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        for region_id in (3, 9, 77):
            assert log.first_index(region_id) is None
            assert log.last_index(region_id) is None
            assert log.term_of(region_id, 20) is None
            assert [*log.entries(region_id, 20, 20)] == []
            with pytest.raises(
                CorruptionError, match=rf"region {region_id}: entries 20 to 21 .*no"
            ):
                log.entries(region_id, 20, 22)
        assert log.raft_local_state(77) is None


@pytest.mark.parametrize(("low", "high"), [(9, 12), (45, 51), (60, 61)])
def test_entries_that_are_not_held_are_told_at_once(tmp_path: Path, low: int, high: int) -> None:
    make_log(tmp_path)
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        with pytest.raises(CorruptionError, match=rf"region 2: entries {low} to .* 10 to 49"):
            log.entries(2, low, high)


def test_entries_behind_the_last_index_do_not_count(tmp_path: Path) -> None:
    make_log(tmp_path)
    FileWriter(tmp_path, 5).add(Batch().put(1, b"R", state(47)).put(2, b"R", state(9))).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        assert [log.last_index(region_id) for region_id in (1, 2, 3)] == [47, None, 49]
        assert log.term_of(1, 48) is None
        with pytest.raises(CorruptionError, match="10 to 47"):
            log.entries(1, 40, 49)


def test_the_last_of_several_items_in_one_batch_counts(tmp_path: Path) -> None:
    batch = Batch()
    batch.entries(1, 10, [entry(i, 4, b"old") for i in range(10, 15)])
    add(batch, 1, 12, 2)
    add(batch, 1, 14, 1)
    FileWriter(tmp_path, 1).add(batch).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        assert [log.term_of(1, index) for index in range(10, 15)] == [4, 4, 5, 5, 5]
        assert indexes(log, 1, 12, 15) == [12, 13, 14]


def test_a_hole_in_the_append_queue_names_its_place(tmp_path: Path) -> None:
    file = FileWriter(tmp_path, 1)
    add_at = [add(Batch(), 8, first, 2) for first in (10, 13)]
    path = file.add(add_at[0]).add(add_at[1]).write()
    with (
        PinnedRaftEngine([tmp_path]) as pinned,
        pytest.raises(
            CorruptionError,
            match=rf"{path.name}: .* {file.places[1]}: entries of region 8 go on at 13, .* 11",
        ),
    ):
        pinned.read({})


def rewritten(folder: Path, marks: list[bytes]) -> RaftEngineLog:
    """Entry 10 at term 4, and a rewrite of several batches that has it and others at term 5."""
    FileWriter(folder, 1).write()
    file = FileWriter(folder, 1, "rewrite")
    file.add(Batch().entries(1, 10, [entry(10, 4)]))
    for step, mark in enumerate(marks):
        file.add(add(Batch(), 1, 10 + step, 1).put(77, GROUP_KEY, mark))
    file.write()
    with PinnedRaftEngine([folder]) as pinned:
        log = pinned.read({})
        assert log.term_of(1, 10) in (4, 5)
        assert 77 not in log.region_ids()
        return log


@pytest.mark.parametrize(
    ("marks", "last"),
    [
        ([BEGIN, END], 11),
        ([BEGIN, MIDDLE, MIDDLE, END], 13),
        ([BEGIN], 10),
        ([BEGIN, MIDDLE, MIDDLE], 10),
        ([MIDDLE, END], 10),
        ([END], 10),
    ],
)
def test_a_rewrite_of_several_batches_counts_as_a_whole(
    tmp_path: Path, marks: list[bytes], last: int
) -> None:
    log = rewritten(tmp_path, marks)
    assert log.last_index(1) == last


def test_a_rewrite_begun_again_counts_from_there(tmp_path: Path) -> None:
    FileWriter(tmp_path, 1).write()
    file = FileWriter(tmp_path, 1, "rewrite")
    for first, mark in ((10, BEGIN), (20, BEGIN), (21, END)):
        file.add(add(Batch(), 1, first, 1).put(77, GROUP_KEY, mark))
    file.write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        assert (log.first_index(1), log.last_index(1)) == (20, 21)


def test_an_unknown_mark_of_a_group_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match=r"0001\.rewrite: .*atomic group's mark says 7"):
        rewritten(tmp_path, [b"\x07"])


def test_an_entry_that_is_another_is_told(tmp_path: Path) -> None:
    file = FileWriter(tmp_path, 1).add(Batch().entries(6, 10, [entry(11, 5), b"\xff\xff"]))
    path = file.write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        with pytest.raises(
            CorruptionError, match=rf"{path.name}: .* offset 69: entry 10 of region"
        ):
            log.term_of(6, 10)
        with pytest.raises(CorruptionError, match="entry 11 of region 6 is damaged"):
            log.term_of(6, 11)


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    FileWriter(tmp_path, 1).add(Batch().put(6, b"R", b"\xff")).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        with pytest.raises(CorruptionError, match="region 6: its raft state is damaged"):
            log.raft_local_state(6)


def test_few_blocks_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_CACHE_BYTES", 3000)
    make_log(tmp_path)
    reads: list[int] = []

    class Counting(PlainFile):
        def read_at(self, offset: int, size: int) -> bytes:
            reads.append(size)
            return super().read_at(offset, size)

    with PinnedRaftEngine([tmp_path], open_file=Counting) as pinned:
        log = pinned.read({})
        reads.clear()
        for region_id in (1, 2, 3):
            assert indexes(log, region_id, 10, 15) == [*range(10, 15)]
        assert len(reads) == 2
        for region_id in (1, 2, 3):
            assert indexes(log, region_id, 10, 50) == [*range(10, 50)]
        assert len(reads) > 30
        assert log._blocks._cached < 6000


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_is_left_open_or_behind(tmp_path: Path, copied: bool) -> None:
    make_log(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    names = sorted(os.listdir(tmp_path))
    pinned = PinnedRaftEngine([tmp_path], copy_to=tmp_path if copied else None)
    log = pinned.read({})
    assert indexes(log, 1, 10, 12) == [10, 11]
    assert sorted(os.listdir(tmp_path)) == names
    pinned.close()
    pinned.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_room_for_the_copy_is_told(tmp_path: Path) -> None:
    make_log(tmp_path)
    with (
        PinnedRaftEngine([tmp_path], copy_to=tmp_path / "none") as pinned,
        pytest.raises(StorageError, match="--work-dir"),
    ):
        pinned.read({})


def test_files_left_out_are_noted(tmp_path: Path) -> None:
    make_log(tmp_path)
    (tmp_path / "0000000000000002.raftlog").unlink()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        assert [note.partition(": ")[0] for note in log.notes] == [
            str(tmp_path / "0000000000000001.raftlog")
        ]
        assert log.first_index(1) == 30


def test_a_compacted_entry_is_there_for_a_running_kv_store_pinned_before(tmp_path: Path) -> None:
    make_log(tmp_path)
    FileWriter(tmp_path, 5).add(Batch().compact(1, 45).compact(2, 45)).write()
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path) as pinned:
        log = pinned.read({1: 30, 3: 30})
        assert [log.first_index(region_id) for region_id in (1, 2, 3)] == [30, 45, 30]
        assert indexes(log, 1, 30, 50) == [*range(30, 50)]


def test_a_compacted_entry_of_a_store_that_is_down_is_lost_as_to_tikv(tmp_path: Path) -> None:
    make_log(tmp_path)
    FileWriter(tmp_path, 5).add(Batch().compact(1, 45).compact(2, 45)).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({1: 30, 3: 30})
        assert [log.first_index(region_id) for region_id in (1, 2, 3)] == [45, 45, 30]


def test_entries_may_be_of_all_kinds(tmp_path: Path) -> None:
    made = eraftpb_pb2.Entry(index=7, term=3, entry_type=eraftpb_pb2.EntryConfChangeV2)
    made.data, made.context = b"data", b"context"
    FileWriter(tmp_path, 1).add(Batch().entries(1, 7, [made.SerializeToString()])).write()
    with PinnedRaftEngine([tmp_path]) as pinned:
        assert [*pinned.read({}).entries(1, 7, 8)] == [made]
