"""Plans a restore: which backups, and which of their files, whole or in part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.coverage import NO_KEYS, KeyRange, KeySet
from bkctl.archive.encryption import check_key
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.names import META_NAME
from bkctl.archive.report import Report
from bkctl.errors import CorruptionError, UsageError
from bkctl.mvcc.keys import MAX_TS
from bkctl.repository.catalog import Catalog, open_backup, read_catalog
from bkctl.repository.contents import family_of_file
from bkctl.repository.coverage import ChainLink, Hole, chain_coverage, link_of
from bkctl.repository.summary import BackupSummary
from bkctl.restore.files import PlannedFile, plan_parts
from bkctl.storage.base import Storage
from bkctl.storage.url import StorageSpec
from bkctl.store.ident import has_plain_keys
from bkctl.verify.backup import check_description
from bkctl.verify.file import DEFAULT, WRITE, Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

DEFAULT_JOBS = 4


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore: a backup by `name`, the newest that ends by `at` (a TSO), or the newest.

    `target` must not exist, or be empty. `start_key` and `end_key` are raw user keys, empty for no
    bound. `jobs` files are fetched at a time. Without `verify` files are taken unread. `cipher` is
    for encrypted files. `allow_gaps` restores what a chain is whole for, though it has more.
    """

    storage: StorageSpec
    target: Path
    name: str | None = None
    at: int | None = None
    start_key: bytes = b""
    end_key: bytes = b""
    verify: bool = True
    jobs: int = DEFAULT_JOBS
    cipher: Cipher | None = None
    allow_gaps: bool = False


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore does: the backups in order, their files in that order, and what is wrong.

    `left_out` counts the files that hold nothing of the window; `damaged_newer` names backups that
    cannot be read, and that nobody knows to be older than what is restored. `holes` say of which
    keys the chain is not whole, `uncovered` are those it never had; `limited_to` is the window that
    the backups were limited to, if to any.
    """

    chain: tuple[BackupSummary, ...]
    files: tuple[PlannedFile, ...]
    left_out: int
    findings: tuple[Finding, ...]
    damaged_newer: tuple[str, ...] = ()
    holes: tuple[Hole, ...] = ()
    uncovered: KeySet = NO_KEYS
    limited_to: KeyRange | None = None

    @property
    def end_ts(self) -> int:
        """The timestamp as of which the data will be."""
        return self.chain[-1].facts.end_ts or 0

    @property
    def size(self) -> int:
        """The stored bytes of all files to fetch."""
        return sum(planned.file.size for planned in self.files)

    @property
    def partial(self) -> int:
        """How many files are taken only in part."""
        return sum(planned.window is not None for planned in self.files)


def make_restore_plan(request: RestoreRequest, storage: Storage) -> RestorePlan:
    """Find out which files to take, and which keys of them.

    Raises UsageError for a backup or keys that cannot be, StorageError where the storage fails.
    """
    catalog = read_catalog(storage)
    chain = catalog.resolve(request.name, request.at, prefer_whole=True)
    described = [_describe_link(storage, backup, request) for backup in chain]
    findings = [finding for each in described for finding in each.findings]
    coverage = chain_coverage([each.link for each in described])
    asked = KeySet.of([KeyRange(request.start_key, request.end_key)])
    holes = tuple(hole for hole in coverage.holes if hole.keys & asked)
    if holes and not findings and not request.allow_gaps:
        raise UsageError(
            f"{storage.url}: backup {chain[-1].name} would not come back whole: {holes[0]}"
            + (f" (and {len(holes) - 1} more)" if len(holes) > 1 else "")
            + "; restore an earlier one, or with --allow-gaps without those keys"
        )
    files: list[PlannedFile] = []
    left_out = 0
    for each, usable in zip(described, coverage.usable, strict=True):
        for file in each.files:
            parts = plan_parts(
                each.backup_dir, file, usable & asked, len(files), is_raw=each.has_plain_keys
            )
            left_out += not parts
            files += parts
            findings += (found for part in parts for found in _check_family(part, each.is_raw))
    return RestorePlan(
        tuple(chain),
        tuple(files),
        left_out,
        tuple(findings),
        _damaged_newer(request, catalog, chain),
        holes,
        coverage.uncovered & asked,
        _limit_of(chain[-1]),
    )


def _limit_of(backup: BackupSummary) -> KeyRange | None:
    return backup.facts.window if backup.facts.is_limited else None


def _damaged_newer(
    request: RestoreRequest, catalog: Catalog, chain: Sequence[BackupSummary]
) -> tuple[str, ...]:
    end_ts = chain[-1].facts.end_ts or 0
    damaged = () if request.name not in (None, "latest") else catalog.damaged
    return tuple(
        backup.name
        for backup in damaged
        if backup not in chain
        and (backup.facts.end_ts is None or end_ts < backup.facts.end_ts <= (request.at or MAX_TS))
    )


@dataclass(frozen=True, slots=True)
class _Described:
    """One backup of the chain: its files in the order to ingest them, and what is wrong."""

    backup_dir: BackupDir
    files: list[BackupFile]
    findings: list[Finding]
    link: ChainLink
    is_raw: bool = False
    has_plain_keys: bool = False


def _describe_link(storage: Storage, backup: BackupSummary, request: RestoreRequest) -> _Described:
    backup_dir = open_backup(storage, backup.name)
    meta, report, found = _describe(backup_dir, request.verify)
    if meta is None:
        return _Described(backup_dir, [], found, ChainLink(backup.name, (), NO_KEYS))
    _check_usable(backup_dir, meta, request)
    files = sorted(meta.files, key=lambda file: (family_of_file(file), file.start_key))
    link = link_of(backup.name, meta, report, backup.facts.window)
    plain = has_plain_keys(meta.is_raw_kv, meta.api_version)
    return _Described(backup_dir, files, found, link, meta.is_raw_kv, plain)


def _describe(
    backup_dir: BackupDir, verify: bool
) -> tuple[BackupMeta | None, Report | None, list[Finding]]:
    """A backup's description, with what is wrong with it; surplus files do not matter here."""
    name = backup_dir.name
    if not verify:
        try:
            return backup_dir.read_meta(), backup_dir.read_report(), []
        except CorruptionError as e:
            return None, None, [Finding(f"{name}/{META_NAME}", None, str(e))]
    description = check_description(backup_dir)
    meta = description.meta
    relevant = {META_NAME, *(file.name for file in meta.files)} if meta else {META_NAME}
    findings = [
        Finding(f"{name}/{finding.file}", finding.offset, finding.what)
        for finding in description.findings
        if finding.file in relevant
    ]
    return meta, description.report, findings


def _check_usable(backup_dir: BackupDir, meta: BackupMeta, request: RestoreRequest) -> None:
    check_key(backup_dir, meta.files, request.cipher)


def _check_family(planned: PlannedFile, is_raw: bool) -> Iterator[Finding]:
    if not is_raw and planned.family not in (WRITE, DEFAULT):
        what = f"column family {planned.family!a} is none of a transactional backup"
        yield Finding(planned.shown_name, None, what)
