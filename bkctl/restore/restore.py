"""Restores a backup, or a chain of them, into a new RocksDB directory.

1. plan     which backups, and which of their files, whole or in part
2. fetch    all files, verified and looked through, into a directory beside the target
3. ingest   backup by backup, oldest first, into a new store there
4. publish  one rename; until then there is no target, and nothing stays of a failure
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bkctl import interrupts
from bkctl.errors import StorageError, UsageError
from bkctl.folders import PrivateFolder
from bkctl.restore.build import Workshop
from bkctl.restore.files import FileFetcher, How, ReadyFile
from bkctl.restore.plan import RestorePlan, RestoreRequest, make_restore_plan
from bkctl.shortage import reason_of
from bkctl.storage.base import Storage
from bkctl.storage.url import StorageSpec, open_storage
from bkctl.verify.file import Finding

_TEMPORARY = ".bkctl-tmp-"


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How many files, and stored bytes, are there of how many."""

    files: int
    total_files: int
    size: int
    total_size: int


Advance = Callable[[FetchProgress], None]
"""Called after each file; returns at once."""


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """How a restore went; with `findings` nothing was restored and nothing was left behind.

    `counts` says how many files came in which way.
    """

    plan: RestorePlan
    target: Path
    findings: tuple[Finding, ...]
    counts: tuple[tuple[How, int], ...]
    seconds: float


def plan_restore(request: RestoreRequest) -> RestorePlan:
    """Find out what a restore would do, without reading a data file.

    Raises UsageError for a target, a backup or keys that cannot be, StorageError where the
    repository fails.
    """
    _check_target(request)
    with open_storage(request.storage) as storage:
        return make_restore_plan(request, storage)


def restore(request: RestoreRequest, advance: Advance = lambda progress: None) -> RestoreResult:
    """Restore into `request.target`, which is there and durable when this returns without findings.

    Damage is in the result. Raises UsageError before anything is started, StorageError where the
    repository or the target fails. Whatever ends it early, nothing stays.
    """
    begun = time.monotonic()
    target = _check_target(request)
    with (
        Workshop(request.jobs if request.verify else 0) as workshop,
        open_storage(request.storage) as storage,
    ):
        plan = make_restore_plan(request, storage)
        findings, counts = plan.findings, dict.fromkeys(How, 0)
        if not findings:
            with _building(target) as folder:
                ready = _fetch(request, plan, storage, folder, workshop, advance)
                for file in ready:
                    counts[file.how] += 1
                findings = tuple(file.finding for file in ready if file.finding is not None)
                findings = findings or workshop.build(ready, folder / "db")
                if not findings:
                    _publish(folder / "db", target)
    return RestoreResult(
        plan, target, findings, tuple(counts.items()), round(time.monotonic() - begun, 3)
    )


def _check_target(request: RestoreRequest) -> Path:
    """The target's real path; UsageError unless it is new or empty and can be renamed to."""
    target = Path(os.path.realpath(request.target))
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} exists and is not an empty directory; give another --to")
    except OSError as e:
        raise UsageError(f"{target}: cannot be read ({reason_of(e)}); check --to") from None
    if os.path.ismount(target):
        raise UsageError(f"{target} is a mount point; give a directory below it with --to")
    root = _local_root(request.storage)
    if root is not None and target.is_relative_to(os.path.realpath(root)):
        raise UsageError(f"{target} lies in the repository itself; give another --to")
    return target


def _local_root(spec: StorageSpec) -> Path | None:
    return Path(spec.path) if spec.scheme == "local" else None


def _fetch(
    request: RestoreRequest,
    plan: RestorePlan,
    storage: Storage,
    folder: Path,
    workshop: Workshop,
    advance: Advance,
) -> list[ReadyFile]:
    staging = folder / "files"
    staging.mkdir()
    fetcher = FileFetcher(
        storage,
        _local_root(request.storage),
        staging,
        verify=request.verify,
        cipher=request.cipher,
    )
    files = size = 0

    def told(file: ReadyFile) -> None:
        nonlocal files, size
        files, size = files + 1, size + file.planned.file.size
        advance(FetchProgress(files, len(plan.files), size, plan.size))

    return workshop.look_through(fetcher.fetch_all(plan.files, request.jobs), told)


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A directory beside the target, gone at the end; so are parents made for it, on failure.

    What a killed restore to the same place left is removed first.
    """
    made: list[Path] = []
    try:
        with _making(target.parent):
            _make_parents(target.parent, made)
        with PrivateFolder(f"{target.name}{_TEMPORARY}", target.parent, _making) as folder:
            yield folder
    finally:
        if not target.exists():
            for parent in reversed(made):
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def _making(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UsageError(
            f"{e.filename or place}: cannot be made ({reason_of(e)}); check --to"
        ) from None


def _make_parents(path: Path, made: list[Path]) -> None:
    if not path.is_dir():
        _make_parents(path.parent, made)
        path.mkdir()
        made.append(path)
        _sync(path.parent)


def _publish(db_dir: Path, target: Path) -> None:
    try:
        with interrupts.settling():
            os.rename(db_dir, target)
            _sync(target.parent)
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(
                f"{target}: was made or filled meanwhile; nothing is restored"
            ) from None
        raise StorageError(f"{target}: cannot be made ({reason_of(e)}); check --to") from None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
