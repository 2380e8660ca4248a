"""What a merge starts from: a chain whose descriptions are whole, and what it covers.

Nothing is merged that would come out as less than a full backup: every backup of the chain must
be one of bkctl's, be described soundly, and have covered the keys that the others have files of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.coverage import ALL_KEYS, NO_KEYS, KeyRange, KeySet
from bkctl.archive.encryption import check_key
from bkctl.archive.meta import BackupMeta
from bkctl.archive.names import META_NAME
from bkctl.archive.report import Report
from bkctl.backup.changes import UNCHANGED
from bkctl.errors import UsageError
from bkctl.merge.plan import LayeredFile, MergeRange, plan_ranges
from bkctl.regions.region_map import Skipped
from bkctl.repository.catalog import open_backup, read_catalog
from bkctl.repository.coverage import ChainLink, chain_coverage, link_of
from bkctl.repository.summary import BackupSummary
from bkctl.restore.files import plan_parts
from bkctl.storage.base import Storage
from bkctl.verify.backup import check_description
from bkctl.verify.file import DEFAULT, WRITE, Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

_OWN_WRITER = "bkctl "


@dataclass(frozen=True, slots=True)
class MergeChain:
    """The backups to merge, oldest first, their files and the ranges to make of them.

    With `findings` there are no ranges. `whole` are the keys that the chain is whole for, `holes`
    say of which others it has something. `gaps` and `skipped` are what any of the backups left out.
    """

    backups: tuple[BackupSummary, ...]
    files: tuple[LayeredFile, ...]
    ranges: tuple[MergeRange, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[KeyRange, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    api_version: int = 0
    whole: KeySet = NO_KEYS
    holes: tuple[str, ...] = ()
    uncovered: KeySet = NO_KEYS

    @property
    def names(self) -> tuple[str, ...]:
        """The backups' names."""
        return tuple(backup.name for backup in self.backups)

    @property
    def last(self) -> BackupSummary:
        """The newest backup, as of whose end the merged one will be."""
        return self.backups[-1]

    @property
    def window(self) -> KeySet:
        """The keys that the chain was asked for."""
        window = self.last.facts.window
        return ALL_KEYS if window is None else KeySet.of([window])

    @property
    def size(self) -> int:
        """The stored bytes of all files."""
        return sum(file.planned.file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class _Link:
    """One backup of the chain with its description."""

    backup_dir: BackupDir
    meta: BackupMeta
    report: Report | None
    coverage: ChainLink


def read_chain(
    storage: Storage, name: str | None, cipher: Cipher | None = None, *, allow_gaps: bool = False
) -> MergeChain:
    """Read the chain that ends with the backup `name` (`latest`, the default: the newest).

    `cipher` is for encrypted files. `allow_gaps` takes what a chain is whole for, though it has
    more. A single full backup is a chain of one. Damage is in the
    findings. Raises UsageError for what cannot be merged, StorageError where the repository fails.
    """
    backups = read_catalog(storage).resolve(name)
    if backups[0].facts.mode == "raw":
        raise UsageError(
            f"{storage.url}: backup {backups[0].name} is a raw one, which is whole by itself; "
            "only chains of full and incremental backups can be merged"
        )
    links: list[_Link] = []
    findings: list[Finding] = []
    for backup in backups:
        backup_dir = open_backup(storage, backup.name)
        description = check_description(backup_dir)
        meta = description.meta
        if meta is not None:
            _check_usable(backup_dir, meta, cipher)
            report = description.report
            window = backup.facts.window
            links.append(
                _Link(backup_dir, meta, report, link_of(backup.name, meta, report, window))
            )
        findings += _relevant(backup.name, meta, description.findings)
    if findings:
        return MergeChain(tuple(backups), (), (), tuple(findings))
    coverage = chain_coverage([link.coverage for link in links])
    holes = tuple(map(str, coverage.holes))
    if holes and not allow_gaps:
        raise UsageError(
            f"{storage.url}: {holes[0]}: merged they would not be a full backup; take a full "
            "backup instead, or merge with --allow-gaps, without those keys"
        )
    files = list(_layered(links, coverage.usable))
    findings += _check_families(files)
    reports = [link.report for link in links if link.report is not None]
    return MergeChain(
        tuple(backups),
        tuple(files),
        () if findings else tuple(plan_ranges(files)),
        tuple(findings),
        tuple(dict.fromkeys(gap for report in reports for gap in report.gaps)),
        tuple(
            {
                skip.region_id: skip
                for report in reports
                for skip in report.skipped
                if not skip.reason.startswith(UNCHANGED)
            }.values()
        ),
        links[-1].meta.api_version,
        coverage.whole,
        holes,
        coverage.uncovered,
    )


def _check_usable(backup_dir: BackupDir, meta: BackupMeta, cipher: Cipher | None) -> None:
    if not meta.br_version.startswith(_OWN_WRITER):
        raise UsageError(
            f"{backup_dir.where} was not made by bkctl; merged, it would lose the table schemas "
            "that br keeps beside the data; restore the chain instead"
        )
    check_key(backup_dir, meta.files, cipher)


def _relevant(name: str, meta: BackupMeta | None, findings: Sequence[Finding]) -> Iterator[Finding]:
    """What is wrong with a backup and its files; what lies beside them does not matter."""
    relevant = {META_NAME, *(file.name for file in meta.files)} if meta else {META_NAME}
    for finding in findings:
        if finding.file in relevant:
            yield Finding(f"{name}/{finding.file}", finding.offset, finding.what)


def _layered(links: Sequence[_Link], usable: Sequence[KeySet]) -> Iterator[LayeredFile]:
    number = 0
    for layer, (link, keys) in enumerate(zip(links, usable, strict=True)):
        for file in link.meta.files:
            for planned in plan_parts(link.backup_dir, file, keys, number, is_raw=False):
                yield LayeredFile(layer, planned)
                number += 1


def _check_families(files: Sequence[LayeredFile]) -> Iterator[Finding]:
    for file in files:
        if file.planned.family not in (WRITE, DEFAULT):
            what = f"column family {file.planned.family!a} is none of a transactional backup"
            yield Finding(file.planned.shown_name, None, what)
