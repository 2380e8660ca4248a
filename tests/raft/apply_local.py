"""What a store that lags behind its cluster leaves on disk.

`Local` is what it has: of each log a part, of that a part known to be committed, and a kv store
which stands at a random index of each region. It is written as a data directory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import Options, Rdict, SstFileWriter

from bkctl.proto import raft_serverpb_pb2
from tests.raft.apply_cluster import Cluster, Logged, key_of
from tests.raft.apply_model import (
    OWN,
    Command,
    Region,
    Store,
    encode,
)
from tests.raft.test_rocksdb import entry_key, state_key
from tests.raft.test_rocksdb import write as write_rocksdb
from tests.raft.writer import Batch, FileWriter

STATES = {"Normal": 0, "Applying": 1, "Tombstone": 2, "Merging": 3, "Unavailable": 4}


@dataclass
class Part:
    """Of one region's log what is here: entries from index `first` on, `commit`, in the order."""

    log: list[Logged]
    first: int
    commit: int

    @property
    def last(self) -> int:
        return 5 + len(self.log)


class Local:
    """What the store has: its kv store as the model `kv`, and a part of each log."""

    def __init__(self, cluster: Cluster, mode: str) -> None:
        self.rng = rng = cluster.rng
        self.parts: dict[int, Part] = {}
        for region_id, log in cluster.logs.items():
            last = 5 + len(log)
            end = last if rng.random() < 0.5 else rng.randint(5, last)
            known = cluster.known.get(region_id, 5)
            end = max(end, cluster.needs.get(region_id, 0), known)
            commit = end if rng.random() < 0.5 else rng.randint(known, end)
            part = Part(log[: end - 5], 6, commit)
            if cluster.is_stale and mode == "committed" and rng.random() < 0.5:
                self._add_stale(cluster, region_id, part)
            self.parts[region_id] = part
        self.kv = copy.deepcopy(cluster.initial)
        for _ in range(rng.choice((0, 5, 30, 300))):
            ready = [
                r
                for r in self.kv.regions.values()
                if r.is_running and r.applied < self.parts[r.id].commit
            ]
            if not ready:
                break
            region = rng.choice(ready)
            self.kv.apply(
                region.id, region.applied + 1, self.parts[region.id].log[region.applied - 5][1]
            )
        for region in self.kv.regions.values():
            self.parts[region.id].first = rng.randint(6, region.truncated[0] + 1)

    def _add_stale(self, cluster: Cluster, region_id: int, part: Part) -> None:
        """Entries that another leader logged here, and that never were committed."""
        region = cluster.store.regions[region_id]
        # The truth has even terms.
        term = 1 + (part.log[-1][0] if part.log else 6)
        for version in range(region.version, max(0, region.version - 4), -1):
            put = ("put", "default", key_of(self.rng, region), b"never committed")
            command: Command = {"epoch": (region.conf, version), "writes": [put]}
            part.log.append((term, command))

    def expected(self, mode: str) -> Store:
        """What must be found once the log is applied."""
        store, parts = copy.deepcopy(self.kv), copy.deepcopy(self.parts)
        if mode == "ignore":
            return store
        self._settle(store, parts, is_all=False)
        if mode == "all":
            self._settle(store, parts, is_all=True)
        return store

    def _settle(self, store: Store, parts: dict[int, Part], *, is_all: bool) -> None:
        moved, turns = True, 0
        while moved:
            moved, turns = False, turns + 1
            assert turns < 10_000, "a merge waits for ever"
            for region_id in self.rng.sample([*store.regions], len(store.regions)):
                region, part = store.regions[region_id], parts[region_id]
                end = part.last if is_all or region.is_alone else part.commit
                if not region.is_running or region.applied >= end:
                    continue
                moved = True
                command = part.log[region.applied - 5][1]
                if not store.apply(region_id, region.applied + 1, command):
                    assert command is not None
                    merge = command["admin"][1]
                    _append(parts[merge["source"].id], merge)

    def write(self, folder: Path) -> None:
        """Make the data directory."""
        self._write_kv(folder / "db")
        if self.rng.random() < 0.2:
            self._write_rocksdb(folder / "raft")
        else:
            self._write_engine(folder / "raft-engine")
        (folder / "import").mkdir()
        for name, (_, pairs) in self.kv.files.items():
            writer = SstFileWriter(options=Options(raw_mode=True))
            writer.open(str(folder / "import" / name))
            for key in sorted(pairs):
                writer[b"z" + key] = pairs[key]
            writer.finish()

    def _write_kv(self, path: Path) -> None:
        db, families = open_kv(path)
        ident = raft_serverpb_pb2.StoreIdent(cluster_id=7, store_id=OWN)
        db[b"\x01\x01"] = ident.SerializeToString()
        for name, pairs in self.kv.kv.items():
            for key, value in pairs.items():
                families[name][b"z" + key] = value
        for region in self.kv.regions.values():
            number = region.id.to_bytes(8, "big")
            state = raft_serverpb_pb2.RegionLocalState(region=region.message())
            state.state = STATES[region.state]  # type: ignore[assignment]
            if region.merge is not None:
                state.merge_state.min_index, state.merge_state.commit = region.merge
            families["raft"][b"\x01\x03" + number + b"\x01"] = state.SerializeToString()
            if region.applied > 5 or self.rng.random() < 0.8:
                key = b"\x01\x02" + number + b"\x03"
                families["raft"][key] = self._apply_state(region).SerializeToString()
        if self.rng.random() < 0.5:
            db.flush()
        families.clear()
        db.close()

    def _apply_state(self, region: Region) -> raft_serverpb_pb2.RaftApplyState:
        part = self.parts[region.id]
        state = raft_serverpb_pb2.RaftApplyState(applied_index=region.applied)
        state.truncated_state.index, state.truncated_state.term = region.truncated
        if part.commit >= part.first:
            known = self.rng.randint(part.first, part.commit)
            state.commit_index, state.commit_term = known, part.log[known - 6][0]
        return state

    def _raft_state(self, part: Part) -> bytes:
        state = raft_serverpb_pb2.RaftLocalState(last_index=part.last)
        state.hard_state.term, state.hard_state.commit = 999, part.commit
        return state.SerializeToString()

    def _write_engine(self, folder: Path) -> None:
        folder.mkdir()
        file = FileWriter(folder, 1)
        places = {region_id: part.first for region_id, part in self.parts.items()}
        while places:
            batch = Batch()
            for region_id in self.rng.sample([*places], self.rng.randint(1, len(places))):
                part, first = self.parts[region_id], places[region_id]
                end = min(part.last + 1, first + self.rng.randint(1, 9))
                entries = [encode(i, *part.log[i - 6]) for i in range(first, end)]
                batch.entries(region_id, first, [e.SerializeToString() for e in entries])
                if end > part.last:
                    del places[region_id]
                    if part.last > 5 or self.rng.random() < 0.5:
                        batch.put(region_id, b"R", self._raft_state(part))
                else:
                    places[region_id] = end
            file.add(batch, compress=self.rng.random() < 0.5)
        file.write()
        FileWriter(folder, 1, "rewrite").write()

    def _write_rocksdb(self, folder: Path) -> None:
        content = {}
        for region_id, part in self.parts.items():
            content[state_key(region_id)] = self._raft_state(part)
            for index in range(part.first, part.last + 1):
                entry = encode(index, *part.log[index - 6])
                content[entry_key(region_id, index)] = entry.SerializeToString()
        write_rocksdb(folder, content, [])


def _append(part: Part, merge: dict[str, Any]) -> None:
    """What a merge's source does with what the merge carries."""
    entries = [e for e in merge["entries"] if e.index > part.commit]
    first, commit = merge["first"], merge["commit"]
    if entries:
        assert first <= part.last + 1, "the log has a hole"
        for entry in entries:
            at = entry.index - 6
            if at < len(part.log) and part.log[at][0] != entry.term:
                del part.log[at:]
            if at == len(part.log):
                part.log.append(merge["logged"][entry.index - first])
    part.commit = max(part.commit, min(commit, part.last))


def open_kv(path: Path) -> tuple[Rdict, dict[str, Rdict]]:
    """A store's kv RocksDB, and its families by name; made if it is not there."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    names = ("lock", "write", "raft")
    db = Rdict(str(path), options, column_families={n: Options(raw_mode=True) for n in names})
    return db, {"default": db, **{name: db.get_column_family(name) for name in names}}
