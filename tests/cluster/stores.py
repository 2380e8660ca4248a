"""The model's stores after a loss of power: as directories, and as bkctl's election sees them.

Each raft log is whole, each kv store falls back to some moment behind its last sync, and a commit
index is written down late. `Led` stands in for `bkctl.raft.replayer.RaftReplayer`: what a helper
process does for that, it does here, on a kv store in memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import rocksdict

from bkctl.cluster.choice import Choice
from bkctl.cluster.election import Election
from bkctl.cluster.regions import ClusterRegions, cluster_regions
from bkctl.proto import raft_serverpb_pb2
from bkctl.raft import rocks_kv
from bkctl.raft.applying import Applying, ApplyLog, Finish, PinLog, ReadLog
from bkctl.raft.locate import EnginePlace
from bkctl.raft.standing import Standing
from bkctl.store.ident import StoreIdent
from bkctl.store.raft_log_mode import RaftLogMode
from tests.cluster.machine import Replica, Store
from tests.raft.writer import Batch, FileWriter

FAMILIES = ("default", "lock", "write", "raft")
CLUSTER_ID = 7


@dataclass(frozen=True, slots=True)
class Left:
    """What a loss of power left of a store: its kv records, and its raft log in `folder`.

    `known` is up to where the store knows of each region's log that it was committed.
    """

    store: Store
    folder: Path
    records: dict[tuple[str, bytes], bytes]
    known: dict[int, int]


def lose_power(store: Store, folder: Path, rng: random.Random) -> Left:
    """Write what is left of a store's raft log into `folder`."""
    cut = rng.choice(
        (store.synced, len(store.batches), rng.randint(store.synced, len(store.batches)))
    )
    records = store.at(cut)
    ident = raft_serverpb_pb2.StoreIdent(cluster_id=CLUSTER_ID, store_id=store.id)
    records["default", b"\x01\x01"] = ident.SerializeToString()
    engine = folder / "raft-engine"
    engine.mkdir(parents=True)
    file = FileWriter(engine, 1)
    known = {}
    for region_id, replica in store.replicas.items():
        if replica.is_there:
            _write_log(file, replica, commit := _written_commit(replica, rng))
            known[region_id] = max(commit, _applied(records, region_id))
    file.write()
    FileWriter(engine, 1, "rewrite").write()
    return Left(store, folder, records, known)


def _written_commit(replica: Replica, rng: random.Random) -> int:
    low = max(replica.floor, replica.truncated[0])
    return rng.choice((low, replica.commit, rng.randint(low, replica.commit)))


def _applied(records: dict[tuple[str, bytes], bytes], region_id: int) -> int:
    key = b"\x01\x02" + region_id.to_bytes(8, "big") + b"\x03"
    state = raft_serverpb_pb2.RaftApplyState()
    state.ParseFromString(records.get(("raft", key), b""))
    return max(state.applied_index, state.commit_index)


def _write_log(file: FileWriter, replica: Replica, commit: int) -> None:
    state = raft_serverpb_pb2.RaftLocalState(last_index=replica.last)
    state.hard_state.term, state.hard_state.commit = replica.term, commit
    batch = Batch()
    entries = [replica.entries[at].proto for at in sorted(replica.entries)]
    if entries:
        packed = [entry.SerializeToString() for entry in entries]
        batch.entries(replica.region.id, entries[0].index, packed)
    file.add(batch.put(replica.region.id, b"R", state.SerializeToString()))


def write_rocksdb(left: Left) -> Path:
    """The same store with its kv RocksDB, as a data directory."""
    families = {name: rocksdict.Options(raw_mode=True) for name in FAMILIES[1:]}
    path = left.folder / "db"
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    db = rocksdict.Rdict(str(path), options, column_families=families)
    batch = rocksdict.WriteBatch(raw_mode=True)
    handles = {name: db.get_column_family_handle(name) for name in FAMILIES}
    for (family, key), value in left.records.items():
        batch.put(key, value, handles[family])
    db.write(batch)
    handles.clear()
    db.close()
    (path / "rocksdict-config.json").unlink(missing_ok=True)
    return path


class MemoryKv:
    """A `bkctl.raft.kv.KvStore`."""

    def __init__(self, records: dict[tuple[str, bytes], bytes]) -> None:
        self.data = dict(records)

    def put(self, family: str, key: bytes, value: bytes) -> None:
        self.data[family, key] = value

    def delete(self, family: str, key: bytes) -> None:
        self.data.pop((family, key), None)

    def delete_range(self, family: str, start_key: bytes, end_key: bytes) -> None:
        for key, _ in list(self.records(family, start_key, end_key)):
            self.delete(family, key)

    def ingest(self, family: str, path: Path, name: str) -> None:
        raise AssertionError("nothing is ingested")

    def records(self, family: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        keys = [key for name, key in self.data if name == family and start <= key < end]
        yield from [(key, self.data[family, key]) for key in sorted(keys)]

    def has_family(self, family: str) -> bool:
        return family in FAMILIES

    def finish(self) -> None:
        pass


class Led:
    """A store as the election asks it, and as the regions are read of it."""

    def __init__(self, left: Left) -> None:
        self.kv = MemoryKv(left.records)
        self.ident = StoreIdent(CLUSTER_ID, left.store.id)
        self._folder = left.folder
        self._applying = Applying()

    def read(self) -> tuple[StoreIdent, tuple[Standing, ...]]:
        place = EnginePlace((self._folder / "raft-engine",))
        self._ask(PinLog(place, self._folder, False, False))
        with mock.patch.object(rocks_kv, "RocksKv", return_value=self.kv):
            ident, *batches = self._ask(ReadLog(self._folder, self._folder, self._folder, True))
        return ident, tuple(standing for batch in batches for standing in batch)

    def apply(self, decided: Mapping[int, int]) -> tuple[Standing, ...]:
        batches = self._ask(ApplyLog(RaftLogMode.COMMITTED, decided))
        return tuple(standing for batch in batches for standing in batch)

    def finish(self) -> None:
        self._ask(Finish())

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        return self.kv.records("raft", b"\x01\x03", b"\x01\x04")

    def _ask(self, request: Any) -> list[Any]:
        return list(self._applying(request))


def elect(
    lefts: Sequence[Left], *, allow_minority: bool = False
) -> tuple[dict[int, Choice], ClusterRegions, list[dict[tuple[str, bytes], bytes]]]:
    """What bkctl makes of the stores at hand, and what is in their views then."""
    led: Any = [Led(left) for left in lefts]
    choices = Election(led, allow_minority=allow_minority).hold()
    regions = cluster_regions(choices, led, allow_minority=allow_minority)
    return choices, regions, [each.kv.data for each in led]
