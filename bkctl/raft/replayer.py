"""Replays a store's raft log into a view, after the write-ahead logs: what TiKV does at its start.

It loads neither RocksDB nor what reads a raft log: the process that it starts does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import WorkerDiedError
from bkctl.pool.helper import Helper, HelperDiedError
from bkctl.raft.locate import EnginePlace, RocksPlace, find_raft_log, raft_log_at
from bkctl.store.flush import flush_logs
from bkctl.store.ident import StoreIdent
from bkctl.store.inspector import store_died
from bkctl.store.layout import StoreLayout
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.view import PinnedView

if TYPE_CHECKING:
    from bkctl.raft.applying import Applying
    from bkctl.raft.standing import Standing
    from bkctl.store.atrest.dictionary import AtRestPlace


class RaftReplayer:
    """A `bkctl.store.replay.Replayer`; `standings` are those of the regions, once it has replayed.

    `place` is where the raft log is, None where there is none or it is to be ignored. One that is
    led is asked to `read`, to `apply` any number of times, and to `finish`.
    """

    def __init__(
        self,
        mode: RaftLogMode,
        raft_dir: Path | None,
        *,
        point_in_time: bool,
        is_led: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`raft_dir` is where to look for the log instead of beside the kv store."""
        self._mode, self._raft_dir, self._point_in_time = mode, raft_dir, point_in_time
        self._is_cancelled = is_cancelled
        self._helper = Helper(_make, "raft", is_cancelled)
        self._data_dir = Path()
        self._source = Path()
        self._at_rest: AtRestPlace | None = None
        self.is_led = is_led
        self.folder = Path()
        self.place: EnginePlace | RocksPlace | None = None
        self.standings: tuple[Standing, ...] = ()

    def start(self, layout: StoreLayout) -> None:
        """See Replayer; SourceError where there are two raft logs, or none at the place given."""
        self._source = layout.db_dir
        self._at_rest = None if layout.at_rest is None else layout.at_rest.place
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

            request = PinLog(
                *(self.place, view.folder, view.is_live, self._point_in_time), self._at_rest
            )
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
        self.folder = folder
        for _ in self._ask(self._reading(tells=False)):
            pass
        self.apply()
        self.finish()

    def read(self) -> tuple[StoreIdent, tuple[Standing, ...]]:
        """Replay the store's own logs, and read the raft log: who it is, where each region stands.

        There is a raft log (`place`), and `folder` is the view's, within its `replaying`.
        """
        ident, *batches = self._ask(self._reading(tells=True))
        return ident, tuple(chain.from_iterable(batches))

    def apply(self, decided: Mapping[int, int] | None = None) -> tuple[Standing, ...]:
        """Apply the raft log, see ApplyLog for what is `decided`; give what came of each region."""
        from bkctl.raft.applying import ApplyLog

        batches = self._ask(ApplyLog(self._mode, decided or {}))
        # Of a region that comes again, the last counts.
        found = {each.region_id: each for each in chain.from_iterable(batches)}
        self.standings = tuple(found.values())
        return self.standings

    def finish(self) -> None:
        """Have all of it written into SST files of the view."""
        from bkctl.raft.applying import Finish

        for _ in self._ask(Finish()):
            pass
        self._helper.close()

    def close(self) -> None:
        """See Replayer."""
        self._helper.close()

    def _reading(self, *, tells: bool) -> object:
        from bkctl.raft.applying import ReadLog

        return ReadLog(self.folder, self._source, self._data_dir / "import", tells)

    def _ask(self, request: object) -> Iterator[Any]:
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
