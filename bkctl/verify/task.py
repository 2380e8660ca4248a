"""What a worker is told when a backup is verified, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.archive.meta import BackupFile
from bkctl.storage.url import StorageSpec
from bkctl.store.ident import API_V1
from bkctl.verify.against import Difference, Segment, Snapshot
from bkctl.verify.file import Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Check the files of one range of a backup, the job's `number` in its run."""

    number: int
    storage: StorageSpec
    name: str
    is_raw: bool
    deep: bool
    files: tuple[BackupFile, ...]
    cipher: Cipher | None = None
    api_version: int = API_V1


@dataclass(frozen=True, slots=True)
class CompareJob:
    """Compare one segment of a backup with a store, whose pinned view is in `db_dir`."""

    number: int
    storage: StorageSpec
    name: str
    db_dir: Path
    source: Path
    snapshot: Snapshot
    segment: Segment
    cipher: Cipher | None = None


VerifyJob = CheckJob | CompareJob


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A worker begins the job."""


@dataclass(frozen=True, slots=True)
class JobAdvanced:
    """Records and bytes checked so far."""

    kvs: int
    plain_bytes: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job: what is wrong, or `error` where it could not be found out.

    `checked_bytes` are the bytes of files that were read, `kvs` and `plain_bytes` what was checked.
    """

    findings: tuple[Finding, ...] = ()
    checked_bytes: int = 0
    kvs: int = 0
    plain_bytes: int = 0
    differing: int = 0
    differences: tuple[Difference, ...] = ()
    error: str = ""


VerifyEvent = JobStarted | JobAdvanced | JobResult
