"""Small logs whose entries tell where they belong."""

from __future__ import annotations

from pathlib import Path

from bkctl.proto import raft_serverpb_pb2
from bkctl.raft.log import RaftLog
from tests.raft.writer import Batch, FileWriter, entry


def state(last_index: int) -> bytes:
    made = raft_serverpb_pb2.RaftLocalState(last_index=last_index)
    made.hard_state.term, made.hard_state.vote, made.hard_state.commit = 5, 2, last_index - 1
    return made.SerializeToString()


def data(region_id: int, index: int) -> bytes:
    return b"%d/%d " % (region_id, index) * 20


def add(
    batch: Batch, region_id: int, first: int, count: int, term: int = 5, *, last: int | None = None
) -> Batch:
    entries = [entry(i, term, data(region_id, i)) for i in range(first, first + count)]
    batch.entries(region_id, first, entries)
    return batch.put(region_id, b"R", state(last or first + count - 1))


def make_log(folder: Path) -> list[FileWriter]:
    """Regions 1 to 3, entries 10 to 49 each, in four files, of which one batch has five of each."""
    files = []
    for number in range(1, 5):
        file = FileWriter(folder, number)
        for half in range(2):
            batch = Batch()
            for region_id in (1, 2, 3):
                add(batch, region_id, 10 * number + 5 * half, 5)
            file.add(batch, compress=half == 1)
        file.write()
        files.append(file)
    FileWriter(folder, 1, "rewrite").write()
    return files


def indexes(log: RaftLog, region_id: int, low: int, high: int) -> list[int]:
    """The indexes of entries that are read, their contents checked."""
    found = [*log.entries(region_id, low, high)]
    assert all(e.data == data(region_id, e.index) and e.term == 5 for e in found)
    return [e.index for e in found]
