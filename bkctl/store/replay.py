"""What brings a pinned view up to date before anything is read of it.

A store's newest writes are in its logs. Whoever replays them into the view does so in a process of
its own, as RocksDB may crash on them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bkctl.store.flush import flush_logs
from bkctl.store.layout import StoreLayout
from bkctl.store.view import PinnedView


class Replayer(Protocol):
    """Replays logs into one view: started, told of the view, asked to replay; closed in any case.

    One that `is_led` is asked to replay by whoever leads several of them, with their views.

    Raises CorruptionError for logs that are damaged, SourceError for what cannot be read,
    StorageError where the view has no room.
    """

    @property
    def is_led(self) -> bool:
        """Whether the view's `Source` is not to have it replay."""

    def start(self, layout: StoreLayout) -> None:
        """Look where logs are, and start its process before there are descriptors to inherit."""

    def pinned(self, view: PinnedView) -> None:
        """Told as soon as the view is pinned, so that other logs can be pinned at once."""

    def has_work(self, view: PinnedView) -> bool:
        """Whether there is anything to replay."""

    def replay(self, folder: Path, source: Path) -> None:
        """Replay all there is into SST files of `folder`; `source` is the store, for messages."""

    def close(self) -> None:
        """End its process; may be called twice."""


class LogReplayer:
    """Replays the store's own write-ahead logs, and nothing else."""

    is_led = False

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self._is_cancelled = is_cancelled

    def start(self, layout: StoreLayout) -> None:
        """See Replayer; most stores that are down cleanly need no process."""

    def pinned(self, view: PinnedView) -> None:
        """See Replayer."""

    def has_work(self, view: PinnedView) -> bool:
        """See Replayer."""
        return view.has_wal

    def replay(self, folder: Path, source: Path) -> None:
        """See Replayer."""
        flush_logs(folder, source, self._is_cancelled)

    def close(self) -> None:
        """See Replayer."""
