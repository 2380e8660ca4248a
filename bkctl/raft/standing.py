"""What is told of each region after its raft log was applied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from bkctl.errors import CorruptionError
from bkctl.proto import metapb_pb2, raft_serverpb_pb2
from bkctl.raft.apply import Progress
from bkctl.raft.region import MERGING, TOMBSTONE, Replica


class Completeness(str, Enum):
    """Whether a replica has all that its region has acknowledged.

    `complete` is one that alone decides what is committed, with all of its log applied. What others
    have is not known of any other, and `behind` is one of which it is known to lack something.
    """

    COMPLETE = "complete"
    UNKNOWN = "unknown"
    BEHIND = "behind"


_JOINT = (metapb_pb2.IncomingVoter, metapb_pb2.DemotingVoter)


@dataclass(frozen=True, slots=True)
class Standing:
    """One region's replica: what it is, how far it was, how far its log was applied.

    `applied` is the index that the kv store had, `applied_to` the one it has in the view, of
    `entries` entries of `size` bytes. `last_term` and `term` (the peer's own) are 0 where nothing
    tells. `trouble` says why the region cannot be read. Keys are encoded, without the `z`.

    `voters` are the stores that vote; while peers change jointly, those that will, and `outgoing`
    those that did before. `peer_ids` are all peers' ids, by their stores'. `state` is `absent` for
    a region that only the raft log knows. `merge_target` is what it merges into: id and version of
    that region as they were when that was decided; of a tombstone, the region that has it now.
    """

    region_id: int
    state: str
    role: str
    conf_ver: int
    version: int
    start_key: bytes
    end_key: bytes
    voters: tuple[int, ...]
    outgoing: tuple[int, ...]
    applied: int
    applied_to: int
    commit: int
    last_index: int
    last_term: int
    term: int
    entries: int
    size: int
    completeness: Completeness
    trouble: str
    peer_ids: tuple[tuple[int, int], ...] = ()
    merge_target: tuple[int, int] | None = None

    @property
    def above(self) -> int:
        """The entries of the log that were not applied."""
        return max(0, self.last_index - self.applied_to)

    @property
    def has_data(self) -> bool:
        """Whether the region's data is here, whole as of some entry."""
        return self.state in ("normal", "merging") and self.role not in ("none", "witness")

    @property
    def is_gone(self) -> bool:
        """Whether the region is no longer on this store."""
        return self.state == "tombstone"

    @property
    def is_merged(self) -> bool:
        """Whether it is known that the region was merged into another."""
        return self.is_gone and self.merge_target is not None

    def peer_on(self, store_id: int) -> int:
        """The id of the peer on a store, by this record; 0 if there is none."""
        return next((peer for store, peer in self.peer_ids if store == store_id), 0)


def standing_of(progress: Progress) -> Standing:
    """Sum up what came of a region."""
    replica, stand = progress.replica, progress.stand
    region, applied_to = replica.region, replica.applied
    is_joint = any(peer.role in _JOINT for peer in region.peers)
    return Standing(
        region_id=region.id,
        state=_state(replica.state) if region.peers else "absent",
        role=_role(replica.peer),
        conf_ver=region.region_epoch.conf_ver,
        version=region.region_epoch.version,
        start_key=region.start_key,
        end_key=region.end_key,
        voters=_stores(region, metapb_pb2.Voter, metapb_pb2.IncomingVoter),
        outgoing=_stores(region, metapb_pb2.Voter, metapb_pb2.DemotingVoter) if is_joint else (),
        applied=applied_to if stand is None else stand.applied,
        applied_to=applied_to,
        commit=applied_to if stand is None else stand.commit,
        last_index=applied_to if stand is None else stand.last_index,
        last_term=0 if stand is None else stand.last_term,
        term=0 if stand is None else stand.term,
        entries=progress.entries,
        size=progress.size,
        completeness=_completeness(progress),
        trouble="" if progress.trouble is None else str(progress.trouble),
        peer_ids=tuple((peer.store_id, peer.id) for peer in region.peers),
        merge_target=_merge_target(replica),
    )


def _merge_target(replica: Replica) -> tuple[int, int] | None:
    if replica.merge_state is None or replica.state not in (MERGING, TOMBSTONE):
        return None
    target = replica.merge_state.target
    return target.id, target.region_epoch.version


def _stores(region: metapb_pb2.Region, *roles: metapb_pb2.PeerRole) -> tuple[int, ...]:
    return tuple(peer.store_id for peer in region.peers if peer.role in roles)


def _completeness(progress: Progress) -> Completeness:
    replica, stand = progress.replica, progress.stand
    if progress.trouble is not None:
        return Completeness.BEHIND
    if replica.lacks_data:
        # A snapshot is under way, data is waited for, or none is held.
        return Completeness.BEHIND
    if stand is None:
        return Completeness.UNKNOWN
    if replica.applied < stand.commit:
        return Completeness.BEHIND
    is_complete = replica.is_sole_voter and replica.applied >= stand.last_index
    return Completeness.COMPLETE if is_complete else Completeness.UNKNOWN


def _state(state: int) -> str:
    known = raft_serverpb_pb2.PeerState.values()
    if state not in known:
        return "unknown"
    return raft_serverpb_pb2.PeerState.Name(state).lower()


def _role(peer: metapb_pb2.Peer | None) -> str:
    if peer is None:
        return "none"
    if peer.is_witness:
        return "witness"
    if peer.role not in metapb_pb2.PeerRole.values():
        return "unknown"
    return {
        metapb_pb2.Voter: "voter",
        metapb_pb2.Learner: "learner",
        metapb_pb2.IncomingVoter: "incoming voter",
        metapb_pb2.DemotingVoter: "demoting voter",
    }[peer.role]


def refuse_troubled(standings: Iterable[Standing]) -> None:
    """Raise CorruptionError for the first region that is in trouble, if any is."""
    for standing in standings:
        if standing.trouble:
            raise CorruptionError(standing.trouble)
