"""Restores a backup, or a chain of them, into a new RocksDB directory.

1. plan     which backups, and which of their files, whole or in part
2. fetch    all files, verified, into a directory beside the target
3. ingest   backup by backup, oldest first, into a new store there
4. publish  one rename; until then there is no target, and nothing stays of a failure
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.errors import CorruptionError, StorageError, UsageError
from bkctl.restore.files import FileFetcher, How, ReadyFile
from bkctl.restore.plan import RestorePlan, RestoreRequest, make_restore_plan
from bkctl.sst.reader import FileReader, SstReader
from bkctl.storage.base import Storage
from bkctl.storage.url import StorageSpec, open_storage
from bkctl.store.new_store import NewStore
from bkctl.verify.file import Finding

if TYPE_CHECKING:
    pass

_FILES_AT_ONCE = 512


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
    with open_storage(request.storage) as storage:
        plan = make_restore_plan(request, storage)
        findings, counts = plan.findings, dict.fromkeys(How, 0)
        if not findings:
            with _building(target) as folder:
                ready = _fetch(request, plan, storage, folder, advance)
                for file in ready:
                    counts[file.how] += 1
                findings = tuple(file.finding for file in ready if file.finding is not None)
                findings = findings or _build(plan, ready, folder / "db")
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
        raise UsageError(f"{target}: cannot be read ({e.strerror}); check --to") from None
    if os.path.ismount(target):
        raise UsageError(f"{target} is a mount point; give a directory below it with --to")
    root = _local_root(request.storage)
    if root is not None and target.is_relative_to(os.path.realpath(root)):
        raise UsageError(f"{target} lies in the repository itself; give another --to")
    return target


def _local_root(spec: StorageSpec) -> Path | None:
    return Path(spec.path) if spec.scheme == "local" else None


def _fetch(
    request: RestoreRequest, plan: RestorePlan, storage: Storage, folder: Path, advance: Advance
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
    ready: list[ReadyFile] = []
    size = 0
    for file in fetcher.fetch_all(plan.files, request.jobs):
        ready.append(file)
        size += file.planned.file.size
        advance(FetchProgress(len(ready), len(plan.files), size, plan.size))
    return ready


def _build(plan: RestorePlan, ready: Sequence[ReadyFile], db_dir: Path) -> tuple[Finding, ...]:
    """Make the store of the fetched files, oldest backup first; what RocksDB finds wrong."""
    families = sorted({planned.family for planned in plan.files})
    try:
        with NewStore(db_dir, families) as store:
            for family, files in _batches(ready):
                paths = [file.path for file in files if file.path is not None]
                for first in range(0, len(paths), _FILES_AT_ONCE):
                    store.ingest(family, paths[first : first + _FILES_AT_ONCE])
            store.finish()
    except CorruptionError as e:
        what = str(e).removeprefix(f"{db_dir}: ")
        return tuple(_unsound(ready)) or (Finding(plan.chain[-1].name, None, what),)
    return ()


def _unsound(ready: Sequence[ReadyFile]) -> Iterator[Finding]:
    """Which files a new store cannot take in; RocksDB looks at their ends, and may not say."""
    for file in ready:
        if file.path is None or not file.path.exists():
            continue
        name = file.planned.shown_name
        try:
            with FileReader(file.path) as reader:
                sst = SstReader(reader, name)
                sst.check_values_only()
                blocks = list(sst.blocks())
                for block in blocks[:1] + blocks[-1:]:
                    sst.read_block(block)
        except CorruptionError as e:
            yield Finding(name, None, str(e).removeprefix(f"{name}: "))


def _batches(ready: Sequence[ReadyFile]) -> Iterator[tuple[str, list[ReadyFile]]]:
    """The files of each backup's families; they come ordered by both."""

    def place(file: ReadyFile) -> tuple[str, str]:
        return file.planned.shown_name.split("/", 1)[0], file.planned.family

    for (_, family), files in groupby(ready, place):
        yield family, list(files)


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A directory beside the target, gone at the end; so are parents made for it, on failure."""
    made: list[Path] = []
    folder: Path | None = None
    try:
        try:
            _make_parents(target.parent, made)
            folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.bkctl-tmp-", dir=target.parent))
        except OSError as e:
            raise UsageError(
                f"{e.filename or target.parent}: cannot be made ({e.strerror}); check --to"
            ) from None
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if not target.exists():
            for parent in reversed(made):
                with suppress(OSError):
                    parent.rmdir()


def _make_parents(path: Path, made: list[Path]) -> None:
    if not path.is_dir():
        _make_parents(path.parent, made)
        path.mkdir()
        made.append(path)
        _sync(path.parent)


def _publish(db_dir: Path, target: Path) -> None:
    try:
        os.rename(db_dir, target)
        _sync(target.parent)
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(
                f"{target}: was made or filled meanwhile; nothing is restored"
            ) from None
        raise StorageError(f"{target}: cannot be made ({e.strerror}); check --to") from None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
