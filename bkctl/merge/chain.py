"""What a merge starts from: a chain whose descriptions are whole, and what it covers.

Nothing is merged that would come out as less than a full backup: every backup of the chain must
be one of bkctl's, be described soundly, and have covered the keys that the others have files of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.encryption import check_key
from bkctl.archive.meta import BackupMeta
from bkctl.archive.names import META_NAME
from bkctl.archive.report import KeyRange, Report
from bkctl.backup.changes import UNCHANGED
from bkctl.errors import UsageError
from bkctl.merge.plan import LayeredFile, MergeRange, plan_ranges
from bkctl.regions.region_map import Skipped
from bkctl.repository.catalog import open_backup, read_catalog
from bkctl.repository.contents import family_of_file, parse_origin
from bkctl.repository.summary import BackupSummary
from bkctl.restore.files import PlannedFile
from bkctl.storage.base import Storage
from bkctl.verify.backup import check_description
from bkctl.verify.file import DEFAULT, WRITE, Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

_OWN_WRITER = "bkctl "
# How the reasons begin (see `regions.plan` and `regions.local_state`) that mean: its data was not
# read here, and not as part of another region either. Reports keep them as text only.
_NOT_READ = ("leader is on store", "no peer on store", "witness", "applying", "unavailable")


@dataclass(frozen=True, slots=True)
class MergeChain:
    """The backups to merge, oldest first, their files and the ranges to make of them.

    With `findings` there are no ranges. `gaps` and `skipped` are what any of the backups left out.
    """

    backups: tuple[BackupSummary, ...]
    files: tuple[LayeredFile, ...]
    ranges: tuple[MergeRange, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[KeyRange, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    api_version: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The backups' names."""
        return tuple(backup.name for backup in self.backups)

    @property
    def last(self) -> BackupSummary:
        """The newest backup, as of whose end the merged one will be."""
        return self.backups[-1]

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


def read_chain(storage: Storage, name: str | None, cipher: Cipher | None = None) -> MergeChain:
    """Read the chain that ends with the backup `name` (`latest`, the default: the newest).

    `cipher` is for encrypted files. A single full backup is a chain of one. Damage is in the
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
            links.append(_Link(backup_dir, meta, description.report))
        findings += _relevant(backup.name, meta, description.findings)
    if findings:
        return MergeChain(tuple(backups), (), (), tuple(findings))
    _check_coverage(links)
    files = list(_layered(links))
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


def _check_coverage(links: Sequence[_Link]) -> None:
    """Refuse a chain of which one backup left out what another one has.

    Its changes, or the data that they change, are in none of the chain's files.
    """
    regions = {id(link): _regions_of(link.meta) for link in links}
    for link in links:
        report = link.report
        if report is None:
            continue
        away = {
            skip.region_id: skip.reason
            for skip in report.skipped
            if skip.reason.startswith(_NOT_READ)
        }
        for other in links:
            if other is link:
                continue
            for region_id in sorted(regions[id(other)] & away.keys()):
                raise _uncovered(link, f"region {region_id} ({away[region_id]})", other)
            for gap in report.gaps:
                if any(_overlaps(gap, file.start_key, file.end_key) for file in other.meta.files):
                    shown = f"{gap.start_key.hex().upper()} to {gap.end_key.hex().upper()}"
                    raise _uncovered(link, f"keys {shown} (in no region of its map)", other)


def _uncovered(link: _Link, what: str, other: _Link) -> UsageError:
    return UsageError(
        f"{link.backup_dir.where} left out {what}, of which {other.backup_dir.name} has files: "
        "merged they would not be a full backup; take a full backup instead"
    )


def _regions_of(meta: BackupMeta) -> set[int]:
    origins = [parse_origin(file.name) for file in meta.files]
    return {origin.region_id for origin in origins if origin is not None}


def _overlaps(gap: KeyRange, start_key: bytes, end_key: bytes) -> bool:
    begins_before = not gap.end_key or start_key < gap.end_key
    return begins_before and (not end_key or end_key > gap.start_key)


def _layered(links: Sequence[_Link]) -> Iterator[LayeredFile]:
    number = 0
    for layer, link in enumerate(links):
        backup_dir = link.backup_dir
        for file in link.meta.files:
            shown_name = f"{backup_dir.name}/{file.name}"
            object_name = backup_dir.object_name(file.name)
            planned = PlannedFile(number, shown_name, object_name, file, family_of_file(file))
            yield LayeredFile(layer, planned)
            number += 1


def _check_families(files: Sequence[LayeredFile]) -> Iterator[Finding]:
    for file in files:
        if file.planned.family not in (WRITE, DEFAULT):
            what = f"column family {file.planned.family!a} is none of a transactional backup"
            yield Finding(file.planned.shown_name, None, what)
