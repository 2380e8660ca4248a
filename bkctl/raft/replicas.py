"""The replicas of a kv store, by the records it keeps of them in its `raft` family.

    01 02 | region id (8, BE) | 03    RaftApplyState: applied and commit index, what was compacted
    01 03 | region id (8, BE) | 01    RegionLocalState: the region, and what its peer here is doing

Source: TiKV's components/keys. Regions that raft never ran for have no RaftApplyState.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bkctl.errors import CorruptionError
from bkctl.proto import raft_serverpb_pb2
from bkctl.proto.strict import parse
from bkctl.raft.kv import KvStore
from bkctl.raft.region import RAFT_INIT_LOG_INDEX, Replica
from bkctl.raft.stand import initial_apply_state

RAFT = "raft"
"""The column family."""

APPLY_START, APPLY_END = b"\x01\x02", b"\x01\x03"
"""Where all RaftApplyStates are."""

_STATE_START, _STATE_END = b"\x01\x03", b"\x01\x04"
_APPLY_SUFFIX, _STATE_SUFFIX = b"\x03", b"\x01"
_KEY_SIZE = 11


def apply_state_key(region_id: int) -> bytes:
    """The key of a region's RaftApplyState."""
    return APPLY_START + region_id.to_bytes(8, "big") + _APPLY_SUFFIX


def region_state_key(region_id: int) -> bytes:
    """The key of a region's RegionLocalState."""
    return _STATE_START + region_id.to_bytes(8, "big") + _STATE_SUFFIX


def was_applied(records: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a raft log was ever applied, by all records from APPLY_START to APPLY_END."""
    applied = [
        _parse_apply_state(int.from_bytes(key[2:10], "big"), value).applied_index
        for key, value in records
        if len(key) == _KEY_SIZE and key.endswith(_APPLY_SUFFIX)
    ]
    return max(applied, default=0) > RAFT_INIT_LOG_INDEX


class Replicas:
    """A store's replicas as they stand in its kv store, and those that splits have made since."""

    def __init__(self, kv: KvStore, store_id: int) -> None:
        """Read which there are; CorruptionError for records that are damaged.

        `applied` is each one's applied index, by the region's id.
        """
        self._kv, self._store_id = kv, store_id
        self.applied = {
            region_id: _parse_apply_state(region_id, value).applied_index
            for region_id, value in self._records(APPLY_START, APPLY_END, _APPLY_SUFFIX)
        }
        self._ids = {r for r, _ in self._records(_STATE_START, _STATE_END, _STATE_SUFFIX)}
        self._made: dict[int, Replica] = {}
        self._fresh: list[Replica] = []

    def at_first(self) -> Iterator[Replica]:
        """All that were there at first, one in memory at a time, by their region's id."""
        applied = self._records(APPLY_START, APPLY_END, _APPLY_SUFFIX)
        region_id, apply_state = next(applied, (0, b""))
        for own_id, state in self._records(_STATE_START, _STATE_END, _STATE_SUFFIX):
            while region_id and region_id < own_id:
                region_id, apply_state = next(applied, (0, b""))
            yield self._replica(own_id, state, apply_state if region_id == own_id else None)

    def has(self, region_id: int) -> bool:
        """Whether the store has a record of the region, be it of one that is gone."""
        return region_id in self._ids

    def load(self, region_id: int) -> Replica | None:
        """One of those that were there at first, or that a split has made; or None."""
        if region_id in self._made:
            return self._made[region_id]
        state_key, apply_key = region_state_key(region_id), apply_state_key(region_id)
        state = next(self._kv.records(RAFT, state_key, state_key + b"\0"), None)
        if state is None:
            return None
        apply_state = next(self._kv.records(RAFT, apply_key, apply_key + b"\0"), None)
        return self._replica(region_id, state[1], None if apply_state is None else apply_state[1])

    def add(self, replica: Replica) -> None:
        """Take in one that a split has made."""
        self._ids.add(replica.region.id)
        self._made[replica.region.id] = replica
        self._fresh.append(replica)

    @property
    def has_made(self) -> bool:
        """Whether there are any that `made` would give."""
        return bool(self._fresh)

    def made(self) -> list[Replica]:
        """Those taken in since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def write(self, replica: Replica) -> None:
        """Put one that has changed into the kv store, as it is now."""
        region_id = replica.region.id
        if replica.is_changed:
            state = replica.local_state().SerializeToString(deterministic=True)
            self._kv.put(RAFT, region_state_key(region_id), state)
        apply_state = replica.apply_state
        apply_state.applied_index = replica.applied
        self._kv.put(
            RAFT, apply_state_key(region_id), apply_state.SerializeToString(deterministic=True)
        )

    def _records(self, start: bytes, end: bytes, suffix: bytes) -> Iterator[tuple[int, bytes]]:
        """(region id, value) of the records of one kind, in order."""
        for key, value in self._kv.records(RAFT, start, end):
            if len(key) == _KEY_SIZE and key.endswith(suffix):
                yield int.from_bytes(key[2:10], "big"), value

    def _replica(self, region_id: int, state: bytes, apply_state: bytes | None) -> Replica:
        try:
            record = parse(raft_serverpb_pb2.RegionLocalState, state)
            if record.region.id != region_id:
                raise CorruptionError(f"it is of region {record.region.id}")
        except CorruptionError as e:
            key = region_state_key(region_id).hex().upper()
            raise CorruptionError(
                f"the store's record of region {region_id} (raft family, key {key}) is damaged: {e}"
            ) from None
        replica = Replica(record.region, self._store_id, record.state)
        if record.HasField("merge_state"):
            replica.merge_state = record.merge_state
        replica.apply_state = (
            initial_apply_state()
            if apply_state is None
            else _parse_apply_state(region_id, apply_state)
        )
        replica.applied = replica.apply_state.applied_index
        return replica


def _parse_apply_state(region_id: int, value: bytes) -> raft_serverpb_pb2.RaftApplyState:
    try:
        return parse(raft_serverpb_pb2.RaftApplyState, value)
    except CorruptionError as e:
        key = apply_state_key(region_id).hex().upper()
        raise CorruptionError(
            f"the store's record of what region {region_id} has applied (raft family, key {key}) "
            f"is damaged: {e}"
        ) from None
