"""Stores in memory, of a test's own making, and what comes of their raft logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bkctl.errors import CorruptionError
from bkctl.proto import eraftpb_pb2, raft_serverpb_pb2
from bkctl.raft.apply import Applier, Progress
from bkctl.raft.applying import _PASSES
from bkctl.raft.replicas import Replicas
from bkctl.store.raft_log_mode import RaftLogMode
from tests.raft.apply_model import Command, Peer, Region, encode


class DictKv:
    """A KvStore in memory."""

    def __init__(self) -> None:
        self.kv: dict[str, dict[bytes, bytes]] = {f: {} for f in ("default", "write", "raft")}

    def put(self, family: str, key: bytes, value: bytes) -> None:
        if family not in self.kv:
            raise CorruptionError(f"it has no column family {family}")
        self.kv[family][key] = value

    def delete(self, family: str, key: bytes) -> None:
        self.kv[family].pop(key, None)

    def delete_range(self, family: str, start_key: bytes, end_key: bytes) -> None:
        for key, _ in [*self.records(family, start_key, end_key)]:
            del self.kv[family][key]

    def ingest(self, family: str, path: Path, name: str) -> None:
        self.kv[family][b"zingested"] = name.encode()

    def records(
        self, family: str, start_key: bytes, end_key: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        kv = self.kv[family]
        if end_key == start_key + b"\0":
            return iter([(start_key, kv[start_key])] if start_key in kv else [])
        return ((key, kv[key]) for key in sorted(kv) if start_key <= key < end_key)

    def finish(self) -> None:
        pass

    def has_family(self, family: str) -> bool:
        return family in self.kv


@dataclass
class DictLog:
    """What an Applier asks of a RaftLog, in memory: (commit, entries by index) of each region."""

    regions: dict[int, tuple[int, dict[int, eraftpb_pb2.Entry]]] = field(default_factory=dict)
    path = Path("log")

    def raft_local_state(self, region_id: int) -> raft_serverpb_pb2.RaftLocalState | None:
        if region_id not in self.regions:
            return None
        commit, entries = self.regions[region_id]
        state = raft_serverpb_pb2.RaftLocalState(last_index=max(entries, default=5))
        state.hard_state.term, state.hard_state.commit = 99, commit
        return state

    def first_index(self, region_id: int) -> int | None:
        return min(self.regions[region_id][1], default=None)

    def term_of(self, region_id: int, index: int) -> int | None:
        entry = self.regions[region_id][1].get(index)
        return None if entry is None else entry.term

    def entries(self, region_id: int, low: int, high: int) -> Iterator[eraftpb_pb2.Entry]:
        _, entries = self.regions.get(region_id, (5, {}))
        if not all(index in entries for index in range(low, high)):
            raise CorruptionError("the log does not hold them")
        return (entries[index] for index in range(low, high))


@dataclass
class Logged:
    """A store of one's own making, and what comes of its log."""

    kv: DictKv = field(default_factory=DictKv)
    log: DictLog = field(default_factory=DictLog)
    progress: dict[int, Progress] = field(default_factory=dict)

    def region(self, region: Region, applied: int = 5) -> None:
        number = region.id.to_bytes(8, "big")
        state = raft_serverpb_pb2.RegionLocalState(region=region.message())
        if region.merge is not None:
            state.state = raft_serverpb_pb2.Merging
            state.merge_state.min_index, state.merge_state.commit = region.merge
        self.kv.put("raft", b"\x01\x03" + number + b"\x01", state.SerializeToString())
        apply_state = raft_serverpb_pb2.RaftApplyState(applied_index=applied)
        apply_state.truncated_state.index = apply_state.truncated_state.term = 5
        self.kv.put("raft", b"\x01\x02" + number + b"\x03", apply_state.SerializeToString())

    def entries(
        self, region_id: int, *commands: Any, commit: int | None = None, term: int = 6
    ) -> list[eraftpb_pb2.Entry]:
        made = [
            encode(index, term, command)
            if not isinstance(command, bytes)
            else eraftpb_pb2.Entry(index=index, term=term, data=command)
            for index, command in enumerate(commands, 6)
        ]
        last = 5 + len(made)
        self.log.regions[region_id] = (
            last if commit is None else commit,
            {e.index: e for e in made},
        )
        return made

    def apply(self, mode: str = "committed") -> dict[int, Progress]:
        log: Any = self.log
        passes = _PASSES[RaftLogMode(mode)]
        applier = Applier(self.kv, log, Replicas(self.kv, 1), passes, lambda name: None)
        self.progress = {each.replica.region.id: each for each in applier.apply_all()}
        return self.progress

    def trouble(self, region_id: int) -> str:
        return str(self.progress[region_id].trouble or "")

    def values(self) -> dict[bytes, bytes]:
        return {key[1:]: value for key, value in self.kv.kv["default"].items()}


def peers(region_id: int, *stores: int) -> list[Peer]:
    return [Peer(region_id * 10 + store, store) for store in stores or (1, 2)]


def region(region_id: int, start: bytes, end: bytes, **more: Any) -> Region:
    return Region(region_id, start, end, 1, 1, more.pop("peers", peers(region_id)), **more)


def put(key: bytes, value: bytes, version: int = 1) -> Command:
    return {"epoch": (1, version), "writes": [("put", "default", key, value)]}


def admin(kind: str, what: Any, epoch: tuple[int, int] = (1, 1)) -> Command:
    return {"epoch": epoch, "admin": (kind, what)}


def merging(source: Region, commit: int, *entries: eraftpb_pb2.Entry, version: int = 1) -> Command:
    """The command that merges a source of epoch (1, 1) which began to merge."""
    told = Region(source.id, source.start, source.end, 2, 2, source.peers)
    return admin("merge", {"source": told, "commit": commit, "entries": entries}, (1, version))
