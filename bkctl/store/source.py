"""A store made ready for many readers: located, pinned, its logs flushed, its identity known.

RocksDB opens it in other processes only: what is wrong with a store does not end this one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from bkctl.errors import CorruptionError
from bkctl.sst.source import FileReader
from bkctl.store.families import require_families
from bkctl.store.ident import API_V1, API_V1TTL, StoreIdent, parse_store_ident
from bkctl.store.inspector import (
    REGION_STATE_END,
    REGION_STATE_PREFIX,
    Inspector,
    StoreCrashError,
)
from bkctl.store.layout import StoreLayout, locate
from bkctl.store.manifest import LiveFile
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.replay import LogReplayer, Replayer
from bkctl.store.tikv_config import read_tikv_config
from bkctl.store.view import PinnedView
from bkctl.store.view_files import ViewFiles
from bkctl.titan.manifest import BlobFileMeta


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to open a store: `work_dir` takes the temporary view, `wal_dir` holds the logs.

    `point_in_time` takes what lies before a damage in the MANIFEST's or the log's tail, as TiKV
    would; without it such damage is an error. `api_version` overrides the
    store's own. `raft_log` says how far the raft log is applied, `raft_dir` where it is if not
    beside the kv store (`bkctl.raft.source`).

    `master_key` is the file of the key of a store that is encrypted at rest, None for the one that
    TiKV's own configuration names; `warn` is told of one that is not safe.
    """

    path: Path
    work_dir: Path | None = None
    wal_dir: Path | None = None
    point_in_time: bool = False
    api_version: int | None = None
    raft_log: RaftLogMode = RaftLogMode.COMMITTED
    raft_dir: Path | None = None
    master_key: Path | None = None
    warn: Callable[[str], None] = field(default=lambda message: None, compare=False)


class Source:
    """A context manager: one consistent view of a store, from here to the end of the block."""

    def __init__(
        self,
        options: SourceOptions,
        is_cancelled: Callable[[], bool] = lambda: False,
        replayer: Replayer | None = None,
    ) -> None:
        """Pin the store and read who it is; `replayer` replays its logs (default: LogReplayer).

        Raises SourceError for what cannot be read, CorruptionError for what is damaged,
        StorageError where the temporary view has no room, CancelledError once `is_cancelled`.
        """
        layout = self._layout = locate(
            options.path, options.wal_dir, options.master_key, options.warn
        )
        self.options = options
        self._files: ViewFiles | None = None
        self._replayer = replayer or LogReplayer(is_cancelled)
        # Both are started before there are descriptors to be inherited.
        self._inspector = Inspector(is_cancelled)
        try:
            self._replayer.start(layout)
            self._view = _pinned(layout, options, is_cancelled)
        except BaseException:
            self._inspector.close()
            self._replayer.close()
            _close_dictionaries(layout)
            raise
        try:
            self._replayer.pinned(self._view)
            if not self._replayer.is_led:
                if self._replayer.has_work(self._view):
                    with self._view.replaying() as folder:
                        self._replayer.replay(folder, self.path)
                self._settle()
        except BaseException:
            self.close()
            raise

    def _settle(self) -> None:
        """Read who the store is, once its logs are replayed."""
        self._replayer.close()
        with self._naming_the_file():
            facts = self._inspector.open(self._view.db_dir, self.path)
        self.families, self.last_sequence = facts.families, facts.last_sequence
        self._has_regions = facts.has_regions
        ident = facts.ident
        self.ident = StoreIdent() if ident is None else parse_store_ident(ident, self.path)
        self._find_api_version(self.options.api_version)

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Where RocksDB crashes within the block, find out on which file, as far as can be seen."""
        try:
            yield
        except StoreCrashError as crash:
            # Loaded for this alone: it brings numpy.
            from bkctl.sst.soundness import check_outline

            for file in self.live_files():
                try:
                    with self.open_live(file) as reader:
                        check_outline(reader, str(self.path / file.name))
                except CorruptionError as e:
                    raise CorruptionError(f"{e} ({str(crash).partition(': ')[2]})") from None
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
        self.close()

    def rest(self) -> None:
        """Say that no more is to be asked for now, so that nothing is kept for it."""
        self._inspector.rest()

    def close(self) -> None:
        """Let the store go; may be called twice."""
        self._replayer.close()
        self._inspector.close()
        self._view.close()
        _close_dictionaries(self._layout)

    @property
    def db_dir(self) -> Path:
        """The view's folder, to be opened with `Database` in any process."""
        return self._view.db_dir

    @property
    def place(self) -> str:
        """Where the store is, if not on this machine; empty, as it is."""
        return ""

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

    @property
    def blob_files(self) -> tuple[BlobFileMeta, ...]:
        """The files of values that Titan keeps beside those."""
        return self._view.blob_files

    def without(self, files: Iterable[LiveFile]) -> Path:
        """A folder to open with `Database`, in any process, that shows all but these files.

        Raises StorageError where it cannot be written.
        """
        return self._view.narrow(files)

    def read_path(self, file: LiveFile) -> Path:
        """Where a file of the view is, encrypted if it is so in the store."""
        return self.db_dir / file.name

    def add_file(self, name: str, content: Iterable[bytes]) -> Path:
        """Keep a file for workers as long as the view: in memory if the store is encrypted.

        Raises StorageError where there is no room.
        """
        return self._view.add_file(name, content)

    @property
    def is_encrypted(self) -> bool:
        """Whether the store has files that are encrypted at rest."""
        return self._layout.at_rest is not None

    def open_live(self, file: LiveFile) -> FileReader:
        """Open a file of the view to read its plain bytes; StorageError."""
        if self._files is None:
            self._files = ViewFiles(self.db_dir)
        return self._files.open(file.name)

    def open_file(self, path: Path) -> FileReader:
        """Open any file of the store's own, pinned or not, to read its plain bytes.

        Raises StorageError where it cannot be opened, SourceError where its key cannot be had.
        """
        at_rest = self._layout.at_rest
        return FileReader(path) if at_rest is None else at_rest.open(path)

    def require(self, *families: str) -> None:
        """Raise SourceError, by name, for a column family that the store does not have."""
        require_families(self.path, self.families, families)

    def has_region_records(self) -> bool:
        """Whether the store has a record of any region, as TiKV's have."""
        return self._has_regions

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """The store's own region records, out of its `raft` family; SourceError without one."""
        return self.raft_records(REGION_STATE_PREFIX, REGION_STATE_END)

    def raft_records(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The records `[lower, upper)` of the family `raft`; SourceError without one."""
        return self.records("raft", lower, upper)

    def records(self, family: str, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The records `[lower, upper)` of a family, small ones; SourceError without the family."""
        self.require(family)
        with self._naming_the_file():
            yield from self._inspector.records(family, lower, upper)

    def missing(self, family: str, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """Tell which of `keys` a column family of the view does not show."""
        with self._naming_the_file():
            return self._inspector.missing(family, keys)


def _pinned(
    layout: StoreLayout, options: SourceOptions, is_cancelled: Callable[[], bool]
) -> PinnedView:
    work_dir, point_in_time = options.work_dir, options.point_in_time
    if layout.at_rest is None:
        return PinnedView(layout, work_dir, point_in_time=point_in_time)
    from bkctl.store.sealed_view import SealedView

    at_rest = layout.at_rest
    return SealedView(layout, at_rest, work_dir, is_cancelled, point_in_time=point_in_time)


def _close_dictionaries(layout: StoreLayout) -> None:
    if layout.at_rest is not None:
        layout.at_rest.close()
