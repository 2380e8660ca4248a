"""What the model's raft logs hold: commands, as values and as the bytes that TiKV writes for them.

And what stores write down of a region. The code that is tested reads it as bytes only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bkctl.proto import eraftpb_pb2, metapb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2

ROLES = ("voter", "learner", "incoming", "demoting")
STATES = {"normal": 0, "applying": 1, "tombstone": 2, "merging": 3}


@dataclass(frozen=True, slots=True)
class Peer:
    id: int
    store: int
    role: str = "voter"


@dataclass(frozen=True, slots=True)
class Region:
    """A region; bounds are encoded keys."""

    id: int
    start: bytes
    end: bytes
    version: int
    conf_ver: int
    peers: tuple[Peer, ...]

    @property
    def stores(self) -> list[int]:
        return [peer.store for peer in self.peers]

    @property
    def voters(self) -> list[set[int]]:
        """The stores of which a majority decides; two sets of them while peers change jointly."""
        now = {p.store for p in self.peers if p.role in ("voter", "incoming")}
        before = {p.store for p in self.peers if p.role in ("voter", "demoting")}
        return [now, before] if self.is_joint else [now]

    @property
    def is_joint(self) -> bool:
        return any(p.role in ("incoming", "demoting") for p in self.peers)

    def has_quorum(self, stores: set[int]) -> bool:
        return all(len(voters & stores) * 2 > len(voters) for voters in self.voters)

    def peer_on(self, store: int) -> Peer | None:
        return next((p for p in self.peers if p.store == store), None)

    def has(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def overlaps(self, other: Region) -> bool:
        return (not self.end or other.start < self.end) and (
            not other.end or self.start < other.end
        )

    def covers(self, other: Region) -> bool:
        return self.start <= other.start and (
            not self.end or (bool(other.end) and other.end <= self.end)
        )

    @property
    def proto(self) -> metapb_pb2.Region:
        made = metapb_pb2.Region(id=self.id, start_key=self.start, end_key=self.end)
        made.region_epoch.version, made.region_epoch.conf_ver = self.version, self.conf_ver
        made.peers.extend(map(_peer, self.peers))
        return made


@dataclass(frozen=True, slots=True)
class Write:
    """Puts a record into a family, or deletes it; `key` is without the `z`."""

    family: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Split:
    key: bytes
    new_id: int
    peer_ids: tuple[int, ...]
    right_derive: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Changes of peers: each ("add", "learn" or "remove", peer); none leaves a joint state."""

    changes: tuple[tuple[str, Peer], ...]
    is_old: bool = False


@dataclass(frozen=True, slots=True)
class Prepare:
    min_index: int
    target: Region


@dataclass(frozen=True, slots=True)
class Commit:
    source: Region
    commit: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Rollback:
    commit: int


@dataclass(frozen=True, slots=True)
class Compact:
    index: int
    term: int


Command = Write | Split | Change | Prepare | Commit | Rollback | Compact


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry; `command` None is a new leader's; `region` what the region was to its proposer."""

    term: int
    index: int
    command: Command | None
    region: Region

    @property
    def is_admin(self) -> bool:
        return self.command is not None and not isinstance(self.command, Write)

    def fits(self, region: Region) -> bool:
        """Whether the epoch that it was proposed with is one that the region takes."""
        if isinstance(self.command, Compact):
            return True
        version = self.region.version == region.version
        conf_ver = self.region.conf_ver == region.conf_ver
        if isinstance(self.command, Write):
            return version
        return conf_ver and (version or isinstance(self.command, Change))

    @property
    def proto(self) -> eraftpb_pb2.Entry:
        made = eraftpb_pb2.Entry(term=self.term, index=self.index)
        if self.command is None:
            return made
        data = self._request().SerializeToString()
        if not isinstance(self.command, Change):
            made.data = data
        elif self.command.is_old:
            made.entry_type = eraftpb_pb2.EntryConfChange
            made.data = eraftpb_pb2.ConfChange(context=data).SerializeToString()
        else:
            made.entry_type = eraftpb_pb2.EntryConfChangeV2
            made.data = eraftpb_pb2.ConfChangeV2(context=data).SerializeToString()
        return made

    def _request(self) -> raft_cmdpb_pb2.RaftCmdRequest:
        made = raft_cmdpb_pb2.RaftCmdRequest()
        made.header.region_id, made.header.term = self.region.id, self.term
        made.header.region_epoch.CopyFrom(self.region.proto.region_epoch)
        command = self.command
        assert command is not None
        if isinstance(command, Write):
            _put_write(made.requests.add(), command)
        else:
            _put_admin(made.admin_request, command)
        return made


def _put_write(request: Any, write: Write) -> None:
    is_put = write.value is not None
    request.cmd_type = raft_cmdpb_pb2.Put if is_put else raft_cmdpb_pb2.Delete
    part = request.put if is_put else request.delete
    part.cf = "" if write.family == "default" else write.family
    part.key = write.key
    if write.value is not None:
        part.value = write.value


def _put_admin(admin: Any, command: Command) -> None:
    if isinstance(command, Split):
        admin.cmd_type = raft_cmdpb_pb2.BatchSplit
        admin.splits.right_derive = command.right_derive
        one = admin.splits.requests.add(split_key=command.key, new_region_id=command.new_id)
        one.new_peer_ids.extend(command.peer_ids)
    elif isinstance(command, Change):
        admin.cmd_type = (
            raft_cmdpb_pb2.ChangePeer if command.is_old else raft_cmdpb_pb2.ChangePeerV2
        )
        kinds = {
            "add": eraftpb_pb2.AddNode,
            "remove": eraftpb_pb2.RemoveNode,
            "learn": eraftpb_pb2.AddLearnerNode,
        }
        admin.change_peer_v2.SetInParent()
        for kind, peer in command.changes:
            one = admin.change_peer if command.is_old else admin.change_peer_v2.changes.add()
            one.change_type = kinds[kind]
            one.peer.CopyFrom(_peer(peer))
    elif isinstance(command, Prepare):
        admin.cmd_type = raft_cmdpb_pb2.PrepareMerge
        admin.prepare_merge.min_index = command.min_index
        admin.prepare_merge.target.CopyFrom(command.target.proto)
    elif isinstance(command, Commit):
        admin.cmd_type = raft_cmdpb_pb2.CommitMerge
        admin.commit_merge.source.CopyFrom(command.source.proto)
        admin.commit_merge.commit = command.commit
        admin.commit_merge.entries.extend(entry.proto for entry in command.entries)
    elif isinstance(command, Rollback):
        admin.cmd_type = raft_cmdpb_pb2.RollbackMerge
        admin.rollback_merge.commit = command.commit
    elif isinstance(command, Compact):
        admin.cmd_type = raft_cmdpb_pb2.CompactLog
        admin.compact_log.compact_index = command.index
        admin.compact_log.compact_term = command.term


def _peer(peer: Peer) -> metapb_pb2.Peer:
    made = metapb_pb2.Peer(id=peer.id, store_id=peer.store)
    made.role = ROLES.index(peer.role)  # type: ignore[assignment]
    return made


def changed(region: Region, change: Change) -> Region | None:
    """A region after a change of its peers; None for a change that it does not take."""
    peers = list(region.peers)
    if not change.changes:
        after = {"incoming": "voter", "demoting": "learner"}
        count = sum(peer.role in after for peer in peers)
        left = tuple(replace(peer, role=after.get(peer.role, peer.role)) for peer in peers)
        return replace(region, peers=left, conf_ver=region.conf_ver + count)
    is_joint = len(change.changes) > 1
    for kind, peer in change.changes:
        known = next((p for p in peers if p.store == peer.store), None)
        if kind == "remove":
            if known is None or known.id != peer.id or known.role != peer.role:
                return None
            peers.remove(known)
        elif known is None:
            role = ("incoming" if is_joint else "voter") if kind == "add" else "learner"
            peers.append(replace(peer, role=role))
        elif known.id != peer.id or known.role == ("voter" if kind == "add" else "learner"):
            return None
        else:
            role = {"add": ("voter", "incoming"), "learn": ("learner", "demoting")}[kind][is_joint]
            peers[peers.index(known)] = replace(known, role=role)
    return replace(region, peers=tuple(peers), conf_ver=region.conf_ver + len(change.changes))


def local_state(region: Region, state: str, merge: tuple[int, Region, int] | None) -> bytes:
    """A RegionLocalState; `merge` is (min_index, target, commit)."""
    made = raft_serverpb_pb2.RegionLocalState()
    made.state = STATES[state]  # type: ignore[assignment]
    made.region.CopyFrom(region.proto)
    if merge is not None:
        made.merge_state.min_index, made.merge_state.commit = merge[0], merge[2]
        made.merge_state.target.CopyFrom(merge[1].proto)
    return made.SerializeToString()
