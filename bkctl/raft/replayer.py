"""Replays a store's raft log into a view, after the write-ahead logs: what TiKV does at its start.

It loads neither RocksDB nor what reads a raft log: the process that it starts does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import WorkerDiedError
from bkctl.pool.helper import Helper, HelperDiedError
from bkctl.raft.locate import EnginePlace, RocksPlace, find_raft_log, raft_log_at
from bkctl.store.flush import flush_logs
from bkctl.store.inspector import store_died
from bkctl.store.layout import StoreLayout
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.view import PinnedView

if TYPE_CHECKING:
    from bkctl.raft.applying import Applying
    from bkctl.raft.standing import Standing


class RaftReplayer:
    """A `bkctl.store.replay.Replayer`; `standings` are those of the regions, once it has replayed.

    `place` is where the raft log is, None where there is none or it is to be ignored.
    """

    def __init__(
        self,
        mode: RaftLogMode,
        raft_dir: Path | None,
        *,
        point_in_time: bool,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`raft_dir` is where to look for the log instead of beside the kv store."""
        self._mode, self._raft_dir, self._point_in_time = mode, raft_dir, point_in_time
        self._is_cancelled = is_cancelled
        self._helper = Helper(_make, "raft", is_cancelled)
        self._data_dir = Path()
        self._source = Path()
        self.place: EnginePlace | RocksPlace | None = None
        self.standings: tuple[Standing, ...] = ()

    def start(self, layout: StoreLayout) -> None:
        """See Replayer; SourceError where there are two raft logs, or none at the place given."""
        self._source = layout.db_dir
        self._data_dir = data_dir_of(layout.db_dir)
        if self._mode is not RaftLogMode.IGNORE:
            raft_dir = self._raft_dir
            self.place = raft_log_at(raft_dir) if raft_dir else find_raft_log(self._data_dir)
        if self.place is not None:
            self._helper.start()

    def pinned(self, view: PinnedView) -> None:
        """See Replayer."""
        if self.place is not None:
            from bkctl.raft.applying import PinLog

            request = PinLog(self.place, view.folder, view.is_live, self._point_in_time)
            for _ in self._ask(request):
                pass

    def has_work(self, view: PinnedView) -> bool:
        """See Replayer."""
        return view.has_wal or self.place is not None

    def replay(self, folder: Path, source: Path) -> None:
        """See Replayer."""
        if self.place is None:
            flush_logs(folder, source, self._is_cancelled)
            return
        from bkctl.raft.applying import ApplyLog

        request = ApplyLog(folder, source, self._data_dir / "import", self._mode)
        found: list[Standing] = []
        for batch in self._ask(request):
            found += batch
        self.standings = tuple(found)
        self._helper.close()

    def close(self) -> None:
        """See Replayer."""
        self._helper.close()

    def _ask(self, request: Any) -> Iterator[Any]:
        try:
            yield from self._helper.ask(request)
        except HelperDiedError as e:
            if e.is_crash:
                raise store_died(self._source, e) from None
            raise WorkerDiedError(
                f"{self._source}: the process that applies the raft log ended: {e}"
            ) from None


def data_dir_of(db_dir: Path) -> Path:
    """The data directory of a store, whose kv RocksDB is in `db_dir`."""
    return db_dir.parent if db_dir.name == "db" else db_dir


def _make() -> Applying:
    from bkctl.raft.applying import Applying

    return Applying()
