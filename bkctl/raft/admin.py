"""What admin commands make of a region: splits, changes of peers, merges, flashback, witnesses.

All of it is the store's book-keeping: no data moves. Source: exec_* in TiKV's
components/raftstore/src/store/fsm/apply.rs.
"""

from __future__ import annotations

from collections.abc import Callable

from bkctl.proto import eraftpb_pb2, metapb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2
from bkctl.raft.region import (
    MERGING,
    NORMAL,
    TOMBSTONE,
    UNAVAILABLE,
    ContradictionError,
    RejectedError,
    Replica,
    copy_of,
)

_Admin = raft_cmdpb_pb2.AdminRequest
_MAX = (1 << 64) - 1
_JOINT = (metapb_pb2.IncomingVoter, metapb_pb2.DemotingVoter)


def change_peer(replica: Replica, request: _Admin) -> None:
    """Apply the old form of a change of one peer."""
    _require(request, "change_peer")
    change = request.change_peer
    region, peer = copy_of(replica.region), change.peer
    _grow(region, conf_ver=1)
    known = _peer_of(region, peer.store_id)
    if change.change_type == eraftpb_pb2.AddNode:
        if known is None:
            region.peers.add().CopyFrom(peer)
        elif known.role == metapb_pb2.Learner and known.id == peer.id:
            known.role = metapb_pb2.Voter
        else:
            raise RejectedError("it adds a peer that is there")
    elif change.change_type == eraftpb_pb2.RemoveNode:
        _remove(region, known, peer)
    elif known is not None:
        raise RejectedError("it adds a learner where a peer is")
    else:
        region.peers.add().CopyFrom(peer)
    replica.become(region, _state_without_self(replica, region))


def change_peer_v2(replica: Replica, request: _Admin) -> None:
    """Apply a change of any number of peers: none leaves a joint state, several enter one."""
    _require(request, "change_peer_v2")
    changes = request.change_peer_v2.changes
    region = copy_of(replica.region)
    if changes:
        for change in changes:
            _change_one(region, change, enters_joint=len(changes) > 1)
        _grow(region, conf_ver=len(changes))
    else:
        left = [peer for peer in region.peers if peer.role in _JOINT]
        if not left:
            raise ContradictionError("leaves a joint state that the region is not in")
        for peer in left:
            is_incoming = peer.role == metapb_pb2.IncomingVoter
            peer.role = metapb_pb2.Voter if is_incoming else metapb_pb2.Learner
        _grow(region, conf_ver=len(left))
    replica.become(region, _state_without_self(replica, region))


def _change_one(
    region: metapb_pb2.Region, change: raft_cmdpb_pb2.ChangePeerRequest, *, enters_joint: bool
) -> None:
    peer, kind = change.peer, change.change_type
    known = _peer_of(region, peer.store_id)
    if known is not None and known.role in _JOINT:
        raise ContradictionError("changes peers while the region is in a joint state")
    incoming = metapb_pb2.IncomingVoter if enters_joint else metapb_pb2.Voter
    demoting = metapb_pb2.DemotingVoter if enters_joint else metapb_pb2.Learner
    if kind == eraftpb_pb2.RemoveNode:
        if known is not None and enters_joint and known.role == metapb_pb2.Voter:
            raise RejectedError("it removes a voter directly")
        _remove(region, known, peer)
        return
    wanted = metapb_pb2.Voter if kind == eraftpb_pb2.AddNode else metapb_pb2.Learner
    if known is None:
        added = region.peers.add()
        added.CopyFrom(peer)
        added.role = incoming if wanted == metapb_pb2.Voter else metapb_pb2.Learner
    elif known.id != peer.id or known.role == wanted or known.is_witness != peer.is_witness:
        raise RejectedError("it adds a peer that is there")
    else:
        known.role = incoming if wanted == metapb_pb2.Voter else demoting


def _remove(
    region: metapb_pb2.Region, known: metapb_pb2.Peer | None, peer: metapb_pb2.Peer
) -> None:
    if known is None or known != peer:
        raise RejectedError("it removes a peer that is not there")
    region.peers.remove(known)


def _peer_of(region: metapb_pb2.Region, store_id: int) -> metapb_pb2.Peer | None:
    return next((peer for peer in region.peers if peer.store_id == store_id), None)


def _state_without_self(replica: Replica, region: metapb_pb2.Region) -> int:
    """The replica's state: a tombstone once it is not among the peers."""
    return NORMAL if _peer_of(region, replica.store_id) is not None else TOMBSTONE


def split(
    replica: Replica, request: _Admin, exists: Callable[[int], bool]
) -> list[metapb_pb2.Region]:
    """Apply a split; give the new regions, but for those that `exists` says the store knows.

    Raises RejectedError for one that TiKV does not take.
    """
    if request.cmd_type == raft_cmdpb_pb2.Split:
        requests, right_derive = [request.split], request.split.right_derive
    else:
        requests, right_derive = list(request.splits.requests), request.splits.right_derive
    derived = copy_of(replica.region)
    _check_split(requests, derived)
    _grow(derived, version=len(requests))
    keys = [each.split_key for each in requests]
    bounds = [derived.start_key, *keys] if right_derive else [*keys, derived.end_key]
    made = []
    for number, each in enumerate(requests):
        region = metapb_pb2.Region(
            id=each.new_region_id,
            start_key=bounds[number],
            end_key=bounds[number + 1],
            region_epoch=derived.region_epoch,
            peers=derived.peers,
        )
        for peer, peer_id in zip(region.peers, each.new_peer_ids, strict=True):
            peer.id = peer_id
        if not exists(region.id):
            made.append(region)
    if right_derive:
        derived.start_key = keys[-1]
    else:
        derived.end_key = keys[0]
    replica.become(derived)
    return made


def _check_split(requests: list[raft_cmdpb_pb2.SplitRequest], region: metapb_pb2.Region) -> None:
    if not requests:
        raise RejectedError("it splits at no key")
    last_key = region.start_key
    for each in requests:
        if each.split_key <= last_key:
            raise RejectedError("its split keys are not in order")
        if len(each.new_peer_ids) != len(region.peers):
            raise RejectedError("it gives not all new peers an id")
        last_key = each.split_key
    if region.end_key and last_key >= region.end_key:
        raise RejectedError("a split key is not in the region")


def prepare_merge(replica: Replica, request: _Admin, index: int) -> None:
    """Apply the source's part of a merge: from here on it takes no writes."""
    prepare = request.prepare_merge
    if prepare.min_index <= replica.apply_state.truncated_state.index:
        raise ContradictionError("begins a merge that needs entries which are compacted")
    region = copy_of(replica.region)
    _grow(region, version=1, conf_ver=1)
    merge_state = raft_serverpb_pb2.MergeState(min_index=prepare.min_index, commit=index)
    merge_state.target.CopyFrom(prepare.target)
    replica.become(region, MERGING, merge_state)


def commit_merge(
    replica: Replica, source: Replica, merge: raft_cmdpb_pb2.CommitMergeRequest
) -> None:
    """Apply the target's part of a merge, whose source has applied all it had to."""
    told = merge.source
    if source.state != MERGING or source.region != told:
        raise ContradictionError(f"merges region {told.id}, which is not ready for it here")
    region = copy_of(replica.region)
    region.region_epoch.version = max(told.region_epoch.version, region.region_epoch.version)
    _grow(region, version=1)
    if region.end_key and region.end_key == told.start_key:
        region.end_key = told.end_key
    else:
        region.start_key = told.start_key
    merge_state = raft_serverpb_pb2.MergeState()
    merge_state.target.CopyFrom(replica.region)
    source.become(copy_of(told), TOMBSTONE, merge_state)
    replica.become(region)


def rollback_merge(replica: Replica, request: _Admin) -> None:
    """Apply the end of a merge that is not to be."""
    merge_state = replica.merge_state
    told = request.rollback_merge.commit
    if replica.state != MERGING or merge_state is None or merge_state.commit != told:
        raise ContradictionError("ends a merge that the region is not in")
    region = copy_of(replica.region)
    _grow(region, version=1)
    replica.become(region)


def flashback(replica: Replica, request: _Admin) -> None:
    """Apply the beginning or the end of a flashback."""
    region = copy_of(replica.region)
    region.is_in_flashback = request.cmd_type == raft_cmdpb_pb2.PrepareFlashback
    region.flashback_start_ts = request.prepare_flashback.start_ts if region.is_in_flashback else 0
    replica.become(region)


def switch_witnesses(replica: Replica, request: _Admin) -> None:
    """Apply peers' becoming witnesses, or no longer being any: those then wait for their data."""
    _require(request, "switch_witnesses")
    region = copy_of(replica.region)
    own = replica.peer
    state = NORMAL
    switches = request.switch_witnesses.switch_witnesses
    for switch in switches:
        peer = next((peer for peer in region.peers if peer.id == switch.peer_id), None)
        if peer is None or peer.is_witness == switch.is_witness:
            raise RejectedError("it switches a peer that is not there, or is so already")
        peer.is_witness = switch.is_witness
        if own is not None and peer.id == own.id and not switch.is_witness:
            state = UNAVAILABLE
    _grow(region, conf_ver=len(switches))
    replica.become(region, state)


def compact_log(replica: Replica, request: _Admin) -> None:
    """Note what entries the log need not hold any more; a reader needs it for merges alone."""
    compact, truncated = request.compact_log, replica.apply_state.truncated_state
    if (
        truncated.index + 1 < compact.compact_index <= replica.applied
        and replica.state != MERGING
        and compact.compact_term
    ):
        truncated.index, truncated.term = compact.compact_index, compact.compact_term


def _require(request: _Admin, field: str) -> None:
    if not request.HasField(field):
        raise ContradictionError(f"has no {field}")


def _grow(region: metapb_pb2.Region, version: int = 0, conf_ver: int = 0) -> None:
    """Count changes of a region in its epoch."""
    epoch = region.region_epoch
    if epoch.version + version > _MAX or epoch.conf_ver + conf_ver > _MAX:
        raise ContradictionError("makes the region's epoch larger than 64 bits hold")
    epoch.version += version
    epoch.conf_ver += conf_ver
