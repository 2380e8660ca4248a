"""Opens a store as its cluster would answer: its raft log, too, is applied to the view.

A write is acknowledged when a majority has it in the raft log. What the kv store has of it depends
on when TiKV applied it, and on what a loss of power left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bkctl.errors import SourceError
from bkctl.raft.replayer import RaftReplayer, data_dir_of
from bkctl.raft.replicas import APPLY_END, APPLY_START, RAFT, was_applied
from bkctl.raft.standing import Standing
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.source import Source, SourceOptions

_ATTEMPTS = 3


class RaftSource(Source):
    """A store's view with its raft log applied.

    `standings` tell where its regions stand; there are none where there is no raft log, or it is
    ignored (`is_log_ignored`).
    """

    def __init__(
        self,
        options: SourceOptions,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        is_led: bool = False,
    ) -> None:
        """See Source. One that is led has its logs replayed by `replaying`, then `settle`.

        Raises SourceError, too, where the raft log is missing, CorruptionError where it is damaged
        or another store's.
        """
        self._raft = RaftReplayer(
            options.raft_log,
            options.raft_dir,
            point_in_time=options.point_in_time,
            is_led=is_led,
            is_cancelled=is_cancelled,
        )
        self.standings: tuple[Standing, ...] = ()
        self.is_log_ignored = options.raft_log is RaftLogMode.IGNORE
        super().__init__(options, is_cancelled, self._raft)

    @contextmanager
    def replaying(self) -> Iterator[RaftReplayer | None]:
        """Within the block, the raft log is applied by what is given; the store's own logs are.

        None is given where there is no raft log. For one that is led.
        """
        with self._view.replaying() as folder:
            if self._raft.place is None:
                if self._view.has_wal:
                    self._raft.replay(folder, self.path)
                yield None
            else:
                self._raft.folder = folder
                yield self._raft

    def settle(self) -> None:
        """Go on from where a `Source` is that is not led."""
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def _settle(self) -> None:
        super()._settle()
        self.standings = self._raft.standings
        if self._raft.place is None and not self.is_log_ignored:
            self._refuse_missing_log()

    def __enter__(self) -> RaftSource:
        return self

    def _refuse_missing_log(self) -> None:
        """Raise SourceError if the kv store was written to by way of a raft log."""
        if RAFT in self.families and was_applied(self.raft_records(APPLY_START, APPLY_END)):
            raise SourceError(
                f"{self.path}: its raft log (raft-engine/ or raft/ in {data_dir_of(self.path)}) is "
                "missing, so acknowledged writes may be; say where it is with --raft-dir, or take "
                "what the kv store has with --raft-log ignore"
            )


def open_source(
    options: SourceOptions, is_cancelled: Callable[[], bool] = lambda: False
) -> RaftSource:
    """Open a store; a running one is pinned again if its two logs do not fit together.

    Its kv store is pinned before its raft log, from which what was applied meanwhile may be gone.
    Raises what RaftSource does.
    """
    for _ in range(_ATTEMPTS - 1):
        source = RaftSource(options, is_cancelled)
        if not source.is_live or not any(standing.trouble for standing in source.standings):
            return source
        source.close()
    return RaftSource(options, is_cancelled)
