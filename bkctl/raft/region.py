"""One region's replica on a store, as commands of the raft log change it.

Checks and changes are TiKV's own: a command that does not pass a check has no effect at all.
Sources: TiKV's components/raftstore/src/store/{util.rs,fsm/apply.rs}.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bkctl.errors import CorruptionError
from bkctl.proto import metapb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2

NORMAL = raft_serverpb_pb2.Normal
APPLYING = raft_serverpb_pb2.Applying
TOMBSTONE = raft_serverpb_pb2.Tombstone
MERGING = raft_serverpb_pb2.Merging
UNAVAILABLE = raft_serverpb_pb2.Unavailable

RAFT_INIT_LOG_INDEX = 5
"""The index, and the term, at which the log of a region that a split made begins."""

_FLASHBACK_FLAG = 0b1000  # WriteBatchFlags::FLASHBACK
# By kind of admin command: whether the epoch's version, and its conf_ver, are compared.
_EPOCH_CHECKS = {
    raft_cmdpb_pb2.ChangePeer: (False, True),
    raft_cmdpb_pb2.ChangePeerV2: (False, True),
    raft_cmdpb_pb2.Split: (True, True),
    raft_cmdpb_pb2.BatchSplit: (True, True),
    raft_cmdpb_pb2.PrepareMerge: (True, True),
    raft_cmdpb_pb2.CommitMerge: (True, True),
    raft_cmdpb_pb2.RollbackMerge: (True, True),
    raft_cmdpb_pb2.PrepareFlashback: (True, True),
    raft_cmdpb_pb2.FinishFlashback: (True, True),
    raft_cmdpb_pb2.BatchSwitchWitness: (False, True),
}
_FLASHBACKS = (raft_cmdpb_pb2.PrepareFlashback, raft_cmdpb_pb2.FinishFlashback)


class RejectedError(Exception):
    """A command that TiKV skips, without any effect; the text says why."""


class ContradictionError(Exception):
    """A command that TiKV does not survive on such a state; the text says what it does."""


@dataclass(slots=True)
class Replica:
    """A region's state on this store.

    `applied` is the index of the last entry whose effect is in the kv store; `apply_state` is the
    record of it, whose applied index may be older.
    """

    region: metapb_pb2.Region
    store_id: int
    state: int = NORMAL
    merge_state: raft_serverpb_pb2.MergeState | None = None
    applied: int = RAFT_INIT_LOG_INDEX
    apply_state: raft_serverpb_pb2.RaftApplyState = field(
        default_factory=raft_serverpb_pb2.RaftApplyState
    )
    is_changed: bool = False

    @property
    def peer(self) -> metapb_pb2.Peer | None:
        """This store's peer, if it has one."""
        return next((p for p in self.region.peers if p.store_id == self.store_id), None)

    @property
    def is_sole_voter(self) -> bool:
        """Whether this replica alone decides what is committed."""
        voters = [p for p in self.region.peers if p.role != metapb_pb2.Learner]
        return [p.store_id for p in voters] == [self.store_id] and voters[0].role == (
            metapb_pb2.Voter
        )

    @property
    def takes_entries(self) -> bool:
        """Whether TiKV would apply further entries to it."""
        peer = self.peer
        return self.state in (NORMAL, MERGING) and peer is not None and not peer.is_witness

    @property
    def has_log(self) -> bool:
        """Whether its raft log counts: a witness, and one without its data yet, have one, too."""
        return self.state != TOMBSTONE and self.peer is not None

    @property
    def lacks_data(self) -> bool:
        """Whether the region's data is not whole here, or is not meant to be."""
        peer = self.peer
        return self.state in (APPLYING, UNAVAILABLE) or (peer is not None and peer.is_witness)

    def check_own_peer(self) -> None:
        """Raise CorruptionError if the region should be here, and is not: TiKV does not start."""
        if self.state in (NORMAL, MERGING) and self.peer is None:
            raise CorruptionError(
                f"[region {self.region.id}] the store's record of it has no peer on store "
                f"{self.store_id}, which this is"
            )

    def check(self, request: raft_cmdpb_pb2.RaftCmdRequest) -> None:
        """Raise RejectedError for a command that is not for the region as it is now."""
        kind = request.admin_request.cmd_type if request.HasField("admin_request") else None
        self._check_epoch(request.header, kind)
        self._check_flashback(request.header, kind)

    def _check_epoch(
        self, header: raft_cmdpb_pb2.RaftRequestHeader, kind: raft_cmdpb_pb2.AdminCmdType | None
    ) -> None:
        version, conf_ver = (True, False) if kind is None else _EPOCH_CHECKS.get(kind, (False,) * 2)
        if not version and not conf_ver:
            return
        if not header.HasField("region_epoch"):
            raise RejectedError("it has no epoch")
        theirs, own = header.region_epoch, self.region.region_epoch
        if (version and theirs.version != own.version) or (
            conf_ver and theirs.conf_ver != own.conf_ver
        ):
            raise RejectedError("its epoch is not the region's")

    def _check_flashback(
        self, header: raft_cmdpb_pb2.RaftRequestHeader, kind: raft_cmdpb_pb2.AdminCmdType | None
    ) -> None:
        if kind in _FLASHBACKS:
            return
        region = self.region
        is_in_flashback = region.is_in_flashback or region.flashback_start_ts > 0
        is_flashback = bool(header.flags & _FLASHBACK_FLAG)
        if is_in_flashback and not is_flashback:
            read_ts = int.from_bytes(header.flag_data[:8], "big")
            if len(header.flag_data) < 8 or not 0 < read_ts < region.flashback_start_ts:
                raise RejectedError("the region is in flashback")
        if not is_in_flashback and is_flashback:
            raise RejectedError("the region is not in flashback")

    def become(
        self,
        region: metapb_pb2.Region,
        state: int = NORMAL,
        merge_state: raft_serverpb_pb2.MergeState | None = None,
    ) -> None:
        """Take over what a command made of it."""
        self.region, self.state, self.merge_state = region, state, merge_state
        self.is_changed = True

    def local_state(self) -> raft_serverpb_pb2.RegionLocalState:
        """The record of it, as the `raft` family has it."""
        record = raft_serverpb_pb2.RegionLocalState()
        record.state = self.state  # type: ignore[assignment]
        record.region.CopyFrom(self.region)
        if self.merge_state is not None:
            record.merge_state.CopyFrom(self.merge_state)
        return record


def copy_of(region: metapb_pb2.Region) -> metapb_pb2.Region:
    """A region that may be changed."""
    copy = metapb_pb2.Region()
    copy.CopyFrom(region)
    return copy
