"""The regions a store holds, by its own records: RegionLocalState in the `raft` family.

    key    01 03 | region id (8, BE) | 01
    value  protobuf RegionLocalState {1: state, 2: Region}
    Region {1: id, 2: start_key, 3: end_key, 4: epoch {1: conf_ver, 2: version}, 5: repeated Peer}
    Peer   {1: id, 2: store_id, 3: role, 4: is_witness}

Numbers are varints, keys and messages length-delimited; unknown fields are skipped. Source:
kvproto's raft_serverpb.proto and metapb.proto, TiKV's components/keys. A store knows its own
regions; it does not record who leads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from bkctl.codec.varint import decode_uvarint, encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.regions.region import ROLES, Peer, Region, RegionEpoch
from bkctl.regions.region_map import Skipped

_KEY_PREFIX = b"\x01\x03"
_KEY_SUFFIX = b"\x01"
_ID_SIZE = 8
_KEY_SIZE = len(_KEY_PREFIX) + _ID_SIZE + len(_KEY_SUFFIX)

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


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
        state, region = _parse_record(region_id, value)
        reason = _WITHOUT_DATA.get(state)
        peer = None if store_id is None else region.peer_on(store_id)
        if reason is None and peer is not None and peer.is_witness:
            reason = "witness: holds no data"
        if reason is None:
            regions.append(region)
        else:
            skipped.append(Skipped(region_id, reason))
    return LocalRegions(regions, skipped)


def _parse_record(region_id: int, value: bytes) -> tuple[PeerState, Region]:
    try:
        state, region = parse_region_local_state(value)
        if region.id != region_id:
            raise CorruptionError(f"it is of region {region.id}")
    except CorruptionError as e:
        raise CorruptionError(
            f"the store's record of region {region_id} (raft family, key "
            f"{region_state_key(region_id).hex().upper()}) is damaged: {e}; "
            "use a region map from PD instead"
        ) from None
    return state, region


def parse_region_local_state(value: bytes) -> tuple[PeerState, Region]:
    """Read a RegionLocalState; CorruptionError for anything cut, contradictory or unknown."""
    state = 0
    region: Region | None = None
    for number, field in _fields(value):
        if number == 1:
            state = _number(field, "state")
        elif number == 2:
            region = _parse_region(_message(field, "region"))
    if region is None:
        raise CorruptionError("no region in it")
    try:
        return PeerState(state), region
    except ValueError:
        raise CorruptionError(f"unknown state {state}") from None


def encode_region_local_state(state: PeerState, region: Region) -> bytes:
    """The RegionLocalState of a region as TiKV writes it: without a leader and sizes."""
    epoch = _encode_number(1, region.epoch.conf_ver) + _encode_number(2, region.epoch.version)
    body = _encode_number(1, region.id)
    body += _encode_key(2, region.start_key) + _encode_key(3, region.end_key)
    body += _encode_message(4, epoch)
    for peer in region.peers:
        body += _encode_message(
            5,
            _encode_number(1, peer.id)
            + _encode_number(2, peer.store_id)
            + _encode_number(3, ROLES.index(peer.role))
            + _encode_number(4, int(peer.is_witness)),
        )
    return _encode_number(1, state) + _encode_message(2, body)


def _parse_region(message: bytes) -> Region:
    region_id = 0
    start_key = end_key = b""
    epoch = RegionEpoch(0, 0)
    peers: list[Peer] = []
    for number, field in _fields(message):
        if number == 1:
            region_id = _number(field, "region id")
        elif number == 2:
            start_key = _message(field, "start_key")
        elif number == 3:
            end_key = _message(field, "end_key")
        elif number == 4:
            epoch = _parse_epoch(_message(field, "epoch"))
        elif number == 5:
            peers.append(_parse_peer(_message(field, "peer")))
    if region_id == 0:
        raise CorruptionError("its region has no id")
    if end_key and start_key >= end_key:
        raise CorruptionError("end_key is not after start_key")
    return Region(region_id, start_key, end_key, epoch, tuple(peers))


def _parse_epoch(message: bytes) -> RegionEpoch:
    conf_ver = version = 0
    for number, field in _fields(message):
        if number == 1:
            conf_ver = _number(field, "conf_ver")
        elif number == 2:
            version = _number(field, "version")
    return RegionEpoch(conf_ver, version)


def _parse_peer(message: bytes) -> Peer:
    peer_id = store_id = role = 0
    is_witness = False
    for number, field in _fields(message):
        if number == 1:
            peer_id = _number(field, "peer id")
        elif number == 2:
            store_id = _number(field, "store_id")
        elif number == 3:
            role = _number(field, "role")
        elif number == 4:
            is_witness = bool(_number(field, "is_witness"))
    if role >= len(ROLES):
        raise CorruptionError(f"unknown role {role} of peer {peer_id}")
    return Peer(peer_id, store_id, ROLES[role], is_witness)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: (number, varint or bytes); CorruptionError if cut.

    Fields of fixed size are passed over: none of these records has any.
    """
    pos = 0
    while pos < len(message):
        tag, pos = decode_uvarint(message, pos)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise CorruptionError("a field has the number 0")
        if wire_type == _VARINT:
            varint, pos = decode_uvarint(message, pos)
            yield number, varint
            continue
        if wire_type == _LENGTH_DELIMITED:
            size, pos = decode_uvarint(message, pos)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise CorruptionError(f"field {number} has the unknown wire type {wire_type}")
        if size > len(message) - pos:
            raise CorruptionError(f"field {number} is cut short")
        if wire_type == _LENGTH_DELIMITED:
            yield number, message[pos : pos + size]
        pos += size


def _number(field: int | bytes, name: str) -> int:
    if isinstance(field, int):
        return field
    raise CorruptionError(f"{name} is no number")


def _message(field: int | bytes, name: str) -> bytes:
    if isinstance(field, bytes):
        return field
    raise CorruptionError(f"{name} is a number")


def _encode_number(number: int, value: int) -> bytes:
    return encode_uvarint(number << 3 | _VARINT) + encode_uvarint(value) if value else b""


def _encode_message(number: int, message: bytes) -> bytes:
    return encode_uvarint(number << 3 | _LENGTH_DELIMITED) + encode_uvarint(len(message)) + message


def _encode_key(number: int, key: bytes) -> bytes:
    return _encode_message(number, key) if key else b""
