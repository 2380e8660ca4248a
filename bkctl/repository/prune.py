"""Prune: removes backups that retention does not keep, and what dead runs left.

A folder of the repository is one of these:

    a backup             `retention` decides
    a damaged one        stays, and is told of: its backupmeta cannot be read
    a leftover           claimed by a run that did not finish; goes when it is old enough, as until
                         then the run may be taken up again
    half deleted         by a prune that was cut off; goes
    anything else        is not ours and stays

What goes is removed youngest first, and of each backup its backupmeta first: wherever a prune is
cut off, all that looks like a backup is one, with all that it builds on. The next prune ends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from bkctl import interrupts
from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.names import META_NAME, PARTS_FOLDER
from bkctl.errors import UsageError
from bkctl.repository.catalog import read_catalog
from bkctl.repository.retention import Policy, Verdict, judge
from bkctl.repository.summary import BackupState, BackupSummary
from bkctl.storage.base import Storage

DEFAULT_LEFTOVERS_AFTER = 7 * 86400
_PART_LOCK = re.compile(rf"/{PARTS_FOLDER}/store-[0-9]+\.lock$")
_AT_WORK = 600


class Kind(str, Enum):
    """What a folder is, to prune."""

    BACKUP = "backup"
    DAMAGED = "damaged"
    LEFTOVER = "leftover"
    HALF_DELETED = "half deleted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one folder, and why.

    `objects` and `size` (bytes) are what its removal frees; of what stays, the files of a backup.
    """

    backup: BackupSummary
    kind: Kind
    is_kept: bool
    reasons: tuple[str, ...]
    objects: int
    size: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.backup.name


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What is to become of all folders, backups first, oldest first; `url` may be shown."""

    url: str
    decisions: tuple[Decision, ...]

    @property
    def removals(self) -> tuple[Decision, ...]:
        """What is to go, in the order of removal."""
        return tuple(decision for decision in reversed(self.decisions) if not decision.is_kept)

    def of(self, *kinds: Kind) -> tuple[Decision, ...]:
        """The decisions over these kinds."""
        return tuple(decision for decision in self.decisions if decision.kind in kinds)


def plan_prune(storage: Storage, policy: Policy, leftovers_after: int, now: float) -> PrunePlan:
    """Decide what is to go; changes nothing.

    Unfinished runs go when nothing was written there for `leftovers_after` seconds before `now`
    (unix seconds). Raises UsageError for an empty policy, and where the URL is a single backup.
    """
    if policy.is_empty:
        raise UsageError("nothing says what to keep; give --keep-last or another --keep option")
    if storage.stat(META_NAME) is not None:
        raise UsageError(f"{storage.url}: is a single backup and no repository; nothing to prune")
    catalog = read_catalog(storage)
    others = [
        _judge_unfinished(storage, backup, leftovers_after, now)
        for backup in catalog.backups
        if backup.state is BackupState.UNFINISHED
    ]
    staying = [
        decision.backup
        for decision in others
        if decision.kind is Kind.LEFTOVER and decision.is_kept
    ]
    verdicts = judge(catalog.chains, policy, staying)
    backups = [_decide(storage, verdict) for verdict in verdicts]
    return PrunePlan(catalog.url, (*backups, *others))


def _decide(storage: Storage, verdict: Verdict) -> Decision:
    backup = verdict.backup
    kind = Kind.BACKUP if backup.is_complete else Kind.DAMAGED
    if verdict.is_kept:
        facts = backup.facts
        return Decision(backup, kind, True, verdict.reasons, facts.files, facts.size)
    objects = BackupDir(storage, backup.name).list_files()
    size = sum(info.size for info in objects)
    return Decision(backup, kind, False, ("no rule keeps it",), len(objects), size)


def _judge_unfinished(
    storage: Storage, backup: BackupSummary, leftovers_after: int, now: float
) -> Decision:
    objects = BackupDir(storage, backup.name).list_files()
    kind, is_kept, why = _what_is_unfinished(backup)
    if kind is Kind.LEFTOVER:
        age = now - max((info.modified for info in objects), default=0.0)
        # Runs that take parts do not hold the repository's lock, but give signs of life in theirs.
        is_at_work = any(_PART_LOCK.search(info.name) for info in objects)
        is_kept = age < (max(leftovers_after, _AT_WORK) if is_at_work else leftovers_after)
        why = "can be resumed, goes when it is older" if is_kept else "nobody resumed it"
        if backup.claimed_by:
            why = f"begun by {backup.claimed_by}; {why}"
    return Decision(backup, kind, is_kept, (why,), len(objects), sum(info.size for info in objects))


def _what_is_unfinished(backup: BackupSummary) -> tuple[Kind, bool, str]:
    if backup.claim is None:
        return Kind.OTHER, True, "no backup of bkctl's or br's; never touched"
    if backup.claim.is_deleted:
        return Kind.HALF_DELETED, False, "its deletion was cut off"
    return Kind.LEFTOVER, True, ""


def carry_out(storage: Storage, plan: PrunePlan, check: Callable[[], None]) -> Iterator[Decision]:
    """Remove what is to go, giving each when it is gone.

    `check` is called before each, to raise if this run may not go on. What runs left that is no
    object, such as temporary files and unfinished uploads, goes too, but not from folders that are
    not ours. Once there is nothing else to remove, signals change nothing. Raises StorageError
    where the storage fails; the rest can be removed later.
    """
    for decision in plan.removals:
        check()
        BackupDir(storage, decision.name).delete()
        yield decision
    # All that was to go is gone, and the rest is tidying up.
    interrupts.settle()
    check()
    storage.discard_staging("")
    for decision in plan.decisions:
        if decision.is_kept and (decision.kind is not Kind.OTHER or not decision.objects):
            storage.discard_staging(decision.name)
