"""Which keys a chain is whole for: what each of its backups covered, put together.

    full      covers A B     whole for A B
    incr 1    covers A       whole for A; of B, changes are missing: what is there of it is stale
    incr 2    covers A B*    whole for A B; B was taken in full again, and replaces what was before

A key that is taken from a timestamp on is whole only if the backup before ends there and is whole
for it. Backups that do not say what they covered, br's for one, count as covering what they were
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bkctl.archive.coverage import (
    ALL_KEYS,
    NO_KEYS,
    CoveredKeys,
    KeyRange,
    KeySet,
    UncoveredKeys,
)
from bkctl.archive.meta import BackupMeta
from bkctl.archive.report import Report
from bkctl.repository.catalog import open_backup
from bkctl.repository.summary import BackupSummary
from bkctl.storage.base import Storage

_OWN_WRITER = "bkctl "


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One backup of a chain: what it covered, and what it was asked for.

    With `may_lack` nobody knows that it has all of that: regions were taken from a minority.
    """

    name: str
    covered: tuple[CoveredKeys, ...]
    window: KeySet
    uncovered: tuple[UncoveredKeys, ...] = ()
    may_lack: bool = False

    @property
    def keys(self) -> KeySet:
        """All keys that it covered."""
        return KeySet.of(each.keys for each in self.covered)

    @property
    def in_full(self) -> KeySet:
        """The keys that it covered in full."""
        return KeySet.of(each.keys for each in self.covered if not each.start_ts)


@dataclass(frozen=True, slots=True)
class Hole:
    """Keys of which a chain has something, and is not whole: `lacking` left them out.

    `other` is a backup that has files of them: an older one, out of date by now, or a later one,
    which has changes and not what they change. `what` names the keys, and why they were left out.
    """

    keys: KeySet
    lacking: str
    other: str
    what: str

    def __str__(self) -> str:
        return f"backup {self.lacking} left out {self.what}, of which {self.other} has files"


@dataclass(frozen=True, slots=True)
class ChainCoverage:
    """What a chain is whole for at its end.

    `usable` is, for each backup, for which keys its files count; `holes` what the chain has
    something of and is not whole for; `uncovered` what it was asked for and never had.
    """

    whole: KeySet
    usable: tuple[KeySet, ...]
    holes: tuple[Hole, ...]
    uncovered: KeySet


def link_of(
    name: str, meta: BackupMeta, report: Report | None, window: KeyRange | None
) -> ChainLink:
    """What a backup says, or what tells, of the keys that it covered."""
    asked = ALL_KEYS if window is None else KeySet.of([window])
    start_ts = meta.start_version
    if report is not None and report.covered is not None:
        covered = report.covered
    elif report is None and meta.br_version.startswith(_OWN_WRITER) and not start_ts:
        # Its report is lost. What the files reach over is sure.
        covered = tuple(CoveredKeys(KeyRange(f.start_key, f.end_key), 0) for f in meta.files)
    else:
        left_out = KeySet.of(report.gaps) if report is not None else NO_KEYS
        covered = tuple(CoveredKeys(keys, start_ts) for keys in (asked - left_out).ranges)
    uncovered = () if report is None else report.uncovered
    may_lack = report is not None and bool(report.minority)
    return ChainLink(name, covered, asked, uncovered, may_lack)


def chain_coverage(links: Sequence[ChainLink]) -> ChainCoverage:
    """Put together what the backups of a chain, oldest first, covered."""
    whole = known = NO_KEYS
    before: ChainLink | None = None
    holes: list[Hole] = []
    for link in links:
        since = link.keys - link.in_full
        if before is None:
            since, baseless = NO_KEYS, since
        else:
            baseless = since - known
            if gone := whole - link.keys:
                holes.append(_hole(gone, link, before))
        if baseless:
            holes.append(_hole(baseless, before or link, link))
        whole = link.in_full | (since & whole)
        known = known | link.keys
        before = link
    holes = [replace(each, keys=left) for each in holes if (left := each.keys - whole)]
    usable = [whole] * len(links)
    taken_again = NO_KEYS
    for number in range(len(links) - 1, -1, -1):
        usable[number] = whole - taken_again
        taken_again = taken_again | links[number].in_full
    asked = links[-1].window if links else NO_KEYS
    return ChainCoverage(whole, tuple(usable), tuple(holes), asked - known)


def _hole(keys: KeySet, lacking: ChainLink, other: ChainLink) -> Hole:
    for each in lacking.uncovered:
        if KeySet((each.keys,)) & keys:
            what = f"region {each.region_id}" if each.region_id else f"keys {_shown(each.keys)}"
            return Hole(keys, lacking.name, other.name, f"{what} ({each.reason})")
    return Hole(keys, lacking.name, other.name, f"keys {_shown(keys.ranges[0])}")


def _shown(keys: KeyRange) -> str:
    return f"{keys.start_key.hex().upper()} to {keys.end_key.hex().upper() or 'the end'}"


def read_links(storage: Storage, chain: Iterable[BackupSummary]) -> list[ChainLink]:
    """Read what the backups of a chain say of the keys they covered.

    Raises UsageError or CorruptionError where one cannot be read, StorageError.
    """
    links = []
    for backup in chain:
        backup_dir = open_backup(storage, backup.name)
        meta, report = backup_dir.read_meta(), backup_dir.read_report()
        links.append(link_of(backup.name, meta, report, backup.facts.window))
    return links
