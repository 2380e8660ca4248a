"""One backup in a repository, from taking its name to the moment it counts; and all of them.

    1. claim        backup.lock is created, which only one run can do
    2. save_file    the SST files, as they are finished
    3. publish      report.json, then backupmeta, each in one step
    4. delete       backup.lock is marked; backupmeta goes first, backup.lock last

A folder with a backupmeta is a backup, whole; one without is unfinished and never taken for one,
wherever the run was cut. backup.lock stays, as br's does: a name is used once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bkctl import interrupts
from bkctl.archive.meta import BackupMeta, decode_meta, encode_meta, read_meta
from bkctl.archive.meta_walk import MAX_META_BYTES, Sink, walk_meta
from bkctl.archive.names import LOCK_NAME, META_NAME, REPORT_NAME, check_backup_name
from bkctl.archive.report import Report
from bkctl.codec.json_text import loads
from bkctl.errors import CorruptionError, StorageError, UsageError
from bkctl.proto import backup_pb2
from bkctl.storage.base import (
    AlreadyExistsError,
    NotFoundError,
    ObjectInfo,
    RandomReader,
    Storage,
    failure,
    side_by_side,
)
from bkctl.storage.stored import StoredObject, open_stored

_MAX_LOCK_BYTES = 1 << 20
_MAX_REPORT_BYTES = 1 << 30
# Where a backupmeta names very many files, so many may be missing for each to be told by its name.
_MAX_MISSING = 1000
# Set in backup.lock before a deletion begins: what is found without a backupmeta then is no run's.
DELETED_FIELD = "deleted"
_OWN_NAMES = frozenset({META_NAME, LOCK_NAME, REPORT_NAME})


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """A backup's description, and the SHA-256 of backupmeta as it is stored.

    `index_names` are the files beside backupmeta that hold parts of the description (version 1).
    """

    meta: BackupMeta
    sha256: bytes
    index_names: tuple[str, ...] = ()


class BackupDir:
    """The folder `name` of a repository. Methods raise StorageError where the storage fails."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Raise UsageError for a name that cannot be a backup's; touches nothing."""
        check_backup_name(name)
        self.name = name
        self._storage = storage

    @property
    def where(self) -> str:
        """The backup's place, for messages."""
        return f"{self._storage.url}: backup {self.name}"

    def object_name(self, file_name: str) -> str:
        """Give the name under which the storage knows a file of this backup."""
        return f"{self.name}/{file_name}"

    def claim(self, info: bytes) -> None:
        """Take the name for this run, for good; of any number of runs exactly one succeeds.

        `info` (JSON) tells whoever finds the folder unfinished who began it. Raises UsageError
        where the name holds a backup, an unfinished one or anything else.
        """
        present = {entry.name for entry in self.list_files()}
        if self.object_name(META_NAME) in present:
            raise UsageError(f"{self.where} exists already; give another --name")
        if self.object_name(LOCK_NAME) in present:
            raise self._unfinished()
        if present:
            raise UsageError(
                f"{self.where}: the folder holds files but no {LOCK_NAME} ({min(present)}); "
                "give another --name, or move them away"
            )
        try:
            self._storage.create(self.object_name(LOCK_NAME), info)
        except AlreadyExistsError:
            raise self._unfinished() from None

    def _unfinished(self) -> UsageError:
        return UsageError(
            f"{self.where} is unfinished: another run is writing it or was cut off; "
            "give another --name, or take it up again with --resume"
        )

    def read_claim(self) -> bytes | None:
        """Give what `claim` was told, None where nobody has claimed the name.

        Raises CorruptionError for what is too large to be that.
        """
        try:
            with open_stored(self._storage, self.object_name(LOCK_NAME), _MAX_LOCK_BYTES) as stored:
                return stored.whole().take(stored.size)
        except NotFoundError:
            return None

    def save_file(self, file_name: str, path: Path) -> None:
        """Save a finished local file, which is consumed, as a file of this backup."""
        if "/" in file_name or file_name in _OWN_NAMES:
            raise StorageError(f"{self.where}: {file_name!a} cannot be a backup file's name")
        self._storage.save_file(self.object_name(file_name), path)

    def write_report(self, report: Report) -> None:
        """Write report.json alone, for a run that publishes nothing."""
        self._storage.write(self.object_name(REPORT_NAME), report.to_json())

    def publish(
        self, meta: BackupMeta, report: Report, check: Callable[[], None] = lambda: None
    ) -> Report:
        """Make this a backup: report.json, then backupmeta, last and in one step.

        `check` is called between the two, to raise if this run may not publish any more.
        Return the report as it is stored, with backupmeta's hash. Before that, every file that
        `meta` names must be there at its size and `meta` must read back as it is, or StorageError
        or CorruptionError is raised and nothing is published. Signals change nothing from then on.
        """
        data = encode_meta(meta)
        decode_meta(data, f"{self.where}: {META_NAME} to be written")
        self._storage.discard_staging(self.name)
        if not self._storage.discards:
            self._check_files(meta)
        report = replace(report, backupmeta_sha256=hashlib.sha256(data).digest())
        self.write_report(report)
        check()
        # Nothing may follow: what fails after this line fails a backup that counts.
        with interrupts.settling():
            self._storage.create(self.object_name(META_NAME), data)
        return report

    def _check_files(self, meta: BackupMeta) -> None:
        sizes = {info.name: info.size for info in self._storage.list(self.name)}
        for file in meta.files:
            name = self.object_name(file.name)
            size = sizes.get(name)
            if size != file.size:
                found = "is missing" if size is None else f"has {size} bytes"
                raise failure(
                    self._storage.url,
                    name,
                    f"{found} where a file of {file.size} bytes was saved; nothing is published",
                    "check what else writes there",
                )

    def remove_unnamed(self, named: Collection[str]) -> None:
        """Remove SST files that the published backup does not name: of workers that died."""
        own = {self.object_name(name) for name in named}
        found = [info.name for info in self.list_files() if info.name.endswith(".sst")]
        side_by_side(self._storage.delete, [name for name in found if name not in own])

    def is_complete(self) -> bool:
        """Whether this is a backup: whether its backupmeta is there."""
        return self._storage.stat(self.object_name(META_NAME)) is not None

    def read_meta(self) -> BackupMeta:
        """Read what the backup consists of; errors as for `load_meta`."""
        return self.load_meta().meta

    def load_meta(self) -> StoredMeta:
        """Read what the backup consists of, with the bytes that say so.

        Raises UsageError where there is no backup or an unfinished one, CorruptionError where its
        description is damaged, a part of it is missing, or most of the files that it names are.
        """
        index_names: list[str] = []

        @contextmanager
        def open_index(file_name: str) -> Iterator[StoredObject]:
            index_names.append(file_name)
            with self._open_index(file_name) as stored:
                yield stored

        def most() -> int:
            return len(self.list_files()) + _MAX_MISSING

        with self._open_meta() as stored:
            meta = read_meta(stored, f"{self.where}: {META_NAME}", open_index, most)
            return StoredMeta(meta, stored.sha256(), tuple(index_names))

    def walk_meta(self, sink: Sink) -> backup_pb2.BackupMeta:
        """Go through what the backup consists of, and hold nothing of it; see `meta_walk`.

        Raises as `load_meta` does, whether files are there or not.
        """
        with self._open_meta() as stored:
            return walk_meta(stored, f"{self.where}: {META_NAME}", sink, self._open_index)

    @contextmanager
    def _open_meta(self) -> Iterator[StoredObject]:
        try:
            with open_stored(self._storage, self.object_name(META_NAME), MAX_META_BYTES) as stored:
                yield stored
        except NotFoundError:
            if self.list_files():
                what = f"is unfinished (it has no {META_NAME}) and cannot be used"
            else:
                what = "does not exist"
            raise UsageError(f"{self.where} {what}; see what there is with bkctl list") from None

    @contextmanager
    def _open_index(self, file_name: str) -> Iterator[StoredObject]:
        try:
            with open_stored(self._storage, self.object_name(file_name), MAX_META_BYTES) as stored:
                yield stored
        except NotFoundError:
            raise CorruptionError(
                f"{self.where}: {file_name}, which {META_NAME} needs, is missing"
            ) from None

    def read_report(self, *, figures_only: bool = False) -> Report | None:
        """Read the last run's report; None where there is none, as in backups that br made.

        `figures_only` passes over its long lists; see Report.
        """
        name, where = self.object_name(REPORT_NAME), f"{self.where}: {REPORT_NAME}"
        try:
            with open_stored(self._storage, name, _MAX_REPORT_BYTES) as stored:
                return Report.read(stored.whole(), where, figures_only=figures_only)
        except NotFoundError:
            return None

    def list_files(self) -> tuple[ObjectInfo, ...]:
        """List all objects of the folder, by their names in the storage."""
        return tuple(self._storage.list(self.name))

    def open_file(self, file_name: str) -> RandomReader:
        """Open a file of the backup for reading. Raises NotFoundError."""
        return self._storage.open(self.object_name(file_name))

    def delete(self) -> None:
        """Remove the backup, its backupmeta first: cut off half-way it is unfinished, not broken.

        The lock says before all that what is left is to be deleted, and goes last, so that nobody
        takes the name or the rest up meanwhile. May be repeated.
        """
        lock = self.object_name(LOCK_NAME)
        self._mark_deleted(lock)
        self._storage.delete(self.object_name(META_NAME))
        names = [info.name for info in self.list_files() if info.name != lock]
        side_by_side(self._storage.delete, names)
        self._storage.discard_staging(self.name)
        self._storage.delete(lock)

    def _mark_deleted(self, lock: str) -> None:
        try:
            claim = loads(self.read_claim() or b"{}")
        except (ValueError, CorruptionError):
            claim = {}
        if not isinstance(claim, dict):
            claim = {}
        if DELETED_FIELD not in claim:
            self._storage.write(lock, json.dumps({**claim, DELETED_FIELD: True}).encode())


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One folder of a repository; `modified` (unix seconds) is its backupmeta's or lock's time.

    Only a `complete` one is a backup. `claimed` tells whether a run has left its lock there;
    a folder that is neither complete nor claimed is perhaps no backup's at all.
    """

    name: str
    complete: bool
    claimed: bool
    modified: float


def list_backups(storage: Storage) -> list[BackupEntry]:
    """List a repository's folders by name, unfinished ones included, without reading any of them.

    Folders whose names cannot be a backup's are passed over.
    """
    entries = []
    for name in storage.list_folders():
        try:
            backup_dir = BackupDir(storage, name)
        except UsageError:
            continue
        meta = storage.stat(backup_dir.object_name(META_NAME))
        lock = storage.stat(backup_dir.object_name(LOCK_NAME))
        newest = meta or lock
        entries.append(
            BackupEntry(
                name, meta is not None, lock is not None, newest.modified if newest else 0.0
            )
        )
    return entries
