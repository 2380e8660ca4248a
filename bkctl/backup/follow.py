"""Where an incremental backup goes on: behind the newest complete backup of the same data.

The same data is the same store of the same cluster, in transactional mode, limited to the same
keys. Anything else in the repository is no base, and is not quietly passed over when there is
nothing that is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.archive.coverage import ALL_KEYS, KeyRange, KeySet
from bkctl.codec.tso import format_ts, physical_ms
from bkctl.errors import UsageError
from bkctl.repository.catalog import Catalog, read_catalog
from bkctl.repository.coverage import chain_coverage, read_links
from bkctl.repository.summary import BackupState, BackupSummary
from bkctl.storage.base import NotFoundError, Storage


@dataclass(frozen=True, slots=True)
class Subject:
    """What is backed up: a store of a cluster (0 where unknown), limited to raw user keys.

    `mode` is txn or raw.
    """

    store_id: int
    cluster_id: int
    window: KeyRange
    mode: str = "txn"


@dataclass(frozen=True, slots=True)
class Base:
    """Where to begin: after the backup `name`, or at 0 with none; `note` says why, for people.

    `whole` are the raw user keys that the backup's chain is whole for.
    """

    start_ts: int
    name: str
    note: str
    whole: KeySet = ALL_KEYS


def find_base(
    storage: Storage, subject: Subject, end_ts: int, full_every: int | None = None
) -> Base:
    """Find what an incremental backup up to `end_ts` builds on.

    There is none where the repository is empty, or where the chain's full backup is `full_every`
    seconds old. Raises UsageError where there are backups but none of this data, or where the
    newest does not end before `end_ts`.
    """
    catalog = _read_catalog(storage)
    complete = [backup for backup in catalog.backups if backup.is_complete]
    if not complete:
        return Base(0, "", "a full backup, as there is none yet to build on")
    found = catalog.chains.newest(
        lambda backup: _difference(backup, subject) is None and not catalog.chains.is_orphan(backup)
    )
    if found is None:
        raise _no_base(storage, complete, subject)
    found_end = found.facts.end_ts or 0
    if found_end >= end_ts:
        raise UsageError(
            f"{storage.url}: backup {found.name} ends at {found_end} ({format_ts(found_end)}) "
            f"already, not before --end-ts {end_ts} ({format_ts(end_ts)}); nothing is left to do"
        )
    root = catalog.chains.chain_of(found)[0]
    age = (physical_ms(end_ts) - physical_ms(root.facts.end_ts or 0)) / 1000
    if full_every is not None and age >= full_every:
        return Base(0, "", f"a full backup, as the last one, {root.name}, is old enough")
    links = read_links(storage, catalog.chains.chain_of(found))
    if lacking := next((link.name for link in links if link.may_lack), None):
        # What it lacks was committed before it: no incremental backup brings that.
        return Base(0, "", f"a full backup, as {lacking} took regions from a minority of voters")
    whole = chain_coverage(links).whole
    if not whole & KeySet.of([subject.window]):
        return Base(0, "", f"a full backup, as {found.name} covers none of these keys")
    return Base(found_end, found.name, f"builds on {found.name}", whole)


def find_unfinished(storage: Storage, subject: Subject, start_ts: int) -> BackupSummary | None:
    """The backup of this data from `start_ts` on that was begun last and not finished."""
    unfinished = [
        backup
        for backup in _read_catalog(storage).backups
        if backup.state is BackupState.UNFINISHED
        and backup.claim is not None
        and not backup.claim.is_parted
        and (backup.claim.mode, backup.claim.start_ts) == (subject.mode, start_ts)
        and backup.claim.end_ts is not None
        and (backup.claim.store_id, backup.claim.cluster_id, backup.claim.window)
        == (subject.store_id, subject.cluster_id, subject.window)
    ]
    return max(unfinished, key=_begun, default=None)


def _read_catalog(storage: Storage) -> Catalog:
    try:
        return read_catalog(storage)
    except NotFoundError:
        return Catalog.of(storage.url, ())  # the first backup will make the place


def _begun(backup: BackupSummary) -> tuple[str, str]:
    return backup.claim.started_at if backup.claim else "", backup.name


def check_gc_safe_point(safe_point: int | None, start_ts: int, end_ts: int) -> None:
    """Raise UsageError where garbage collection may have taken versions that the backup needs."""
    if safe_point is None:
        return
    shown = f"the GC safe point {safe_point} ({format_ts(safe_point)})"
    if start_ts and safe_point > start_ts:
        raise UsageError(
            f"{shown} lies after the start {start_ts} ({format_ts(start_ts)}): deletes and "
            "versions since then may be gone, and a chain would miss them; take a full backup "
            "(--start-ts 0), and back up more often or raise tidb_gc_life_time"
        )
    if safe_point > end_ts:
        raise UsageError(
            f"{shown} lies after --end-ts {end_ts} ({format_ts(end_ts)}): versions as of then may "
            "be gone; give a later --end-ts"
        )


def _difference(backup: BackupSummary, subject: Subject) -> str | None:
    """What makes a backup no base for this data; None if nothing does."""
    facts = backup.facts
    if facts.mode != subject.mode:
        return "holds raw data" if facts.mode == "raw" else "holds transactional data"
    if (facts.store_id or 0) != subject.store_id or (facts.cluster_id or 0) != subject.cluster_id:
        return (
            f"is of store {facts.store_id or '?'} of cluster {facts.cluster_id or '?'}, and this "
            f"is store {subject.store_id} of cluster {subject.cluster_id}"
        )
    if facts.window is None:
        return "does not say which keys it was limited to"
    if facts.window != subject.window:
        return f"is limited to {_shown(facts.window)}, and this one to {_shown(subject.window)}"
    return None


def _no_base(storage: Storage, complete: list[BackupSummary], subject: Subject) -> UsageError:
    newest = max(complete, key=lambda backup: (backup.facts.end_ts or 0, backup.name))
    what = _difference(newest, subject) or "misses the backup it builds on itself"
    return UsageError(
        f"{storage.url}: holds no backup that this one could build on: {newest.name} {what}; "
        "begin a chain with a full backup (--start-ts 0), or give another --storage"
    )


def _shown(window: KeyRange) -> str:
    if not window.start_key and not window.end_key:
        return "no keys in particular"
    return f"[{window.start_key.hex().upper()}, {window.end_key.hex().upper()})"
