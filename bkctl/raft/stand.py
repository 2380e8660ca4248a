"""Where each region's replica stands: applied, committed, logged; and whether that fits together.

The kv store has what was applied (`replicas`), the raft log its RaftLocalState and the entries. The
checks are those that TiKV makes at its start; where one fails, it does not start. Source: TiKV's
components/raftstore/src/store/entry_storage.rs.
"""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.errors import CorruptionError
from bkctl.proto import raft_serverpb_pb2
from bkctl.raft.log import RaftLog
from bkctl.raft.region import RAFT_INIT_LOG_INDEX, Replica


@dataclass(frozen=True, slots=True)
class Stand:
    """Indexes and terms of one replica. `commit` is what is known to be committed.

    `last_term` is the last entry's, `term` the peer's own; both are 0 where nothing tells.
    """

    applied: int
    commit: int
    last_index: int
    last_term: int
    term: int
    first_index: int | None = None


def initial_apply_state() -> raft_serverpb_pb2.RaftApplyState:
    """That of a region which a split made."""
    state = raft_serverpb_pb2.RaftApplyState(applied_index=RAFT_INIT_LOG_INDEX)
    state.truncated_state.index = state.truncated_state.term = RAFT_INIT_LOG_INDEX
    return state


def find_stand(replica: Replica, log: RaftLog) -> Stand:
    """Where a replica stands by its kv store and its raft log.

    Raises CorruptionError, in TiKV's words, where the two do not fit together: writes are lost.
    """
    region_id = replica.region.id
    apply_state = replica.apply_state
    raft_state = log.raft_local_state(region_id)
    if raft_state is None:
        if max(apply_state.applied_index, apply_state.commit_index) > RAFT_INIT_LOG_INDEX:
            raise _lost(region_id, f"raft state doesn't exist, at apply index {replica.applied}")
        initial = RAFT_INIT_LOG_INDEX
        return Stand(replica.applied, initial, initial, initial, initial)
    last_index, hard_state = raft_state.last_index, raft_state.hard_state
    commit = hard_state.commit
    if commit < apply_state.commit_index:
        recorded = apply_state.commit_index
        if log.term_of(region_id, recorded) != apply_state.commit_term:
            raise _lost(region_id, f"log at recorded commit index {recorded} doesn't exist")
        commit = recorded
    if commit > last_index:
        raise _lost(region_id, f"commit index {commit} > last index {last_index}")
    if hard_state.term < apply_state.commit_term:
        raise _lost(region_id, "term of raft state < commit term of apply state")
    last_term = _term_at(log, region_id, last_index, apply_state)
    if last_term is None:
        raise _lost(region_id, f"entry at {last_index} doesn't exist")
    applied = replica.applied
    if applied <= last_index and _term_at(log, region_id, applied, apply_state) is None:
        raise _lost(region_id, f"entry at apply index {applied} doesn't exist")
    first = log.first_index(region_id)
    return Stand(applied, commit, last_index, last_term, hard_state.term, first)


def _term_at(
    log: RaftLog, region_id: int, index: int, apply_state: raft_serverpb_pb2.RaftApplyState
) -> int | None:
    """The term of an entry, or of the last one that was compacted; None if nobody knows it."""
    if index == RAFT_INIT_LOG_INDEX:
        return RAFT_INIT_LOG_INDEX
    truncated = apply_state.truncated_state
    if index == truncated.index:
        return truncated.term
    return log.term_of(region_id, index)


def _lost(region_id: int, what: str) -> CorruptionError:
    return CorruptionError(
        f"[region {region_id}] {what}, may lose data: the kv store and the raft log do not fit "
        "together (TiKV refuses to start so); back up another replica, or what the kv store has "
        "with --raft-log ignore"
    )
