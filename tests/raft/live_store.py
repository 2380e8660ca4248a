"""Writes to a store as TiKV does, until its standard input ends: the raft log first, synced.

    python -m tests.raft.live_store FOLDER

One region with one replica. Entry 6 commits row 0 at timestamp 10, and so on: the kv store gets
them up to hundreds of entries later. What it has applied is compacted, and the log's files are
written over. `FOLDER/raft-engine/acked` holds the newest entry that was acknowledged.
"""

from __future__ import annotations

import os
import random
import select
import sys
from pathlib import Path

from rocksdict import WriteBatch

from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.keys import versioned_key
from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2
from tests.raft.apply_local import open_kv
from tests.raft.apply_model import Peer, Region, encode
from tests.raft.live_writer import LiveWriter
from tests.raft.writer import Batch

FIRST = 6
_STATE, _APPLY = b"\x01\x03" + bytes(7) + b"\x01\x01", b"\x01\x02" + bytes(7) + b"\x01\x03"
_LAG, _KEPT, _SPARE_FILES = 400, 100, 5


class LiveStore(LiveWriter):
    """The raft log, and a kv store that follows it; `unapplied` are the entries it lacks."""

    def __init__(self, folder: Path) -> None:
        (folder / "raft-engine").mkdir(parents=True)
        super().__init__(folder / "raft-engine")
        self.rng = random.Random(1)
        self.index = self.applied = self.compacted = FIRST - 1
        self.unapplied: list[bytes] = []
        self.db, self.families = open_kv(folder / "db")
        ident = raft_serverpb_pb2.StoreIdent(cluster_id=7, store_id=1)
        self.db[b"\x01\x01"] = ident.SerializeToString()
        region = Region(1, b"", b"", 1, 1, [Peer(11, 1)])
        state = raft_serverpb_pb2.RegionLocalState(region=region.message())
        self.families["raft"][_STATE] = state.SerializeToString()

    def step(self) -> None:
        """Log a few entries, acknowledge them, and apply some."""
        batch = Batch()
        entries = []
        for index in range(self.index + 1, self.index + 1 + self.rng.randint(1, 9)):
            value = self.rng.randbytes(150)
            record = b"P" + encode_uvarint(9) + b"v" + bytes([len(value)]) + value
            key = versioned_key(b"r%08d" % (index - FIRST), 10)[1:]
            command = {"epoch": (1, 1), "writes": [("put", "write", key, record)]}
            entries.append(encode(index, 6, command).SerializeToString())
        batch.entries(1, self.index + 1, entries)
        self.index += len(entries)
        state = raft_serverpb_pb2.RaftLocalState(last_index=self.index)
        state.hard_state.term, state.hard_state.commit = 6, self.index - len(entries)
        self.write(batch.put(1, b"R", state.SerializeToString()))
        os.fdatasync(self.file)
        os.pwrite(self.acked, self.index.to_bytes(8, "big"), 0)
        self.unapplied += entries
        if self.rng.random() < 0.05:
            self.apply(self.rng.randint(0, _LAG))

    def apply(self, left: int) -> None:
        """Apply all but `left` entries, and compact."""
        count = max(0, len(self.unapplied) - left)
        batch = WriteBatch(raw_mode=True)
        for data in self.unapplied[:count]:
            self._put(batch, eraftpb_pb2.Entry.FromString(data))
        del self.unapplied[:count]
        self.applied += count
        self.compacted = max(self.compacted, self.applied - _KEPT)
        state = raft_serverpb_pb2.RaftApplyState(applied_index=self.applied)
        state.truncated_state.index, state.truncated_state.term = self.compacted, 6
        if self.compacted == FIRST - 1:
            state.truncated_state.term = 5
        batch.put(_APPLY, state.SerializeToString(), self.db.get_column_family_handle("raft"))
        self.db.write(batch)
        if self.rng.random() < 0.1:
            self.families["write"].flush()
        self.write(Batch().compact(1, self.compacted + 1))
        self.give_up()

    def _put(self, batch: WriteBatch, entry: eraftpb_pb2.Entry) -> None:
        for request in raft_cmdpb_pb2.RaftCmdRequest.FromString(entry.data).requests:
            handle = self.db.get_column_family_handle("write")
            batch.put(b"z" + request.put.key, request.put.value, handle)


def main() -> None:
    store = LiveStore(Path(sys.argv[1]))
    while len(store.recyclable) < _SPARE_FILES:
        store.step()
    print("ready", flush=True)
    # It would outgrow its readers if it never paused.
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        store.step()
    store.step()
    store.families.clear()
    store.db.close()


if __name__ == "__main__":
    main()
