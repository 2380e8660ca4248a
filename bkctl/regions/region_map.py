"""A map of regions: sorted, without overlaps, searchable by key; what is wrong in it is kept too.

While regions split and merge, a listing of them overlaps and leaves gaps. Of two regions that
overlap, the one with the higher epoch version has the truth, as in PD: the other is dropped whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter, le, lt
from typing import Literal

from bkctl.regions.region import Peer, Region, RegionEpoch

_start_key = attrgetter("start_key")

Origin = Literal["pd", "store", "none"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A region that is left out, and why; `keys` are its encoded bounds, where they are known."""

    region_id: int
    reason: str
    keys: tuple[bytes, bytes] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Encoded keys [start, end) that no region covers; an empty end is infinity."""

    start_key: bytes
    end_key: bytes


@dataclass(frozen=True, slots=True)
class DroppedRegion:
    """A region that stands in a listing but not in the map made from it, and why."""

    region: Region
    reason: str

    @property
    def skipped(self) -> Skipped:
        """The same without the region's range."""
        return Skipped(self.region.id, self.reason)


@dataclass(frozen=True, slots=True)
class Problems:
    """What is wrong with a map: the regions dropped from it, and the keys it leaves out."""

    overlaps: tuple[Skipped, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class RegionMap:
    """Regions in key order, none overlapping another, and the ones dropped for that.

    `origin` is who made it: PD, the store itself by its records, or nobody.
    """

    regions: tuple[Region, ...]
    dropped: tuple[DroppedRegion, ...] = ()
    origin: Origin = field(default="pd", compare=False)

    @classmethod
    def build(cls, regions: Iterable[Region], origin: Origin = "pd") -> RegionMap:
        """Sort regions by start key and drop what is out of date, in O(n log n).

        The result does not depend on the order given. Of regions with one id, and of regions that
        overlap, the one with the higher epoch version stays (then the higher conf_ver, then the
        higher id); a region whose end is not after its start is dropped.
        """
        ordered = sorted(regions, key=_start_key)
        if _is_sound(ordered):
            return cls(tuple(ordered), origin=origin)
        return cls(*_resolve(ordered), origin)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The dropped regions with the reason for each, in key order."""
        return tuple(dropped.skipped for dropped in self.dropped)

    def seek(self, encoded_key: bytes) -> Iterator[Region]:
        """The regions that end after a key, in key order."""
        numbers = range(self._position(encoded_key), len(self.regions))
        return map(self.regions.__getitem__, numbers)

    def within(self, start_key: bytes, end_key: bytes) -> Iterator[Region]:
        """The regions that share a key with a window of encoded keys, in key order."""
        behind = len(self.regions)
        if end_key:
            behind = bisect_left(self.regions, end_key, key=_start_key)
        return map(self.regions.__getitem__, range(self._position(start_key), behind))

    def _position(self, encoded_key: bytes) -> int:
        """The number of the first region that ends after a key."""
        position = bisect_right(self.regions, encoded_key, key=_start_key)
        if position and is_before_end(encoded_key, self.regions[position - 1].end_key):
            position -= 1
        return position

    def gaps(self, start_key: bytes, end_key: bytes) -> list[Gap]:
        """What of a window of encoded keys no region covers, in order; an empty end is infinity."""
        gaps: list[Gap] = []
        covered_to = start_key
        for region in self.within(start_key, end_key):
            if region.start_key > covered_to:
                gaps.append(Gap(covered_to, region.start_key))
            if not region.end_key:
                return gaps
            covered_to = region.end_key
        if is_before_end(covered_to, end_key):
            gaps.append(Gap(covered_to, end_key))
        return gaps

    def problems(self) -> Problems:
        """What is wrong with the whole map; a sound one has neither overlaps nor gaps."""
        return Problems(self.skipped, tuple(self.gaps(b"", b"")))


def whole_key_space() -> RegionMap:
    """A map of one region without peers over all keys, for stores that have no regions."""
    return RegionMap((Region(1, b"", b"", RegionEpoch(0, 0)),), origin="none")


def is_before_end(key: bytes, end_key: bytes) -> bool:
    """Whether a key lies before an end key, of which an empty one is infinity."""
    return not end_key or key < end_key


def _is_sound(ordered: list[Region]) -> bool:
    """Whether regions sorted by start key have distinct ids and each ends before the next."""
    if len({region.id for region in ordered}) < len(ordered):
        return False
    if not ordered:
        return True
    starts = [region.start_key for region in ordered]
    ends = [region.end_key for region in ordered]
    last_start, last_end = starts[-1], ends.pop()
    return (
        is_before_end(last_start, last_end)
        and all(ends)
        and all(map(lt, starts, ends))
        and all(map(le, ends, starts[1:]))
    )


def _resolve(ordered: list[Region]) -> tuple[tuple[Region, ...], tuple[DroppedRegion, ...]]:
    """The regions to keep of a list sorted by start key, and the dropped ones.

    Regions are taken from the highest precedence down, and each stays unless it meets one that
    stayed. Those are disjoint, so only the last one that starts before a region's end can meet it.
    """
    starts = [region.start_key for region in ordered]
    newest: dict[int, int] = {}
    kept = _PositionSet(len(ordered))
    dropped: list[DroppedRegion] = []
    precedence = [_precedence(region) for region in ordered]
    for position in sorted(range(len(ordered)), key=precedence.__getitem__, reverse=True):
        region = ordered[position]
        if not is_before_end(region.start_key, region.end_key):
            dropped.append(DroppedRegion(region, "its end key is not after its start key"))
            continue
        same = newest.setdefault(region.id, position)
        if same != position:
            dropped.append(DroppedRegion(region, _outdated(region, ordered[same])))
            continue
        behind = bisect_left(starts, region.end_key) if region.end_key else len(ordered)
        last = kept.last_before(behind)
        if last is not None and is_before_end(region.start_key, ordered[last].end_key):
            dropped.append(DroppedRegion(region, _overlapped(region, ordered[last])))
            continue
        kept.add(position)
    dropped.sort(key=lambda lost: (lost.region.start_key, _precedence(lost.region)))
    return tuple(ordered[position] for position in kept), tuple(dropped)


_Precedence = tuple[
    int, int, int, bytes, bytes, tuple[Peer, ...], tuple[Peer, ...], tuple[int, int]
]


def _precedence(region: Region) -> _Precedence:
    """What ranks regions that overlap; all fields, so that no two differing regions are equal."""
    size, keys = region.approximate_size, region.approximate_keys
    return (
        region.epoch.version,
        region.epoch.conf_ver,
        region.id,
        region.start_key,
        region.end_key,
        (region.leader,) if region.leader else (),
        tuple(region.peers),
        (-1 if size is None else size, -1 if keys is None else keys),
    )


def _overlapped(region: Region, winner: Region) -> str:
    return (
        f"overlapped by region {winner.id} (epoch {winner.epoch}); its own epoch is {region.epoch}"
    )


def _outdated(region: Region, newest: Region) -> str:
    return (
        f"listed twice: region {newest.id} counts with epoch {newest.epoch}; "
        f"this entry's epoch is {region.epoch}"
    )


class _PositionSet:
    """A set of positions that finds the nearest one before another in two steps.

    Bits in blocks, and one bit a block that has any: adding to a sorted list would cost O(n) each.
    """

    __slots__ = ("_blocks", "_used")

    _SHIFT = 10
    _MASK = (1 << _SHIFT) - 1

    def __init__(self, size: int) -> None:
        self._blocks = [0] * ((size >> self._SHIFT) + 1)
        self._used = 0

    def add(self, position: int) -> None:
        block = position >> self._SHIFT
        self._blocks[block] |= 1 << (position & self._MASK)
        self._used |= 1 << block

    def last_before(self, position: int) -> int | None:
        block = position >> self._SHIFT
        bits = self._blocks[block] & ((1 << (position & self._MASK)) - 1)
        if not bits:
            used = self._used & ((1 << block) - 1)
            if not used:
                return None
            block = used.bit_length() - 1
            bits = self._blocks[block]
        return (block << self._SHIFT) + bits.bit_length() - 1

    def __iter__(self) -> Iterator[int]:
        for block, bits in enumerate(self._blocks):
            while bits:
                lowest = bits & -bits
                yield (block << self._SHIFT) + lowest.bit_length() - 1
                bits ^= lowest
