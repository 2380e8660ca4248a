"""Reads many of PD's regions at once, as PD prints them today.

msgspec makes values of them and checks their types in a third of the time that Python takes for
the JSON alone, and there may be a million. What is not all right, or is told in another way, is
for `bkctl.regions.pd` to read one by one: that knows older forms, and says what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated

import msgspec

from bkctl.regions.region import ROLES, Peer, Peers, Region, RegionEpoch

MAX_U64 = (1 << 64) - 1
_ROLE_NUMBERS = {role: number for number, role in enumerate(ROLES)}
_Id = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Peer(msgspec.Struct, gc=False):
    id: _Id
    store_id: _Id
    role_name: str | None = None
    role: int | None = None
    is_witness: bool | None = None
    is_learner: bool | None = None


class _Leader(msgspec.Struct, gc=False):
    id: _Count = 0
    store_id: _Count = 0
    role_name: str | None = None
    role: int | None = None
    is_witness: bool | None = None
    is_learner: bool | None = None


class _Epoch(msgspec.Struct, gc=False):
    conf_ver: _Count
    version: _Count


class _Entry(msgspec.Struct, gc=False):
    id: _Id
    start_key: str
    end_key: str
    epoch: _Epoch
    peers: list[_Peer] | None = None
    leader: _Leader | None = None
    approximate_size: _Count | None = None
    approximate_keys: _Count | None = None


class Unusual(Exception):
    """Something in some of the regions is not as PD prints it, or not all right."""


class FastReader:
    """Makes regions of their JSON.

    What regions have in common is made once: epochs, and keys where one ends and the next begins.
    """

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(list[_Entry]).decode
        self._epochs: dict[tuple[int, int], RegionEpoch] = {}
        self._last_key = b""

    def read(self, text: str) -> list[Region]:
        """The regions of a JSON list; Unusual if any of them has to be looked at."""
        try:
            return list(self._regions(self._decode(text)))
        except (msgspec.MsgspecError, struct.error, ValueError, KeyError, RecursionError):
            raise Unusual from None

    def _regions(self, entries: list[_Entry]) -> Iterator[Region]:
        # What is too large a number for 64 bits, `pack` refuses.
        pack, key, epoch_of = Peers.ENTRY.pack, self._key, self._epoch
        for entry in entries:
            region_id, leader = entry.id, entry.leader
            start_key, end_key = key(entry.start_key), key(entry.end_key)
            size, keys = entry.approximate_size, entry.approximate_keys
            if (
                (end_key and start_key >= end_key)
                or region_id > MAX_U64
                or (size is not None and size > MAX_U64)
                or (keys is not None and keys > MAX_U64)
            ):
                raise Unusual
            packed = [pack(peer.id, peer.store_id, _flags(peer)) for peer in entry.peers or ()]
            led_by: Peer | None = None
            if leader is not None and (leader.id or leader.store_id):
                pack(leader.id, leader.store_id, 0)
                if not (leader.id and leader.store_id):
                    raise Unusual
                led_by = Peers.peer_of(leader.id, leader.store_id, _flags(leader))
            yield Region(
                *(region_id, start_key, end_key, epoch_of(entry.epoch)),
                *(Peers(b"".join(packed)), led_by, size, keys),
            )

    def _key(self, text: str) -> bytes:
        key = bytes.fromhex(text)
        # It lets spaces pass.
        if 2 * len(key) != len(text):
            raise Unusual
        # In a map in order, regions begin where the ones before them end.
        if key == self._last_key:
            return self._last_key
        self._last_key = key
        return key

    def _epoch(self, entry: _Epoch) -> RegionEpoch:
        pair = entry.conf_ver, entry.version
        epoch = self._epochs.get(pair)
        if epoch is None:
            if max(pair) > MAX_U64:
                raise Unusual
            epoch = self._epochs[pair] = RegionEpoch(*pair)
        return epoch


def _flags(peer: _Peer | _Leader) -> int:
    """The role and whether it is a witness, as `Peers.ENTRY` has them."""
    if peer.role_name is not None:
        flags = _ROLE_NUMBERS[peer.role_name]
    elif peer.role is not None and 0 <= peer.role < len(ROLES):
        flags = peer.role
    elif peer.role is None and peer.is_learner is None:
        flags = 0
    else:
        raise Unusual
    return flags | Peers.WITNESS if peer.is_witness else flags
