"""A store that applies commands, in plain dictionaries: what must come of a raft log.

It follows TiKV's rules one at a time, by code of its own. A command is a dictionary (`epoch`,
`writes` or `admin`); `encode` makes the entry of it that TiKV would have logged.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

from bkctl.proto import eraftpb_pb2, metapb_pb2, raft_cmdpb_pb2

Command = dict[str, Any]
FAMILIES = ("default", "lock", "write")
OWN = 1
VOTER, LEARNER, INCOMING, DEMOTING = range(4)
ADMIN = {
    "compact": raft_cmdpb_pb2.CompactLog,
    "transfer": raft_cmdpb_pb2.TransferLeader,
    "hash": raft_cmdpb_pb2.ComputeHash,
    "verify": raft_cmdpb_pb2.VerifyHash,
    "gc": raft_cmdpb_pb2.UpdateGcPeer,
    "change": raft_cmdpb_pb2.ChangePeer,
    "changes": raft_cmdpb_pb2.ChangePeerV2,
    "old split": raft_cmdpb_pb2.Split,
    "split": raft_cmdpb_pb2.BatchSplit,
    "prepare": raft_cmdpb_pb2.PrepareMerge,
    "merge": raft_cmdpb_pb2.CommitMerge,
    "rollback": raft_cmdpb_pb2.RollbackMerge,
    "flashback": raft_cmdpb_pb2.PrepareFlashback,
    "end flashback": raft_cmdpb_pb2.FinishFlashback,
    "witness": raft_cmdpb_pb2.BatchSwitchWitness,
    "odd": 77,
}
# Which of them compare the epoch's version, and its conf_ver.
CHECKS_VERSION = {*ADMIN} - {"compact", "transfer", "hash", "verify", "gc", "change", "changes"}
CHECKS_VERSION -= {"witness", "odd"}
CHECKS_CONF = CHECKS_VERSION | {"change", "changes", "witness"}


@dataclass
class Peer:
    id: int
    store: int
    role: int = VOTER
    witness: bool = False


@dataclass
class Region:
    id: int
    start: bytes
    end: bytes
    conf: int
    version: int
    peers: list[Peer]
    state: str = "Normal"
    applied: int = 5
    merge: tuple[int, int] | None = None  # (min_index, commit)
    flashback: int = 0
    truncated: tuple[int, int] = (5, 5)

    @property
    def own(self) -> Peer | None:
        return next((p for p in self.peers if p.store == OWN), None)

    @property
    def is_alone(self) -> bool:
        return [(p.store, p.role) for p in self.peers if p.role != LEARNER] == [(OWN, VOTER)]

    @property
    def is_running(self) -> bool:
        own = self.own
        return self.state in ("Normal", "Merging") and own is not None and not own.witness

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def message(self) -> metapb_pb2.Region:
        made = metapb_pb2.Region(id=self.id, start_key=self.start, end_key=self.end)
        made.region_epoch.conf_ver, made.region_epoch.version = self.conf, self.version
        for p in self.peers:
            made.peers.append(peer_message(p))
        made.is_in_flashback, made.flashback_start_ts = self.flashback > 0, self.flashback
        return made


def peer_message(peer: Peer) -> metapb_pb2.Peer:
    made = metapb_pb2.Peer(id=peer.id, store_id=peer.store, is_witness=peer.witness)
    made.role = peer.role  # type: ignore[assignment]
    return made


class Skipped(Exception):
    """The command has no effect."""


@dataclass
class Store:
    """`kv` by family, `regions` by id; `files` are what import/ has: (family, pairs) by name."""

    kv: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {f: {} for f in FAMILIES})
    regions: dict[int, Region] = field(default_factory=dict)
    files: dict[str, tuple[str, dict[bytes, bytes]]] = field(default_factory=dict)

    def apply(self, region_id: int, index: int, command: Command | None) -> bool:
        """Apply an entry; False if it merges a region that is not as far yet."""
        region = self.regions[region_id]
        assert index == region.applied + 1
        assert region.is_running
        try:
            if command is not None:
                self._check(region, command)
                if "writes" in command:
                    self._write(region, command["writes"])
                elif command["admin"][0] == "merge" and not self._is_ready(command["admin"][1]):
                    return False
                else:
                    self._admin(region, index, *command["admin"])
        except Skipped:
            pass
        region.applied = index
        return True

    def _check(self, region: Region, command: Command) -> None:
        kind = command["admin"][0] if "admin" in command else "write"
        version = kind == "write" or kind in CHECKS_VERSION
        if version or kind in CHECKS_CONF:
            if command["epoch"] is None:
                raise Skipped
            conf_ver, own_version = command["epoch"]
            if version and own_version != region.version:
                raise Skipped
            if kind in CHECKS_CONF and conf_ver != region.conf:
                raise Skipped
        if kind in ("flashback", "end flashback"):
            return
        flagged = command.get("flashback", False)
        if region.flashback and not flagged:
            raise Skipped
        if flagged and not region.flashback:
            raise Skipped

    def _write(self, region: Region, writes: list[tuple[Any, ...]]) -> None:
        for what, family, *rest in writes:
            if what in ("put", "delete") and not region.holds(rest[0]):
                raise Skipped
            if what == "range":
                start, end, only_told = rest
                if (end and start >= end) or not region.holds(start):
                    raise Skipped
                if region.end and (not end or end > region.end):
                    raise Skipped
                if not only_told:
                    kv = self.kv[family]
                    for key in [k for k in kv if start <= k and (not end or k < end)]:
                        del kv[key]
            elif what == "ingest":
                name, epoch, bounds = rest
                if epoch != (region.conf, region.version) or not all(map(region.holds, bounds)):
                    raise Skipped
                self.kv[family].update(self.files[name][1])
            elif what == "odd":
                raise Skipped
        for what, family, *rest in writes:
            if what == "put":
                self.kv[family][rest[0]] = rest[1]
            elif what == "delete":
                self.kv[family].pop(rest[0], None)

    def _is_ready(self, merge: dict[str, Any]) -> bool:
        source = self.regions.get(merge["source"].id)
        if source is None or source.state != "Merging" or source.merge is None:
            return False
        return bool(source.merge[1] == merge["commit"])

    def _admin(self, region: Region, index: int, kind: str, what: Any) -> None:
        if kind == "compact":
            compact, term = what
            if region.truncated[0] + 1 < compact < index and region.state != "Merging" and term:
                region.truncated = (compact, term)
        elif kind == "change":
            self._change(region, what)
        elif kind == "changes":
            self._changes(region, what)
        elif kind in ("split", "old split"):
            self._split(region, *what)
        elif kind == "prepare":
            region.version += 1
            region.conf += 1
            region.state, region.merge = "Merging", (what, index)
        elif kind == "merge":
            source = self.regions[what["source"].id]
            region.version = max(region.version, source.version) + 1
            if region.end and region.end == source.start:
                region.end = source.end
            else:
                region.start = source.start
            region.state, region.merge = "Normal", None
            source.state, source.merge = "Tombstone", (0, 0)
        elif kind == "rollback":
            region.version += 1
            region.state, region.merge = "Normal", None
        elif kind == "flashback":
            region.flashback = what
            region.state, region.merge = "Normal", None
        elif kind == "end flashback":
            region.flashback = 0
            region.state, region.merge = "Normal", None
        elif kind == "witness":
            self._witness(region, what)

    def _change(self, region: Region, what: tuple[str, Peer]) -> None:
        kind, peer = what
        old = next((p for p in region.peers if p.store == peer.store), None)
        if kind == "remove":
            if old != peer:
                raise Skipped
            region.peers.remove(old)
        elif old is None:
            region.peers.append(copy.copy(peer))
        elif kind == "add" and old.role == LEARNER and old.id == peer.id:
            old.role = VOTER
        else:
            raise Skipped
        region.conf += 1
        self._after_change(region)

    def _after_change(self, region: Region) -> None:
        region.state = "Normal" if region.own is not None else "Tombstone"
        region.merge = None

    def _changes(self, region: Region, changes: list[tuple[str, Peer]]) -> None:
        if not changes:
            joint = [p for p in region.peers if p.role in (INCOMING, DEMOTING)]
            for p in joint:
                p.role = VOTER if p.role == INCOMING else LEARNER
            region.conf += len(joint)
            self._after_change(region)
            return
        peers = copy.deepcopy(region.peers)
        several = len(changes) > 1
        for kind, peer in changes:
            old = next((p for p in peers if p.store == peer.store), None)
            role = VOTER if kind == "add" else LEARNER
            if kind == "remove":
                if old is None or old != peer or (several and old.role == VOTER):
                    raise Skipped
                peers.remove(old)
            elif old is None:
                added = INCOMING if several and role == VOTER else role
                peers.append(Peer(peer.id, peer.store, added, peer.witness))
            elif old.id != peer.id or old.role == role or old.witness != peer.witness:
                raise Skipped
            elif role == VOTER:
                old.role = INCOMING if several else VOTER
            else:
                old.role = DEMOTING if several else LEARNER
        region.peers = peers
        region.conf += len(changes)
        self._after_change(region)

    def _witness(self, region: Region, switches: list[tuple[int, bool]]) -> None:
        peers = copy.deepcopy(region.peers)
        state = "Normal"
        for peer_id, is_witness in switches:
            peer = next((p for p in peers if p.id == peer_id), None)
            if peer is None or peer.witness == is_witness:
                raise Skipped
            peer.witness = is_witness
            if peer.store == OWN and not is_witness:
                state = "Unavailable"
        region.peers, region.state, region.merge = peers, state, None
        region.conf += len(switches)

    def _split(
        self, region: Region, parts: list[tuple[bytes, int, list[int]]], right: bool
    ) -> None:
        last = region.start
        for key, _, peer_ids in parts:
            if key <= last or len(peer_ids) != len(region.peers):
                raise Skipped
            last = key
        if not parts or (region.end and last >= region.end):
            raise Skipped
        region.version += len(parts)
        edges = [region.start, *(key for key, _, _ in parts), region.end]
        pieces = list(itertools.pairwise(edges))
        (region.start, region.end) = pieces.pop(-1 if right else 0)
        for (start, end), (_, new_id, peer_ids) in zip(pieces, parts, strict=True):
            if new_id in self.regions:
                continue
            peers = [
                Peer(peer_id, p.store, p.role, p.witness)
                for peer_id, p in zip(peer_ids, region.peers, strict=True)
            ]
            self.regions[new_id] = Region(new_id, start, end, region.conf, region.version, peers)
        region.state, region.merge = "Normal", None


def encode(index: int, term: int, command: Command | None) -> eraftpb_pb2.Entry:
    """The entry of a command; of none, a new leader's."""
    entry = eraftpb_pb2.Entry(index=index, term=term)
    if command is None:
        return entry
    message = raft_cmdpb_pb2.RaftCmdRequest()
    message.header.term = term
    if command["epoch"] is not None:
        epoch = message.header.region_epoch
        epoch.conf_ver, epoch.version = command["epoch"]
    if command.get("flashback"):
        message.header.flags = 8
    for write in command.get("writes", ()):
        _encode_write(message.requests.add(), *write)
    if "admin" in command:
        _encode_admin(message.admin_request, *command["admin"])
    entry.data = message.SerializeToString()
    if "admin" in command and command["admin"][0] in ("change", "changes"):
        wrapped: Any = eraftpb_pb2.ConfChangeV2(context=entry.data)
        entry.entry_type = eraftpb_pb2.EntryConfChangeV2
        if command["admin"][0] == "change":
            wrapped = eraftpb_pb2.ConfChange(context=entry.data)
            entry.entry_type = eraftpb_pb2.EntryConfChange
        entry.data = wrapped.SerializeToString()
    return entry


def _encode_write(request: Any, what: str, family: str, *rest: Any) -> None:
    cf = "" if family == "default" else family
    if what == "put":
        request.cmd_type = raft_cmdpb_pb2.Put
        request.put.cf, request.put.key, request.put.value = cf, *rest
    elif what == "delete":
        request.cmd_type = raft_cmdpb_pb2.Delete
        request.delete.cf, request.delete.key = cf, *rest
    elif what == "range":
        request.cmd_type = raft_cmdpb_pb2.DeleteRange
        told = request.delete_range
        told.cf, told.start_key, told.end_key, told.notify_only = cf, *rest
    elif what == "ingest":
        request.cmd_type = raft_cmdpb_pb2.IngestSST
        name, epoch, (start, end) = rest
        uuid, region_id, *_ = name.split("_")
        sst = request.ingest_sst.sst
        sst.uuid, sst.cf_name = bytes.fromhex(uuid.replace("-", "")), family
        sst.region_id, sst.range.start, sst.range.end = int(region_id), start, end
        sst.region_epoch.conf_ver, sst.region_epoch.version = epoch
    else:
        request.cmd_type = raft_cmdpb_pb2.Prewrite


def _encode_admin(request: Any, kind: str, what: Any) -> None:
    request.cmd_type = ADMIN[kind]
    if kind == "compact":
        request.compact_log.compact_index, request.compact_log.compact_term = what
    elif kind == "change":
        _encode_change(request.change_peer, *what)
    elif kind == "changes":
        request.change_peer_v2.SetInParent()
        for change in what:
            _encode_change(request.change_peer_v2.changes.add(), *change)
    elif kind in ("split", "old split"):
        parts, right = what
        for part in parts:
            into = request.split if kind == "old split" else request.splits.requests.add()
            into.split_key, into.new_region_id = part[:2]
            into.new_peer_ids.extend(part[2])
        (request.split if kind == "old split" else request.splits).right_derive = right
    elif kind == "prepare":
        request.prepare_merge.min_index = what
    elif kind == "merge":
        merge = request.commit_merge
        merge.source.CopyFrom(what["source"].message())
        merge.commit = what["commit"]
        merge.entries.extend(what["entries"])
    elif kind == "rollback":
        request.rollback_merge.commit = what
    elif kind == "flashback":
        request.prepare_flashback.start_ts = what
    elif kind == "witness":
        for peer_id, is_witness in what:
            request.switch_witnesses.switch_witnesses.add(peer_id=peer_id, is_witness=is_witness)


def _encode_change(into: Any, kind: str, peer: Peer) -> None:
    into.change_type = {
        "add": eraftpb_pb2.AddNode,
        "remove": eraftpb_pb2.RemoveNode,
        "learn": eraftpb_pb2.AddLearnerNode,
    }[kind]
    into.peer.CopyFrom(peer_message(peer))
