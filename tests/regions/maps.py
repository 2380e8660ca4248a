"""Regions and maps of them for the tests of this folder."""

from hypothesis import strategies as st

from bkctl.codec.memcomparable import encode
from bkctl.regions.region import Peer, Region, RegionEpoch

ON_STORE_1 = Peer(11, 1)
ON_STORE_4 = Peer(14, 4)


def region(
    region_id: int,
    start_key: bytes,
    end_key: bytes,
    *,
    version: int = 1,
    conf_ver: int = 1,
    peers: tuple[Peer, ...] = (),
    leader: Peer | None = None,
) -> Region:
    """A region whose keys stand in the map as they are given."""
    return Region(region_id, start_key, end_key, RegionEpoch(conf_ver, version), peers, leader)


def txn_region(
    region_id: int,
    raw_start_key: bytes,
    raw_end_key: bytes,
    *,
    version: int = 1,
    peers: tuple[Peer, ...] = (ON_STORE_1,),
    leader: Peer | None = ON_STORE_1,
) -> Region:
    """A region of a transactional store, given raw keys, led by store 1 unless told otherwise."""
    return region(
        region_id,
        encode(raw_start_key) if raw_start_key else b"",
        encode(raw_end_key) if raw_end_key else b"",
        version=version,
        peers=peers,
        leader=leader,
    )


_BOUNDS = st.binary(max_size=2)


@st.composite
def any_region(draw: st.DrawFn) -> Region:
    """A raw-mode region with few distinct ids, keys and epochs, so that lists of them collide."""
    start_key, end_key = sorted((draw(_BOUNDS), draw(_BOUNDS)))
    if start_key == end_key or draw(st.integers(0, 9)) == 0:
        end_key = b""
    return region(
        draw(st.integers(1, 12)),
        start_key,
        end_key,
        version=draw(st.integers(1, 4)),
        conf_ver=draw(st.integers(1, 2)),
        peers=draw(st.sampled_from([(), (ON_STORE_1,), (ON_STORE_4,), (ON_STORE_1, ON_STORE_4)])),
        leader=draw(st.sampled_from([None, ON_STORE_1, ON_STORE_4])),
    )


REGION_LISTS = st.lists(any_region(), max_size=14)
"""Lists of regions as a splitting and merging cluster might print them, and worse."""
