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

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.encryption import check_key
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.names import META_NAME
from bkctl.errors import CorruptionError, StorageError, UsageError
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import MAX_TS
from bkctl.repository.catalog import open_backup, read_catalog
from bkctl.repository.contents import family_of_file
from bkctl.repository.summary import BackupSummary
from bkctl.restore.files import FileFetcher, How, PlannedFile, ReadyFile
from bkctl.sst.reader import FileReader, SstReader
from bkctl.storage.base import Storage
from bkctl.storage.url import StorageSpec, open_storage
from bkctl.store.ident import API_V2
from bkctl.store.new_store import NewStore
from bkctl.verify.backup import check_description
from bkctl.verify.file import DEFAULT, WRITE, Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

DEFAULT_JOBS = 4
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
class RestoreRequest:
    """What to restore: a backup by `name`, the newest that ends by `at` (a TSO), or the newest.

    `target` must not exist, or be empty. `start_key` and `end_key` are raw user keys, empty for no
    bound. `jobs` files are fetched at a time. Without `verify` files are taken unread. `cipher` is
    for encrypted files.
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


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore does: the backups in order, their files in that order, and what is wrong.

    `left_out` counts the files that hold nothing of the window; `damaged_newer` names backups that
    cannot be read, and that nobody knows to be older than what is restored.
    """

    chain: tuple[BackupSummary, ...]
    files: tuple[PlannedFile, ...]
    left_out: int
    findings: tuple[Finding, ...]
    damaged_newer: tuple[str, ...] = ()

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
        return _plan(request, storage)


def restore(request: RestoreRequest, advance: Advance = lambda progress: None) -> RestoreResult:
    """Restore into `request.target`, which is there and durable when this returns without findings.

    Damage is in the result. Raises UsageError before anything is started, StorageError where the
    repository or the target fails. Whatever ends it early, nothing stays.
    """
    begun = time.monotonic()
    target = _check_target(request)
    with open_storage(request.storage) as storage:
        plan = _plan(request, storage)
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


def _plan(request: RestoreRequest, storage: Storage) -> RestorePlan:
    catalog = read_catalog(storage)
    chain = catalog.resolve(request.name, request.at)
    files: list[PlannedFile] = []
    findings: list[Finding] = []
    left_out = 0
    for backup in chain:
        backup_dir = open_backup(storage, backup.name)
        meta, found = _describe(backup_dir, request.verify)
        findings += found
        if meta is None:
            continue
        _check_usable(backup_dir, meta, request)
        for file in sorted(meta.files, key=lambda file: (family_of_file(file), file.start_key)):
            planned = _plan_file(request, backup_dir, meta, file, len(files))
            if planned is None:
                left_out += 1
            else:
                files.append(planned)
                findings += _check_family(planned, meta)
    end_ts = chain[-1].facts.end_ts or 0
    damaged = () if request.name not in (None, "latest") else catalog.damaged
    newer = tuple(
        backup.name
        for backup in damaged
        if backup not in chain
        and (backup.facts.end_ts is None or end_ts < backup.facts.end_ts <= (request.at or MAX_TS))
    )
    return RestorePlan(tuple(chain), tuple(files), left_out, tuple(findings), newer)


def _describe(backup_dir: BackupDir, verify: bool) -> tuple[BackupMeta | None, list[Finding]]:
    """A backup's description, with what is wrong with it; surplus files do not matter here."""
    name = backup_dir.name
    if not verify:
        try:
            return backup_dir.read_meta(), []
        except CorruptionError as e:
            return None, [Finding(f"{name}/{META_NAME}", None, str(e))]
    description = check_description(backup_dir)
    meta = description.meta
    relevant = {META_NAME, *(file.name for file in meta.files)} if meta else {META_NAME}
    return meta, [
        Finding(f"{name}/{finding.file}", finding.offset, finding.what)
        for finding in description.findings
        if finding.file in relevant
    ]


def _check_usable(backup_dir: BackupDir, meta: BackupMeta, request: RestoreRequest) -> None:
    check_key(backup_dir, meta.files, request.cipher)
    has_window = request.start_key or request.end_key
    if meta.is_raw_kv and meta.api_version == API_V2 and has_window:
        raise UsageError(
            f"{backup_dir.where}: raw keys of API V2 are versioned; it can be restored only whole, "
            "without --start-key and --end-key"
        )


def _plan_file(
    request: RestoreRequest, backup_dir: BackupDir, meta: BackupMeta, file: BackupFile, number: int
) -> PlannedFile | None:
    """What to do with a file; None if it holds nothing of the window."""
    start_key, end_key = request.start_key, request.end_key
    if (end_key and file.start_key >= end_key) or (file.end_key and file.end_key <= start_key):
        return None
    window = None
    is_inside = not end_key or (file.end_key and file.end_key <= end_key)
    if file.start_key < start_key or not is_inside:
        bounds = EntryBounds(start_key, end_key, 0, MAX_TS, meta.is_raw_kv)
        window = (bounds.lower(), bounds.upper())
    return PlannedFile(
        number,
        f"{backup_dir.name}/{file.name}",
        backup_dir.object_name(file.name),
        file,
        family_of_file(file),
        window,
    )


def _check_family(planned: PlannedFile, meta: BackupMeta) -> Iterator[Finding]:
    if not meta.is_raw_kv and planned.family not in (WRITE, DEFAULT):
        what = f"column family {planned.family!a} is none of a transactional backup"
        yield Finding(planned.shown_name, None, what)


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
