"""The plan of a backup: which part of which region is read, in key order.

`Progress.forward` hands the ranges out a few at a time, as TiKV's backup endpoint does; a plan is
all of them at once, with what is left out and why.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from bkctl.codec import memcomparable
from bkctl.errors import CorruptionError, RegionMapError, UsageError
from bkctl.regions.collector import collector_paused
from bkctl.regions.region import Region
from bkctl.regions.region_map import Gap, RegionMap, Skipped, is_before_end

_DATA_PREFIX = b"z"
_DATA_END = b"{"
_BATCH = 1024


class BackupRange(msgspec.Struct, frozen=True, gc=False):
    """The part [start, end) of a region that a backup reads.

    `start_key` and `end_key` are encoded keys as the region map has them; an empty one is no
    bound. Made by `Progress.forward`, which has checked that they decode. With `takes_all`, an
    incremental backup reads it in full: what it builds on does not have it. `view` is the number of
    the store that it is read from, where there are several. `as_of` tells, in a part of a backup,
    what state of the region's replica is read (`bkctl.fleet.state`).
    """

    region: Region
    start_key: bytes
    end_key: bytes
    is_raw: bool
    takes_all: bool = False
    view: int = 0
    as_of: tuple[int, ...] = ()

    @property
    def raw_start_key(self) -> bytes:
        """The range's start as a raw user key; empty for no bound."""
        return to_raw_key(self.start_key, self.is_raw)

    @property
    def raw_end_key(self) -> bytes:
        """The range's end as a raw user key; empty for no bound."""
        return to_raw_key(self.end_key, self.is_raw)

    @property
    def data_start_key(self) -> bytes:
        """Where the range begins in the store's data keys."""
        return _DATA_PREFIX + self.start_key

    @property
    def data_end_key(self) -> bytes:
        """Where the range ends in the store's data keys; never empty."""
        return _DATA_PREFIX + self.end_key if self.end_key else _DATA_END


@dataclass(frozen=True, slots=True)
class Plan:
    """A backup's ranges in key order, the regions left out of its window, and the window's gaps.

    A gap is what no region of the map covers; a region that is skipped because another store
    leads it is none. `unchanged` are ranges that need not be read.
    """

    ranges: tuple[BackupRange, ...]
    skipped: tuple[Skipped, ...]
    gaps: tuple[Gap, ...]
    unchanged: tuple[BackupRange, ...] = ()


class Progress:
    """Walks the regions of a window that this store is to back up, in key order.

    A region counts unless its leader is on another store; where the leader is not known, it
    counts unless it lists peers and none with data is on this store. With `store_id` None every
    region counts. `start_key` and `end_key` are raw user keys, an empty one being no bound;
    UsageError if they hold nothing between them.
    """

    def __init__(
        self,
        store_id: int | None,
        start_key: bytes,
        end_key: bytes,
        region_map: RegionMap,
        is_raw: bool,
    ) -> None:
        if end_key and end_key <= start_key:
            raise UsageError(
                f"the end key {end_key.hex().upper()} is not after the start key "
                f"{start_key.hex().upper()}; ranges are [start, end)"
            )
        self._store_id = store_id
        self._next_start = _to_encoded_key(start_key, is_raw)
        self._end_key = _to_encoded_key(end_key, is_raw)
        self._region_map = region_map
        self._is_raw = is_raw
        self._finished = False
        self._checked_end: bytes | None = None

    @property
    def finished(self) -> bool:
        """Whether all ranges have been handed out."""
        return self._finished

    def forward(self, limit: int) -> list[BackupRange]:
        """The next ranges, at most `limit` (1 or more) of them; none when there are no more.

        Raises RegionMapError for a region whose keys are not those of the mode.
        """
        if self._finished:
            return []
        ranges: list[BackupRange] = []
        for region in self._region_map.within(self._next_start, self._end_key):
            if _reason_to_skip(region, self._store_id) is None:
                ranges.append(self._clip(region))
                if len(ranges) >= limit:
                    break
        if not ranges:
            self._finished = True
            return ranges
        last = ranges[-1]
        self._finished = not last.region.end_key or last.end_key == self._end_key
        self._next_start = last.end_key
        return ranges

    def _clip(self, region: Region) -> BackupRange:
        """The part of a region that lies in what is left of the window."""
        # Where the region before ends is checked, and mostly where this one begins.
        _check_keys(region, self._is_raw, self._checked_end)
        self._checked_end = region.end_key
        start_key = max(self._next_start, region.start_key)
        is_cut = is_before_end(self._end_key, region.end_key)
        end_key = self._end_key if self._end_key and is_cut else region.end_key
        return BackupRange(region, start_key, end_key, self._is_raw)


def make_plan(
    store_id: int | None, start_key: bytes, end_key: bytes, region_map: RegionMap, is_raw: bool
) -> Plan:
    """Plan the backup of a window of raw user keys; parameters as for `Progress`.

    Raises UsageError for a window that holds nothing, and RegionMapError if a region in the
    window has keys that are not those of the mode: a backup of this plan meets neither.
    """
    progress = Progress(store_id, start_key, end_key, region_map, is_raw)
    first, end = _to_encoded_key(start_key, is_raw), _to_encoded_key(end_key, is_raw)
    ranges: list[BackupRange] = []
    with collector_paused():
        while not progress.finished:
            ranges += progress.forward(_BATCH)
        skipped = _left_out(region_map, first, end, store_id, is_raw)
        return Plan(tuple(ranges), tuple(skipped), tuple(region_map.gaps(first, end)))


def _left_out(
    region_map: RegionMap, first: bytes, end: bytes, store_id: int | None, is_raw: bool
) -> list[Skipped]:
    """The regions of a window that are not read, in key order."""
    skipped: list[tuple[bytes, Skipped]] = []
    checked: bytes | None = None
    # Without a store, none is another's.
    for region in () if store_id is None else region_map.within(first, end):
        reason = _reason_to_skip(region, store_id)
        if reason is not None:
            # Its keys bound gaps, so they must decode too.
            _check_keys(region, is_raw, checked)
            checked = region.end_key
            keys = region.start_key, region.end_key
            skipped.append((region.start_key, Skipped(region.id, reason, keys)))
    for dropped in region_map.dropped:
        lost = dropped.region
        if is_before_end(first, lost.end_key) and is_before_end(lost.start_key, end):
            skipped.append((lost.start_key, dropped.skipped))
    skipped.sort(key=lambda entry: entry[0])
    return [entry for _, entry in skipped]


def with_raw_keys(
    ranges: Iterable[BackupRange],
) -> Iterator[tuple[BackupRange, bytes, bytes]]:
    """Ranges, each with its raw start and end key; a key that two share is decoded once."""
    encoded_key = raw_key = b""
    for brange in ranges:
        raw_start = raw_key if brange.start_key == encoded_key else brange.raw_start_key
        encoded_key, raw_key = brange.end_key, brange.raw_end_key
        yield brange, raw_start, raw_key


def to_raw_key(encoded_key: bytes, is_raw: bool) -> bytes:
    """The raw user key of a bound in a region map, empty for an empty one.

    Raises CorruptionError if it does not decode; the keys in a `Plan` do.
    """
    return encoded_key if is_raw or not encoded_key else memcomparable.decode(encoded_key)


def to_data_bounds(start_key: bytes, end_key: bytes, is_raw: bool) -> tuple[bytes, bytes]:
    """[start, end) in data keys of bounds that are raw user keys, empty ones being no bound."""
    end = _to_encoded_key(end_key, is_raw)
    return _DATA_PREFIX + _to_encoded_key(
        start_key, is_raw
    ), _DATA_PREFIX + end if end else _DATA_END


def _to_encoded_key(raw_key: bytes, is_raw: bool) -> bytes:
    return raw_key if is_raw or not raw_key else memcomparable.encode(raw_key)


def _reason_to_skip(region: Region, store_id: int | None) -> str | None:
    """Why a region is not this store's to back up; None if it is."""
    if store_id is None:
        return None
    if region.leader is not None:
        leader_store = region.leader.store_id
        return None if leader_store == store_id else _led_elsewhere(leader_store)
    if not region.peers:
        return None
    peer = region.peer_on(store_id)
    if peer is None:
        return f"no peer on store {store_id}"
    return "witness: holds no data" if peer.is_witness else None


@functools.lru_cache(maxsize=1 << 12)
def _led_elsewhere(leader_store: int) -> str:
    # One text for each store, not for each region.
    return f"leader is on store {leader_store}"


def _check_keys(region: Region, is_raw: bool, checked: bytes | None = None) -> None:
    """Raise RegionMapError unless both keys of a region are those of the mode.

    A start key that is `checked` already is not looked at.
    """
    if region.start_key != checked:
        _check_key(region.id, "start_key", region.start_key, is_raw)
    raw_end_key = _check_key(region.id, "end_key", region.end_key, is_raw)
    if region.end_key and not raw_end_key:
        # Decoded it would read as infinity.
        raise RegionMapError(
            f"region map: region {region.id}: end_key is the encoded empty key, before which "
            "nothing can lie; remove the region from the map"
        )


def _check_key(region_id: int, field: str, encoded_key: bytes, is_raw: bool) -> bytes:
    """The raw key; RegionMapError if there is none."""
    try:
        return to_raw_key(encoded_key, is_raw)
    except CorruptionError as e:
        raise RegionMapError(
            f"region map: region {region_id}: {field} {e}; use --raw if the map is of a raw store, "
            "otherwise fetch the map anew"
        ) from None
