"""A store made ready for many readers: located, pinned, its logs flushed, its identity known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from bkctl.store.database import Database, require_families
from bkctl.store.flush import flush_logs
from bkctl.store.ident import API_V1, API_V1TTL, IDENT_KEY, StoreIdent, parse_store_ident
from bkctl.store.layout import locate
from bkctl.store.manifest import LiveFile
from bkctl.store.tikv_config import read_tikv_config
from bkctl.store.view import PinnedView

REGION_STATE_PREFIX = b"\x01\x03"
_REGION_STATE_END = b"\x01\x04"
_RECORDS = 1024


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to open a store: `work_dir` takes the temporary view, `wal_dir` holds the logs.

    `point_in_time` takes what lies before a damage in the MANIFEST's or the log's tail, as TiKV
    would; without it such damage is an error. `api_version` overrides the
    store's own.
    """

    path: Path
    work_dir: Path | None = None
    wal_dir: Path | None = None
    point_in_time: bool = False
    api_version: int | None = None


class Source:
    """A context manager: one consistent view of a store, from here to the end of the block."""

    def __init__(self, options: SourceOptions) -> None:
        """Pin the store and read who it is.

        Raises SourceError for what cannot be read, CorruptionError for what is damaged,
        StorageError where the temporary view has no room.
        """
        layout = locate(options.path, options.wal_dir)
        self._view = PinnedView(layout, options.work_dir, point_in_time=options.point_in_time)
        try:
            if self._view.has_wal:
                flush_logs(self._view.db_dir, layout.db_dir)
                self._view.flushed()
            with self._database() as database:
                self.families = database.families
                self.last_sequence = database.last_sequence
                ident = database.get("default", IDENT_KEY)
            self.ident = StoreIdent() if ident is None else parse_store_ident(ident, layout.db_dir)
            self._find_api_version(options.api_version)
        except BaseException:
            self._view.close()
            raise

    def _find_api_version(self, given: int | None) -> None:
        """Settle how raw pairs are laid out, of which the store's record tells only a part."""
        self.is_ttl_known = True
        if given is None and self.ident.api_version == API_V1:
            config = read_tikv_config(self.path)
            self.is_ttl_known = config is not None
            given = API_V1TTL if config is not None and config.enable_ttl else API_V1
        if given is not None:
            self.ident = replace(self.ident, api_version=given)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view.close()

    @property
    def db_dir(self) -> Path:
        """The view's folder, to be opened with `Database` in any process."""
        return self._view.db_dir

    @property
    def path(self) -> Path:
        """The store's own database directory."""
        return self._view.source

    @property
    def manifest(self) -> Path:
        """The store's MANIFEST, for messages."""
        return self._view.manifest

    @property
    def unknown_files(self) -> tuple[Path, ...]:
        """SST files in the store that its MANIFEST never mentions."""
        return self._view.unknown_files

    @property
    def is_live(self) -> bool:
        """Whether another process had the store open when it was pinned."""
        return self._view.is_live

    def live_files(self) -> tuple[LiveFile, ...]:
        """The SST files that make up the view, those that its logs were flushed into included."""
        return self._view.state.live_files

    def without(self, files: Iterable[LiveFile]) -> Path:
        """A folder to open with `Database`, in any process, that shows all but these files.

        Raises StorageError where it cannot be written.
        """
        return self._view.narrow(files)

    def read_path(self, file: LiveFile) -> Path:
        """Where to read a file of the view."""
        return self.db_dir / file.name

    def require(self, *families: str) -> None:
        """Raise SourceError, by name, for a column family that the store does not have."""
        require_families(self.path, self.families, families)

    def has_region_records(self) -> bool:
        """Whether the store has a record of any region, as TiKV's have."""
        return "raft" in self.families and next(self.region_records(), None) is not None

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """The store's own region records, out of its `raft` family; SourceError without one."""
        with self._database() as database:
            database.require("raft")
            scan = database.scan("raft", REGION_STATE_PREFIX, _REGION_STATE_END)
            while records := scan.take(_RECORDS):
                yield from records

    @contextlib.contextmanager
    def _database(self) -> Iterator[Database]:
        database = Database(self.db_dir, self.path)
        try:
            yield database
        finally:
            database.close()
