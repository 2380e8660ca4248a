"""What keys a plan covers, and what of the request it does not.

Bounds are joined as they are encoded, which keeps their order, and only then decoded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from msgspec import structs

from bkctl.archive.coverage import CoveredKeys, KeyRange, KeySet, UncoveredKeys
from bkctl.archive.report import RangeError
from bkctl.backup.share import share_out
from bkctl.codec.memcomparable import encode
from bkctl.errors import CorruptionError
from bkctl.regions.check import NOT_LEADER, REGION_NOT_FOUND
from bkctl.regions.plan import BackupRange, Plan, to_raw_key

_GAP = "no region of the map covers them"
_ELSEWHERE = ("leader is on store", "applying", "unavailable", "witness")


@dataclass(frozen=True, slots=True)
class Cover:
    """The keys that a backup covers, and those it was asked for and does not."""

    covered: tuple[CoveredKeys, ...]
    uncovered: tuple[UncoveredKeys, ...]


def cover_of(plan: Plan, window: KeyRange, start_ts: int, is_raw: bool) -> Cover:
    """What a plan for a window of raw user keys covers, from `start_ts` on or in full."""
    ranges = (*plan.ranges, *plan.unchanged)
    whole = _keys_of(brange for brange in ranges if brange.takes_all or not start_ts)
    since = _keys_of(brange for brange in ranges if start_ts and not brange.takes_all)
    covered = [
        *(CoveredKeys(_raw(keys, is_raw), 0) for keys in whole.ranges),
        *(CoveredKeys(_raw(keys, is_raw), start_ts) for keys in since.ranges),
    ]
    left = KeySet.of([_encoded(window, is_raw)]) - whole - since
    covered.sort(key=lambda each: each.keys.start_key)
    return Cover(tuple(covered), tuple(_explain(plan, left, is_raw)))


def errors_of(uncovered: Iterable[UncoveredKeys]) -> tuple[RangeError, ...]:
    """What is not covered, as errors of TiKV's kinds."""
    return tuple(
        RangeError(
            each.region_id,
            each.keys.start_key,
            each.keys.end_key,
            NOT_LEADER if each.reason.startswith(_ELSEWHERE) else REGION_NOT_FOUND,
            f"not covered: {each.reason}",
        )
        for each in uncovered
    )


def split_by(plan: Plan, base: KeySet, is_raw: bool) -> Plan:
    """The plan, its ranges cut at the bounds of `base`; what lies outside it is taken in full."""
    known = [_encoded(keys, is_raw) for keys in base.ranges]
    starts = [keys.start_key for keys in known]
    ranges: list[BackupRange] = []
    for brange in plan.ranges:
        own = KeySet.of([KeyRange(brange.start_key, brange.end_key)])
        first = max(0, bisect_right(starts, brange.start_key) - 1)
        behind = bisect_left(starts, brange.end_key) if brange.end_key else len(starts)
        near = KeySet(tuple(known[first:behind]))
        parts = [(keys, False) for keys in (own & near).ranges]
        parts += [(keys, True) for keys in (own - near).ranges]
        ranges += (
            structs.replace(
                brange, start_key=keys.start_key, end_key=keys.end_key, takes_all=takes_all
            )
            for keys, takes_all in sorted(parts, key=lambda part: part[0].start_key)
        )
    return replace(plan, ranges=tuple(ranges))


def _keys_of(ranges: Iterable[BackupRange]) -> KeySet:
    return KeySet.of(KeyRange(brange.start_key, brange.end_key) for brange in ranges)


def _explain(plan: Plan, left: KeySet, is_raw: bool) -> Iterator[UncoveredKeys]:
    """Say of what is not covered which region it is of, where the plan knows one."""
    told = [each for each in plan.skipped if each.keys is not None]
    found: list[UncoveredKeys] = []
    for keys, number in share_out(left, [KeyRange(*each.keys) for each in told if each.keys]):
        try:
            raw = _raw(keys, is_raw)
        except CorruptionError:
            continue  # of a map of the other mode, which planning has refused
        found.append(UncoveredKeys(raw, told[number].region_id, told[number].reason))
    left -= KeySet.of(KeyRange(*each.keys) for each in told if each.keys)
    found += (UncoveredKeys(_raw(keys, is_raw), 0, _GAP) for keys in left.ranges)
    yield from sorted(found, key=lambda each: each.keys.start_key)


def _raw(keys: KeyRange, is_raw: bool) -> KeyRange:
    return KeyRange(to_raw_key(keys.start_key, is_raw), to_raw_key(keys.end_key, is_raw))


def _encoded(keys: KeyRange, is_raw: bool) -> KeyRange:
    if is_raw:
        return keys
    return KeyRange(*(key and encode(key) for key in (keys.start_key, keys.end_key)))
