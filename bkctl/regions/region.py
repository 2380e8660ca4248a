"""What a region is: a range of keys that one Raft group keeps, as PD and the stores describe it."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("Voter", "Learner", "IncomingVoter", "DemotingVoter")
"""The names of a peer's roles, by their numbers in metapb.PeerRole."""


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """A region's replica on a store; a witness votes but holds no data."""

    id: int
    store_id: int
    role: str = "Voter"
    is_witness: bool = False


@dataclass(frozen=True, slots=True)
class RegionEpoch:
    """`conf_ver` counts changes of peers, `version` splits and merges: changes of the range."""

    conf_ver: int
    version: int

    def __str__(self) -> str:
        return f"version {self.version}, conf_ver {self.conf_ver}"


@dataclass(frozen=True, slots=True)
class Region:
    """A region as its map has it.

    `start_key` and `end_key` bound it as [start, end), an empty end being infinity. They are
    encoded keys without the `z`: memcomparable in a transactional store, plain in a raw V1 store.
    `leader` is None where it is not known. `approximate_size` is in MiB, as in PD's JSON.
    """

    id: int
    start_key: bytes
    end_key: bytes
    epoch: RegionEpoch
    peers: tuple[Peer, ...] = ()
    leader: Peer | None = None
    approximate_size: int | None = None
    approximate_keys: int | None = None

    def peer_on(self, store_id: int) -> Peer | None:
        """This region's peer on a store, or None."""
        return next((peer for peer in self.peers if peer.store_id == store_id), None)


def is_same(region: Region, other: Region) -> bool:
    """Whether two records are of one region in one state, whoever leads it and however large."""
    return (region.id, region.start_key, region.end_key, region.epoch) == (
        other.id,
        other.start_key,
        other.end_key,
        other.epoch,
    )
