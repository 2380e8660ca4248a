"""The regions a store holds, by its own records: RegionLocalState in the `raft` family.

    key    01 03 | region id (8, BE) | 01
    value  protobuf RegionLocalState (bkctl/proto/raft_serverpb.proto)

Source: kvproto, TiKV's components/keys. A store knows its own regions; it does not record who
leads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from bkctl.errors import CorruptionError
from bkctl.proto import metapb_pb2, raft_serverpb_pb2
from bkctl.proto.strict import parse
from bkctl.regions.region import ROLES, Peer, Region, RegionEpoch
from bkctl.regions.region_map import Skipped

_KEY_PREFIX = b"\x01\x03"
_KEY_SUFFIX = b"\x01"
_ID_SIZE = 8
_KEY_SIZE = len(_KEY_PREFIX) + _ID_SIZE + len(_KEY_SUFFIX)


class PeerState(IntEnum):
    """What a store is doing with its peer of a region (raft_serverpb.PeerState)."""

    NORMAL = 0
    APPLYING = 1
    TOMBSTONE = 2
    MERGING = 3
    UNAVAILABLE = 4


_WITHOUT_DATA = {
    PeerState.TOMBSTONE: "tombstone",
    PeerState.APPLYING: "applying a snapshot: its data is not whole on this store",
    PeerState.UNAVAILABLE: "unavailable: waits for its data",
}


@dataclass(frozen=True, slots=True)
class LocalRegions:
    """The regions whose data a store holds, and those it has a record of but no data for."""

    regions: list[Region]
    skipped: list[Skipped]


def region_state_key(region_id: int) -> bytes:
    """The key of a region's RegionLocalState in the `raft` family."""
    return _KEY_PREFIX + region_id.to_bytes(_ID_SIZE, "big") + _KEY_SUFFIX


def parse_region_state_key(key: bytes) -> int | None:
    """The region id in the key of a RegionLocalState; None for any other key."""
    if len(key) != _KEY_SIZE or not (key.startswith(_KEY_PREFIX) and key.endswith(_KEY_SUFFIX)):
        return None
    return int.from_bytes(key[len(_KEY_PREFIX) : -len(_KEY_SUFFIX)], "big")


def load_regions(records: Iterable[tuple[bytes, bytes]], store_id: int | None) -> LocalRegions:
    """The regions in the records (key, value) of a store's `raft` family; other keys are ignored.

    Skipped are tombstones, regions without their whole data (a snapshot under way), and, where
    `store_id` is given, those in which this store is a witness. Leaders are not known. Raises
    CorruptionError naming the region whose record is damaged.
    """
    regions: list[Region] = []
    skipped: list[Skipped] = []
    for key, value in records:
        region_id = parse_region_state_key(key)
        if region_id is None:
            continue
        state, region = parse_region_record(region_id, value)
        reason = _WITHOUT_DATA.get(state)
        peer = None if store_id is None else region.peer_on(store_id)
        if reason is None and peer is not None and peer.is_witness:
            reason = "witness: holds no data"
        if reason is None:
            regions.append(region)
        else:
            skipped.append(Skipped(region_id, reason, (region.start_key, region.end_key)))
    return LocalRegions(regions, skipped)


def parse_region_record(region_id: int, value: bytes) -> tuple[PeerState, Region]:
    """Read the record of a region; CorruptionError, naming it, for one that is damaged."""
    try:
        state, region = parse_region_local_state(value)
        if region.id != region_id:
            raise CorruptionError(f"it is of region {region.id}")
    except CorruptionError as e:
        raise CorruptionError(
            f"the store's record of region {region_id} (raft family, key "
            f"{region_state_key(region_id).hex().upper()}) is damaged: {e}"
        ) from None
    return state, region


def parse_region_local_state(value: bytes) -> tuple[PeerState, Region]:
    """Read a RegionLocalState; CorruptionError for anything cut, contradictory or unknown."""
    record = parse(raft_serverpb_pb2.RegionLocalState, value)
    if not record.HasField("region"):
        raise CorruptionError("no region in it")
    region = _read_region(record.region)
    try:
        return PeerState(record.state), region
    except ValueError:
        raise CorruptionError(f"unknown state {record.state}") from None


def encode_region_local_state(state: PeerState, region: Region) -> bytes:
    """The RegionLocalState of a region as TiKV writes it: without a leader and sizes."""
    record = raft_serverpb_pb2.RegionLocalState()
    # An enum's value as a number is what its field takes, which the stubs do not say.
    record.state = state.value  # type: ignore[assignment]
    record.region.id = region.id
    record.region.start_key = region.start_key
    record.region.end_key = region.end_key
    record.region.region_epoch.conf_ver = region.epoch.conf_ver
    record.region.region_epoch.version = region.epoch.version
    for peer in region.peers:
        record.region.peers.add(
            id=peer.id, store_id=peer.store_id, role=peer.role, is_witness=peer.is_witness
        )
    return record.SerializeToString(deterministic=True)


def _read_region(message: metapb_pb2.Region) -> Region:
    if message.id == 0:
        raise CorruptionError("its region has no id")
    if message.end_key and message.start_key >= message.end_key:
        raise CorruptionError("end_key is not after start_key")
    epoch = RegionEpoch(message.region_epoch.conf_ver, message.region_epoch.version)
    peers = tuple(_read_peer(peer) for peer in message.peers)
    return Region(message.id, message.start_key, message.end_key, epoch, peers)


def _read_peer(message: metapb_pb2.Peer) -> Peer:
    if message.role >= len(ROLES):
        raise CorruptionError(f"unknown role {message.role} of peer {message.id}")
    return Peer(message.id, message.store_id, ROLES[message.role], message.is_witness)
