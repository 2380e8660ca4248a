"""What the parts of a backup keep in its folder, beside its files.

    <backup>/parts/store-4.state          what its store is (`bkctl.fleet.state`)
    <backup>/parts/store-4.lock           which run is at it
    <backup>/parts/store-4.report.json    how its last run went
    <backup>/parts-done/store-4/*         a record for each range that it has finished
    <backup>/parts-done/unchanged-4/*     the same, of ranges that hold nothing of the window

The SST files' names begin with the store's id. All of it goes once the backup is sealed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FinishedRange, read_checkpoints, write_checkpoint
from bkctl.archive.names import PARTS_DONE_FOLDER, PARTS_FOLDER
from bkctl.archive.report import Report
from bkctl.errors import CorruptionError
from bkctl.fleet.state import MAX_STATE_BYTES, State, read_digest, read_state
from bkctl.repository.contents import parse_origin
from bkctl.repository.lock import Lockable, RepositoryLock, repository_lock
from bkctl.storage.base import NotFoundError, Storage, side_by_side
from bkctl.storage.stored import open_stored

_OWN = re.compile(r"store-([1-9][0-9]{0,19})\.(state|lock)")
_MAX_REPORT_BYTES = 1 << 28


class Shelf:
    """The parts of one backup. Methods raise StorageError where the storage fails."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Raise UsageError for a name that cannot be a backup's; touches nothing."""
        self.storage, self.name = storage, name
        self.backup_dir = BackupDir(storage, name)
        self._read: dict[int, tuple[bytes, State]] = {}

    def store_ids(self, *kinds: str) -> list[int]:
        """The stores of which a `state` is recorded, or a `lock` is held."""
        folder = f"{self.name}/{PARTS_FOLDER}"
        names = [info.name.removeprefix(f"{folder}/") for info in self.storage.list(folder)]
        found = filter(None, map(_OWN.fullmatch, names))
        return sorted({int(match[1]) for match in found if match[2] in kinds})

    def signature(self, store_id: int) -> object:
        """What changes once another store's state does; times are told by the second, perhaps."""
        folder = f"{self.name}/{PARTS_FOLDER}"
        return [
            (info.name, info.size, info.modified)
            for info in self.storage.list(folder)
            if info.name.endswith(".state") and not info.name.endswith(f"/store-{store_id}.state")
        ]

    def read_state(self, store_id: int) -> State | None:
        """What a store's part has recorded; None where there is nothing.

        Raises CorruptionError for one that is damaged, or of another store.
        """
        name = self._object(f"store-{store_id}.state")
        where = f"{self.backup_dir.where}: {PARTS_FOLDER}/store-{store_id}.state"
        try:
            with open_stored(self.storage, name, MAX_STATE_BYTES) as stored:
                digest = read_digest(stored, where)
                # Whoever waits for others looks at them again and again.
                if store_id in self._read and self._read[store_id][0] == digest:
                    return self._read[store_id][1]
                state = read_state(stored, where)
        except NotFoundError:
            return None
        if state.store_id != store_id:
            raise CorruptionError(f"{where}: is of store {state.store_id}")
        self._read[store_id] = digest, state
        return state

    def recorded_ms(self, store_id: int) -> float:
        """When a state was recorded by the storage's clock, in milliseconds since 1970."""
        info = self.storage.stat(self._object(f"store-{store_id}.state"))
        return info.modified * 1000 if info is not None else 0.0

    def write_state(self, state: State) -> None:
        """Record a store's state, in place of an earlier one."""
        self.storage.write(self._object(f"store-{state.store_id}.state"), state.encode())

    def lock(
        self, store_id: int, command: str, notify: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[RepositoryLock]:
        """Keep other runs away from a store's part; raises RepositoryLockedError."""
        what = f"the part of store {store_id} of backup {self.name}"
        of = Lockable(self._object(f"store-{store_id}.lock"), what)
        return repository_lock(self.storage, command, notify=notify, of=of)

    def write_report(self, store_id: int, report: Report) -> None:
        """Keep how a part's last run went."""
        self.storage.write(self._object(f"store-{store_id}.report.json"), report.to_json())

    def read_report(self, store_id: int) -> Report | None:
        """How a part's last run went; None where nothing tells."""
        name = self._object(f"store-{store_id}.report.json")
        try:
            with open_stored(self.storage, name, _MAX_REPORT_BYTES) as stored:
                return Report.read(stored.whole(), name)
        except (NotFoundError, CorruptionError):
            return None

    def records(self, store_id: int) -> list[FinishedRange]:
        """The ranges that a part has finished, in key order; damaged records are passed over."""
        return read_checkpoints(self.storage, self.name, records_of(store_id))

    def unchanged(self, store_id: int) -> list[FinishedRange]:
        """The ranges of which a part has found that they need not be read, in the same way."""
        return read_checkpoints(self.storage, self.name, unchanged_of(store_id))

    def write_unchanged(self, store_id: int, ranges: Iterable[FinishedRange]) -> None:
        """Record those, in place of earlier ones."""
        folder = unchanged_of(store_id)

        def write(finished: FinishedRange) -> None:
            write_checkpoint(self.storage, self.name, finished, folder)

        wanted = list(ranges)
        names = {self._own(finished.record_name_in(folder)) for finished in wanted}
        present = [info.name for info in self.storage.list(self._own(folder))]
        side_by_side(self.storage.delete, [name for name in present if name not in names])
        side_by_side(write, wanted)

    def keep(self, store_id: int, kept: Iterable[FinishedRange]) -> None:
        """Remove what else a store's part has left: records, and the files that they tell of."""
        folder = records_of(store_id)
        wanted = {self._own(file.name) for record in kept for file in record.files}
        wanted |= {self._own(record.record_name_in(folder)) for record in kept}
        others = [
            info.name
            for info in self.backup_dir.list_files()
            if info.name not in wanted and self._is_of(store_id, info.name)
        ]
        side_by_side(self.storage.delete, others)
        self.storage.discard_staging(self._own(folder))

    def clear(self, named: Iterable[str]) -> None:
        """Remove what parts have left, but for the files `named`, which are the backup's."""
        wanted = {self._own(name) for name in named}
        others = [
            info.name
            for info in self.backup_dir.list_files()
            if info.name.startswith((self._object(""), self._own(f"{PARTS_DONE_FOLDER}/")))
            or (info.name not in wanted and parse_origin(info.name) is not None)
        ]
        side_by_side(self.storage.delete, others)

    def _is_of(self, store_id: int, name: str) -> bool:
        inner = name.removeprefix(f"{self.name}/")
        if inner.startswith(f"{records_of(store_id)}/"):
            return True
        origin = None if "/" in inner else parse_origin(inner)
        return origin is not None and origin.store_id == store_id

    def _object(self, name: str) -> str:
        return self._own(f"{PARTS_FOLDER}/{name}")

    def _own(self, name: str) -> str:
        return self.backup_dir.object_name(name)


def records_of(store_id: int) -> str:
    """The folder of a store's records, in the backup's."""
    return f"{PARTS_DONE_FOLDER}/store-{store_id}"


def unchanged_of(store_id: int) -> str:
    """The same of ranges that need not be read."""
    return f"{PARTS_DONE_FOLDER}/unchanged-{store_id}"
