"""The catalogue: all that a repository holds, backup by backup.

URL/<name>/backupmeta ...     a repository, each folder a backup (or an unfinished one)
URL/backupmeta ...            a single backup, as br writes it; it counts as one of that name
                              which its folder (or bucket) has
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.names import META_NAME, REPOSITORY_LOCK_NAME, check_backup_name
from bkctl.errors import StorageError, UsageError
from bkctl.repository.chain import Chains
from bkctl.repository.summary import BackupState, BackupSummary, damaged, summarize
from bkctl.storage.base import ObjectInfo, Storage, side_by_side

_UNNAMED = "backup"
# With as many, of which each has what it may, a catalogue and what is shown of it take 100 MiB.
MAX_FOLDERS = 30_000
MAX_TEXTS = 4 << 20


class RootBackupDir(BackupDir):
    """A backup that lies directly at the storage's URL, in no folder of its own."""

    def object_name(self, file_name: str) -> str:
        """Give the name under which the storage knows a file of this backup: its own."""
        return file_name

    def list_files(self) -> tuple[ObjectInfo, ...]:
        """List all objects of the storage, except the lock of a run that is writing there."""
        return tuple(info for info in self._storage.list() if info.name != REPOSITORY_LOCK_NAME)


@dataclass(frozen=True, slots=True)
class Catalog:
    """A repository's backups, sorted by name, and which build on which; `url` may be shown."""

    url: str
    backups: tuple[BackupSummary, ...]
    chains: Chains = field(repr=False, compare=False)

    @classmethod
    def of(cls, url: str, backups: Iterable[BackupSummary]) -> Catalog:
        """The catalogue of these backups."""
        by_name = tuple(sorted(backups, key=lambda backup: backup.name))
        return cls(url, by_name, Chains(url, by_name))

    @property
    def damaged(self) -> tuple[BackupSummary, ...]:
        """The backups whose description cannot be read."""
        return tuple(backup for backup in self.backups if backup.state is BackupState.DAMAGED)

    def resolve(
        self, name: str | None = None, at: int | None = None, *, prefer_whole: bool = False
    ) -> list[BackupSummary]:
        """The backups to restore, in order, for a name, `latest` (the default) or a timestamp.

        `at` (a TSO) means the newest backup that ends there or before. With `prefer_whole`, the
        newest that is not limited to some keys, if there is one. One of the result may be damaged.
        Raises UsageError where there is no such backup, or one that it needs is missing.
        """
        if at is not None:
            backup = self.chains.find_at(at, prefer_whole=prefer_whole)
        else:
            backup = self.chains.find(name or "latest", prefer_whole=prefer_whole)
        return self.chains.chain_of(backup)


def read_catalog(storage: Storage, *, to_show: bool = False) -> Catalog:
    """Read what a repository holds; folders that cannot be a backup's by name are passed over.

    Damage is told in the summaries. Raises StorageError where the storage fails or is not there.
    With `to_show` a single folder that cannot be read is no reason to say nothing of the others: it
    is told as damaged. Where nothing is decided by it, that is.
    """
    folders = [BackupDir(storage, name) for name in storage.list_folders() if _is_usable(name)]
    is_single = storage.stat(META_NAME) is not None
    if is_single:
        # The folders beside a backupmeta mostly hold its files, one for each store.
        folders = [folder for folder in folders if folder.is_complete()]
        folders.append(RootBackupDir(storage, root_name(storage)))
    if len(folders) > MAX_FOLDERS:
        raise UsageError(
            f"{storage.url}: holds {len(folders)} folders, and a repository {MAX_FOLDERS} at most; "
            "give the URL of one below it"
        )
    shelf = _Shelf(storage)
    backups = side_by_side(shelf.take_up if to_show else shelf.take_sound, folders)
    if backups and all(shelf.failures.get(backup.name) for backup in backups):
        raise shelf.failures[backups[0].name]
    return Catalog.of(storage.url, backups)


class _Shelf:
    """Summaries of a repository's folders, and how much memory their texts take together."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._room = MAX_TEXTS
        self._lock = threading.Lock()
        self.failures: dict[str, StorageError] = {}

    def take_sound(self, folder: BackupDir) -> BackupSummary:
        """Summarize a folder; raises StorageError."""
        summary = summarize(self._storage, folder)
        with self._lock:
            self._room -= summary.weight
            fits = self._room >= 0
        if fits:
            return summary
        return damaged(folder.name, "its texts are too long to be shown beside the others'")

    def take_up(self, folder: BackupDir) -> BackupSummary:
        """The same; a failure is told in the summary."""
        try:
            return self.take_sound(folder)
        except StorageError as e:
            self.failures[folder.name] = e
            return damaged(folder.name, str(e))


def open_backup(storage: Storage, name: str) -> BackupDir:
    """Give the place of a backup that the catalogue names; UsageError for what can be no name."""
    if storage.stat(META_NAME) is not None and name == root_name(storage):
        return RootBackupDir(storage, name)
    return BackupDir(storage, name)


def root_name(storage: Storage) -> str:
    """The name of a backup that lies directly at the storage's URL: its folder's or bucket's."""
    scheme, _, place = storage.url.partition("://")
    if scheme != "local":
        parts = urlsplit(storage.url)
        place = f"{parts.netloc}{parts.path}"
    name = place.rstrip("/").rpartition("/")[2]
    return name if _is_usable(name) else _UNNAMED


def _is_usable(name: str) -> bool:
    try:
        check_backup_name(name)
    except UsageError:
        return False
    return True
