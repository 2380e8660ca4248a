"""What a region is: a range of keys that one Raft group keeps, as PD and the stores describe it.

msgspec makes these values in a quarter of the time that dataclasses take: there may be millions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

ROLES = ("Voter", "Learner", "IncomingVoter", "DemotingVoter")
"""The names of a peer's roles, by their numbers in metapb.PeerRole."""


class Peer(msgspec.Struct, frozen=True, order=True, gc=False):
    """A region's replica on a store; a witness votes but holds no data."""

    id: int
    store_id: int
    role: str = "Voter"
    is_witness: bool = False


class Peers(Sequence[Peer]):
    """Peers that are made when they are asked for; equal to the tuple of them.

    A million regions have three million peers, of which hardly one is looked at: packed they take
    a quarter of the memory, and of the time to make them.
    """

    __slots__ = ("_packed",)

    ENTRY = struct.Struct("<QQB")
    """id | store id | the role's number, 0x80 for a witness"""
    WITNESS = 0x80

    def __init__(self, packed: bytes) -> None:
        """Peers of their entries, one after the other."""
        self._packed = packed

    @classmethod
    def of(cls, peers: Iterable[Peer]) -> Peers:
        """The same peers, packed."""
        return cls(
            b"".join(
                cls.ENTRY.pack(
                    peer.id,
                    peer.store_id,
                    ROLES.index(peer.role) | (cls.WITNESS if peer.is_witness else 0),
                )
                for peer in peers
            )
        )

    @classmethod
    def peer_of(cls, peer_id: int, store_id: int, flags: int) -> Peer:
        """The peer of an entry's fields."""
        return Peer(peer_id, store_id, ROLES[flags & ~cls.WITNESS], flags & cls.WITNESS != 0)

    def __iter__(self) -> Iterator[Peer]:
        for fields in self.ENTRY.iter_unpack(self._packed):
            yield self.peer_of(*fields)

    def __len__(self) -> int:
        return len(self._packed) // self.ENTRY.size

    @overload
    def __getitem__(self, index: int) -> Peer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Peer, ...]: ...
    def __getitem__(self, index: int | slice) -> Peer | tuple[Peer, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Peers):
            return self._packed == other._packed
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


class RegionEpoch(msgspec.Struct, frozen=True, gc=False):
    """`conf_ver` counts changes of peers, `version` splits and merges: changes of the range."""

    conf_ver: int
    version: int

    def __str__(self) -> str:
        return f"version {self.version}, conf_ver {self.conf_ver}"


class Region(msgspec.Struct, frozen=True, gc=False):
    """A region as its map has it.

    `start_key` and `end_key` bound it as [start, end), an empty end being infinity. They are
    encoded keys without the `z`: memcomparable in a transactional store, plain in a raw V1 store.
    `leader` is None where it is not known. `approximate_size` is in MiB, as in PD's JSON.
    """

    id: int
    start_key: bytes
    end_key: bytes
    epoch: RegionEpoch
    peers: Sequence[Peer] = ()
    leader: Peer | None = None
    approximate_size: int | None = None
    approximate_keys: int | None = None

    def peer_on(self, store_id: int) -> Peer | None:
        """This region's peer on a store, or None."""
        return next((peer for peer in self.peers if peer.store_id == store_id), None)
