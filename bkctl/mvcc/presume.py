"""What has to become of a transaction that nobody can end any more: its cluster is dead.

All that can ever be known of it is there. A transaction without a commit record of its primary was
not committed, but for one kind: of an async commit, the primary's lock names all other keys, and if
each of them is locked it counts as committed, at the latest of their min_commit_ts.
Source: TiKV's check_txn_status, check_secondary_locks; client-go's resolveAsyncCommitLock.
"""

from __future__ import annotations

from collections.abc import Callable

from bkctl.mvcc.keys import TS_SIZE, versioned_key
from bkctl.mvcc.lock import PESSIMISTIC, Lock, parse_lock
from bkctl.store.scan import Records

Home = Callable[[bytes], Records | None]
"""The store whose replica counts for a raw user key; None if none is known to have all of it."""
End = tuple[int | None]
"""(commit_ts,), or (None,) for one that is rolled back."""
FindEnd = Callable[[bytes, int], End | None]
"""What a record of (raw user key, start_ts) says, on any store; None if there is none."""


def presume_end(primary: bytes, start_ts: int, home: Home, find_end: FindEnd) -> End | None:
    """The end of a transaction whose primary has no record; None where a key's store is missing."""
    is_known, lock = _lock_of(primary, start_ts, home)
    if not is_known:
        return None
    if lock is None or lock.lock_type == PESSIMISTIC or not lock.use_async_commit:
        return (None,)
    commit_ts = lock.min_commit_ts
    for secondary in lock.secondaries:
        end = find_end(secondary, start_ts)
        if end is not None:
            return end
        is_known, own = _lock_of(secondary, start_ts, home)
        if not is_known:
            return None
        if own is None or own.lock_type == PESSIMISTIC or not own.use_async_commit:
            return (None,)
        commit_ts = max(commit_ts, own.min_commit_ts)
    return (commit_ts,)


def _lock_of(raw_key: bytes, start_ts: int, home: Home) -> tuple[bool, Lock | None]:
    """(whether it can be known, the transaction's lock on a key)."""
    database = home(raw_key)
    if database is None:
        return False, None
    value = database.get("lock", versioned_key(raw_key, 0)[:-TS_SIZE])
    lock = None if value is None else parse_lock(value)
    return True, lock if lock is not None and lock.start_ts == start_ts else None
