"""The catalogue: all that a repository holds, backup by backup.

URL/<name>/backupmeta ...     a repository, each folder a backup (or an unfinished one)
URL/backupmeta ...            a single backup, as br writes it; it counts as one of that name
                              which its folder (or bucket) has
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.names import META_NAME, REPOSITORY_LOCK_NAME, check_backup_name
from bkctl.errors import UsageError
from bkctl.repository.chain import Chains
from bkctl.repository.summary import BackupState, BackupSummary, summarize
from bkctl.storage.base import ObjectInfo, Storage, side_by_side

_UNNAMED = "backup"


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


def read_catalog(storage: Storage) -> Catalog:
    """Read what a repository holds; folders that cannot be a backup's by name are passed over.

    Damage is told in the summaries. Raises StorageError where the storage fails or is not there.
    """
    folders = [BackupDir(storage, name) for name in storage.list_folders() if _is_usable(name)]
    is_single = storage.stat(META_NAME) is not None
    if is_single:
        # The folders beside a backupmeta mostly hold its files, one for each store.
        folders = [folder for folder in folders if folder.is_complete()]
        folders.append(RootBackupDir(storage, root_name(storage)))
    backups = side_by_side(lambda folder: summarize(storage, folder), folders)
    return Catalog.of(storage.url, backups)


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
