"""Decides locks where the stores are on many machines: before their ranges are read, and once.

What decides a lock may be on any of them. So the coordinator lists the locks that are in the way
and asks the stores for what their transactions came to, as a worker asks the views at hand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from bkctl.backup.parts import by_view, span_of
from bkctl.executor.remote import RemoteSource
from bkctl.mvcc.decide import LockDecider
from bkctl.mvcc.keys import decode_data_key
from bkctl.mvcc.lock import DecidedLock, parse_lock
from bkctl.mvcc.presume import Home
from bkctl.regions.plan import BackupRange
from bkctl.store.scan import Records


class Decisions:
    """Locks that are decided, by the views that they lie in."""

    def __init__(self, decided: Iterable[tuple[int, DecidedLock]]) -> None:
        self._by_view: dict[int, list[DecidedLock]] = {}
        for view, lock in decided:
            self._by_view.setdefault(view, []).append(lock)
        for own in self._by_view.values():
            own.sort(key=lambda lock: lock.key)

    def within(self, ranges: Iterable[BackupRange]) -> tuple[DecidedLock, ...]:
        """Those that lie in ranges."""
        found: list[DecidedLock] = []
        for brange in ranges:
            own, end = self._by_view.get(brange.view, []), brange.raw_end_key
            first = bisect_left(own, brange.raw_start_key, key=lambda lock: lock.key)
            last = bisect_left(own, end, key=lambda lock: lock.key) if end else len(own)
            found += own[first:last]
        return tuple(found)


def decide_locks(
    sources: Sequence[RemoteSource],
    ranges: Sequence[BackupRange],
    end_ts: int,
    routes: Sequence[BackupRange] | None,
) -> Decisions:
    """Decide the locks that block a snapshot in ranges; those that nobody can are left out.

    `routes` are where keys count, in a dead cluster (`bkctl.mvcc.presume`).
    """
    stores: list[Records] = [_Store(source) for source in sources]
    decider = LockDecider(lambda: stores, None if routes is None else _home(routes, stores))
    decided = []
    for view, own in enumerate(by_view(ranges, len(sources))):
        if not own:
            continue
        for data_key, value in sources[view].blocking_locks(list(map(span_of, own)), end_ts):
            found = decider.decide(decode_data_key(data_key), parse_lock(value))
            if found is not None:
                decided.append((view, found))
    return Decisions(decided)


def _home(routes: Sequence[BackupRange], stores: Sequence[Records]) -> Home:
    ordered = sorted(routes, key=lambda brange: brange.raw_start_key)
    starts = [brange.raw_start_key for brange in ordered]

    def home(raw_key: bytes) -> Records | None:
        number = bisect_left(starts, raw_key + b"\0") - 1
        if number < 0 or ((end := ordered[number].raw_end_key) and raw_key >= end):
            return None
        return stores[ordered[number].view]

    return home


class _Store:
    """A store of another machine, as far as locks are decided by it."""

    def __init__(self, source: RemoteSource) -> None:
        self._source = source

    def get(self, family: str, key: bytes) -> bytes | None:
        """See Records."""
        found = self._source.records(family, key, key + b"\0")
        return found[0][1] if found else None

    def scan(
        self, family: str, lower: bytes, upper: bytes, *, readahead: int | None = None
    ) -> _Taken:
        """See Records."""
        return _Taken(iter(self._source.records(family, lower, upper)))


class _Taken:
    """See Takes."""

    def __init__(self, records: Iterator[tuple[bytes, bytes]]) -> None:
        self._records = records

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """See Takes."""
        return list(islice(self._records, count))
