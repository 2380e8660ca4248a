"""Verifies backups: their description first, then their files on a pool of workers.

Everything that is wrong is found in one run: damage in one place does not end it. A failure to
look (a storage that does not answer, a worker that dies) is an error and never counts as whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir, list_backups
from bkctl.archive.coverage import NO_KEYS, KeySet
from bkctl.archive.encryption import check_key
from bkctl.archive.meta import BackupMeta
from bkctl.archive.names import META_NAME, REPORT_NAME
from bkctl.errors import BkctlError, CorruptionError, UsageError
from bkctl.pool.events import Listener
from bkctl.pool.pool import WorkerPool
from bkctl.repository.catalog import Catalog, open_backup, read_catalog, root_name
from bkctl.repository.coverage import chain_coverage, read_links
from bkctl.storage.url import StorageSpec, open_storage
from bkctl.store.ident import has_plain_keys
from bkctl.verify.against import SHOWN_DIFFERENCES, Difference
from bkctl.verify.backup import Description, check_description
from bkctl.verify.comparing import Against as Against
from bkctl.verify.comparing import open_against, plan_comparison, trouble_of
from bkctl.verify.file import Finding, pairs_of
from bkctl.verify.level import Level
from bkctl.verify.run import VerifyRun
from bkctl.verify.task import CheckJob, CompareJob, JobResult, VerifyJob
from bkctl.verify.worker import run_verify_job

if TYPE_CHECKING:
    from typing_extensions import Self

    from bkctl.codec.cipher import Cipher


@dataclass(frozen=True, slots=True)
class Differences:
    """In how many keys a backup and a store differ, and the first of them in key order."""

    total: int
    first: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a backup came to.

    `checked_bytes` counts the bytes of files that were read, `seconds` the time it took. With
    `errors` it could not be finished. `differences` is None unless it was compared with a store.
    `holes` say of which keys the backup's chain is not whole, `uncovered` are those it never had.
    """

    name: str
    level: Level
    files: int
    checked_bytes: int
    damages: tuple[Finding, ...]
    errors: tuple[str, ...]
    seconds: float
    differences: Differences | None = None
    holes: tuple[str, ...] = ()
    uncovered: KeySet = NO_KEYS

    @property
    def status(self) -> str:
        """`damaged`, `differs` (from the store), `failed` (not finished) or `ok`."""
        if self.damages:
            return "damaged"
        if self.differences is not None and self.differences.total:
            return "differs"
        return "failed" if self.errors else "ok"

    def to_json_dict(self) -> dict[str, object]:
        """Give the JSON object of `verify --json`; keys are hexadecimal raw user keys."""
        document: dict[str, object] = {
            "name": self.name,
            "level": self.level.value,
            "status": self.status,
            "files": self.files,
            "checked_bytes": self.checked_bytes,
            "damages": [
                {"file": damage.file, "offset": damage.offset, "what": damage.what}
                for damage in self.damages
            ],
            "seconds": self.seconds,
        }
        if self.holes:
            document["holes"] = list(self.holes)
        if self.uncovered:
            document["uncovered"] = [
                {"start_key": keys.start_key.hex().upper(), "end_key": keys.end_key.hex().upper()}
                for keys in self.uncovered.ranges
            ]
        if self.errors:
            document["errors"] = list(self.errors)
        if self.differences is not None:
            document["differences"] = {
                "total": self.differences.total,
                "first": [
                    {"key": difference.raw_key.hex().upper(), "what": difference.what}
                    for difference in self.differences.first
                ],
            }
        return document


def failed_verification(name: str, level: Level, error: BkctlError) -> Verification:
    """What is told of a backup that could not be verified, where others are to follow."""
    return Verification(name, level, 0, 0, (), (str(error),), 0.0)


class Verifier:
    """Verifies backups of one repository, as a context manager: its workers end with the block."""

    def __init__(
        self,
        storage: StorageSpec,
        level: Level,
        jobs: int,
        cipher: Cipher | None = None,
        *,
        allow_gaps: bool = False,
    ) -> None:
        """Open the repository; raises what `open_storage` raises.

        `cipher` is for encrypted files, whose content only the deep level needs. With
        `allow_gaps`, keys that a backup's chain is not whole for are told and are no damage.
        """
        self._cipher = cipher
        self._allow_gaps = allow_gaps
        self._catalog: Catalog | None = None
        self._spec = storage
        self._level = level
        self._jobs = jobs
        self._storage = open_storage(storage)
        self._pool = WorkerPool(run_verify_job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._pool.close()
        else:
            self._pool.terminate()
        self._storage.close()

    def newest(self) -> str:
        """The name of the backup that was completed last; UsageError if there is none."""
        complete = self._complete()
        if not complete:
            raise UsageError(f"{self._storage.url}: no complete backup there; check the URL")
        return max(complete)[1]

    def all_names(self) -> list[str]:
        """The names of all complete backups, sorted; UsageError if there is none."""
        self.newest()
        return sorted(name for _, name in self._complete())

    def _complete(self) -> list[tuple[float, str]]:
        """When each complete backup was completed, and its name."""
        found = [
            (entry.modified, entry.name) for entry in list_backups(self._storage) if entry.complete
        ]
        if (single := self._storage.stat(META_NAME)) is not None:
            found.append((single.modified, root_name(self._storage)))
        return found

    def verify(self, name: str, listener: Listener, against: Against | None = None) -> Verification:
        """Verify one backup, and compare it with a store.

        Raises UsageError where there is no complete backup of that name or it cannot be verified
        that way, StorageError where the repository fails, and what opening the store raises.
        """
        begun = time.monotonic()
        backup_dir = open_backup(self._storage, name)
        description = check_description(backup_dir)
        meta = description.meta
        results: list[JobResult] = []
        differences: Differences | None = None
        if meta is not None:
            if self._level is Level.DEEP or against is not None or self._cipher is not None:
                check_key(backup_dir, meta.files, self._cipher)
            results += self._run(self._check_jobs(name, meta), meta, listener)
            if against is not None:
                compared = self._compare(backup_dir, description, meta, against, listener)
                first = [found for result in compared for found in result.differences]
                differences = Differences(
                    sum(result.differing for result in compared), tuple(first[:SHOWN_DIFFERENCES])
                )
                results += compared
        damages = [*description.findings, *(f for result in results for f in result.findings)]
        holes, uncovered = self._coverage(name)
        if not self._allow_gaps:
            damages += (Finding(REPORT_NAME, None, hole) for hole in holes)
        return Verification(
            name=name,
            level=self._level,
            files=len(meta.files) if meta is not None else 0,
            checked_bytes=sum(result.checked_bytes for result in results),
            # Size and content of a file, or both of its readers, may find the same.
            damages=tuple(dict.fromkeys(damages)),
            errors=tuple(dict.fromkeys(result.error for result in results if result.error)),
            seconds=round(time.monotonic() - begun, 3),
            differences=differences,
            holes=holes,
            uncovered=uncovered,
        )

    def _coverage(self, name: str) -> tuple[tuple[str, ...], KeySet]:
        """Of which keys a backup is not whole, with all it builds on, and which it never had."""
        self._catalog = self._catalog or read_catalog(self._storage)
        chains = self._catalog.chains
        backup = chains.look_up(name)
        try:
            links = read_links(self._storage, chains.chain_of(backup))
        except (CorruptionError, UsageError):
            return (), NO_KEYS  # damage of others, or what it builds on is gone
        coverage = chain_coverage(links)
        return tuple(map(str, coverage.holes)), coverage.uncovered

    def _check_jobs(self, name: str, meta: BackupMeta) -> list[VerifyJob]:
        if self._level is Level.SIZE:
            return []
        deep = self._level is Level.DEEP
        return [
            CheckJob(
                *(number, self._spec, name, meta.is_raw_kv, deep, files),
                self._cipher,
                meta.api_version,
            )
            for number, files in enumerate(pairs_of(meta.files, meta.is_raw_kv))
        ]

    def _compare(
        self,
        backup_dir: BackupDir,
        description: Description,
        meta: BackupMeta,
        against: Against,
        listener: Listener,
    ) -> list[JobResult]:
        with open_against(against, meta) as stores:
            jobs: list[VerifyJob] = []
            untold: list[JobResult] = []
            for part in plan_comparison(stores, against, backup_dir, meta, description):
                if part.trouble:
                    untold.append(JobResult(error=trouble_of(part)))
                    continue
                source = stores.sources[part.number]
                jobs.append(
                    CompareJob(
                        *(len(jobs), self._spec, backup_dir.name, source.db_dir, source.path),
                        *(part.snapshot, part.segment, self._cipher),
                    )
                )
            return [*self._run(jobs, meta, listener), *untold]

    def _run(
        self, jobs: Sequence[VerifyJob], meta: BackupMeta, listener: Listener
    ) -> list[JobResult]:
        if not jobs:
            return []
        self._pool.adjust_with(max(1, min(self._jobs, len(jobs))))
        return VerifyRun(self._pool, jobs, _has_plain_keys(meta), listener).run()


def _has_plain_keys(meta: BackupMeta) -> bool:
    return has_plain_keys(meta.is_raw_kv, meta.api_version)
