"""What a backup asks of a store that is at hand, here or on another machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from bkctl.raft.standing import Standing
from bkctl.store.ident import StoreIdent
from bkctl.store.manifest import LiveFile
from bkctl.titan.manifest import BlobFileMeta


class StoreAtHand(Protocol):
    """A store, pinned and with its logs applied; see `bkctl.raft.source.RaftSource`.

    Paths of the view are those of the machine that the store is on: `place` says which.
    """

    is_log_ignored: bool
    is_ttl_known: bool
    ident: StoreIdent
    standings: tuple[Standing, ...]

    @property
    def place(self) -> str:
        """Where it is: empty for this machine, else its executor's own word for it."""

    @property
    def path(self) -> Path:
        """The store's own database directory, for messages."""

    @property
    def db_dir(self) -> Path:
        """The view's folder, to be opened where the store is."""

    @property
    def is_live(self) -> bool:
        """Whether another process had the store open when it was pinned."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the store has files that are encrypted at rest."""

    @property
    def blob_files(self) -> tuple[BlobFileMeta, ...]:
        """The files of values that Titan keeps beside the SST files."""

    def live_files(self) -> tuple[LiveFile, ...]:
        """The SST files that make up the view."""

    def without(self, files: Iterable[LiveFile]) -> Path:
        """A folder to open that shows all but these files."""

    def add_file(self, name: str, content: Iterable[bytes]) -> Path:
        """Keep a file for workers as long as the view."""

    def has_region_records(self) -> bool:
        """Whether the store has a record of any region."""

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """The store's own region records."""

    def require(self, *families: str) -> None:
        """Raise SourceError, by name, for a column family that the store does not have."""

    def rest(self) -> None:
        """Say that no more is to be asked for now."""

    def close(self) -> None:
        """Let the store go; may be called twice."""
