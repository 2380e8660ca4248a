"""A store on another machine, as the coordinator has it: an agent there, and what it told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from bkctl.backup.changes import Changes
from bkctl.cluster.choice import Choice
from bkctl.errors import SourceError, UsageError
from bkctl.executor import bridge
from bkctl.executor.messages import (
    Apply,
    BlockingLocks,
    FindChanges,
    Finish,
    OpenStore,
    Parcel,
    Read,
    Records,
    Refused,
    RegionRecords,
    StoreFacts,
    Without,
)
from bkctl.executor.scheduler import DaskWorker, Scheduler
from bkctl.raft.standing import Standing
from bkctl.regions.plan import BackupRange
from bkctl.store.families import require_families
from bkctl.store.ident import StoreIdent
from bkctl.store.manifest import LiveFile
from bkctl.store.source import SourceOptions
from bkctl.titan.manifest import BlobFileMeta

_CLOSING_SECONDS = 30.0


class RemoteAgent:
    """An agent beside a Dask worker, for one store; `writer` is its number in files' names.

    `first_worker` is the number of its first process, of those of all agents.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        worker: DaskWorker,
        about: bridge.About,
        store: int,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Have it started; the first answer tells whether it was."""
        self.worker, self.store = worker, store
        self.session = uuid4().hex
        self.slots = worker.slots[store]
        self.host = about.host
        self.writer = self.first_worker = 0
        self._scheduler, self._is_cancelled = scheduler, is_cancelled
        self._lease = scheduler.submit(
            *(worker.address, None, bridge.open_agent),
            *(self.session, about.worker_id, self.slots),
        )

    def ask(self, request: object) -> Any:
        """Its answer to a request of `messages`; raises what it could not do, WorkerLostError."""
        address = self.worker.address
        self._scheduler.settle(self._lease, address, self._is_cancelled)
        future = self._scheduler.submit(address, None, bridge.ask, self.session, Parcel(request))
        answer = self._scheduler.result(future, address, self._is_cancelled).open()
        if isinstance(answer, Refused):
            raise answer.as_error(f"store {self.store} on {self.host}: ")
        return answer

    def release(self) -> None:
        """Let it go, without a word to it: for one that may not be there any more."""
        self._lease.release()


def close_agents(scheduler: Scheduler, agents: Sequence[RemoteAgent]) -> None:
    """End agents and wait for that; those that cannot be reached end when Dask sees it."""
    if agents and not scheduler.is_lost:
        sessions = tuple(agent.session for agent in agents)
        there = sorted({agent.worker.address for agent in agents})
        scheduler.run(bridge.close, sessions, workers=there, seconds=_CLOSING_SECONDS)
    for agent in agents:
        agent.release()


class RemoteSource:
    """See `bkctl.raft.at_hand.StoreAtHand`, and `bkctl.cluster.election.Voice`.

    `has_log` is whether the store has a raft log.
    """

    def __init__(self, agent: RemoteAgent, options: SourceOptions) -> None:
        """Have the store pinned; raises what RaftSource raises."""
        self.agent = agent
        self.has_log = bool(agent.ask(OpenStore(_portable(options), agent.session)))
        self.standings: tuple[Standing, ...] = ()
        self._decided: list[Mapping[int, int]] = []
        self._facts: StoreFacts | None = None

    def read(self) -> tuple[StoreIdent, tuple[Standing, ...]]:
        """See Voice."""
        ident, standings = self.agent.ask(Read())
        return ident, standings

    def apply(self, decided: Mapping[int, int] | None = None) -> tuple[Standing, ...]:
        """See Voice; what was decided is remembered."""
        self._decided.append(dict(decided or {}))
        self.standings = self.agent.ask(Apply(self._decided[-1]))
        return self.standings

    def finish(self) -> None:
        """See Voice; the store is ready then. Raises SourceError for another store's."""
        facts: StoreFacts = self.agent.ask(Finish())
        if facts.ident.store_id != self.agent.store:
            raise SourceError(
                f"store {self.agent.store} on {self.agent.host}: {facts.path} is store "
                f"{facts.ident.store_id}; correct --cluster"
            )
        self._facts, self.standings = facts, facts.standings
        self.ident = facts.ident
        self.is_ttl_known, self.is_log_ignored = facts.is_ttl_known, facts.is_log_ignored

    def follow(self, other: RemoteSource) -> None:
        """Come to where another agent's view of the same store stands; see Voice."""
        if self.has_log and other.has_log:
            self.read()
            for decided in other._decided:
                self.apply(decided)
        self.finish()

    @property
    def _ready(self) -> StoreFacts:
        assert self._facts is not None
        return self._facts

    @property
    def place(self) -> str:
        """See StoreAtHand."""
        return self.agent.session

    @property
    def path(self) -> Path:
        """See StoreAtHand: with the machine before it."""
        return Path(f"{self.agent.host}:{self._ready.path}")

    @property
    def db_dir(self) -> Path:
        """See StoreAtHand."""
        return self._ready.db_dir

    @property
    def is_live(self) -> bool:
        """See StoreAtHand."""
        return self._ready.is_live

    @property
    def is_encrypted(self) -> bool:
        """See StoreAtHand."""
        return self._ready.is_encrypted

    @property
    def blob_files(self) -> tuple[BlobFileMeta, ...]:
        """See StoreAtHand."""
        return self._ready.blob_files

    def live_files(self) -> tuple[LiveFile, ...]:
        """See StoreAtHand."""
        return self._ready.live_files

    def without(self, files: Iterable[LiveFile]) -> Path:
        """See StoreAtHand."""
        path: Path = self.agent.ask(Without(tuple(files)))
        return path

    def find_changes(self, ranges: Sequence[BackupRange], start_ts: int, end_ts: int) -> Changes:
        """See `bkctl.backup.changes.find_changes`."""
        changes: Changes = self.agent.ask(FindChanges(tuple(ranges), start_ts, end_ts))
        return changes

    def add_file(self, name: str, content: Iterable[bytes]) -> Path:
        """See StoreAtHand."""
        raise UsageError(f"{name}: no such file goes to other machines")

    def has_region_records(self) -> bool:
        """See StoreAtHand."""
        return self._ready.has_regions

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """See StoreAtHand."""
        yield from self.agent.ask(RegionRecords())

    def records(self, family: str, lower: bytes, upper: bytes) -> list[tuple[bytes, bytes]]:
        """The records `[lower, upper)` of a family of the view, small ones."""
        found: list[tuple[bytes, bytes]] = self.agent.ask(Records(family, lower, upper))
        return found

    def blocking_locks(
        self, spans: Sequence[tuple[bytes, bytes]], end_ts: int
    ) -> list[tuple[bytes, bytes]]:
        """The locks in spans of data keys that block a snapshot: data keys and values."""
        found: list[tuple[bytes, bytes]] = self.agent.ask(BlockingLocks(tuple(spans), end_ts))
        return found

    def require(self, *families: str) -> None:
        """See StoreAtHand."""
        require_families(self.path, self._ready.families, families)

    def rest(self) -> None:
        """See StoreAtHand: the agent does so by itself."""

    def close(self) -> None:
        """See StoreAtHand: agents are closed together."""


def difference(own: RemoteSource, first: RemoteSource, chosen: Iterable[Choice]) -> str:
    """Why `own` cannot be read in place of `first`, for the regions chosen there; empty if it can.

    Both are the same store, pinned twice, and the same was decided of both.
    """
    if own.ident != first.ident:
        return f"it is store {own.ident.store_id} of cluster {own.ident.cluster_id}"
    if not first.has_log:
        return "without a raft log, nobody can tell whether it is as it was"
    standings = {standing.region_id: standing for standing in own.standings}
    for choice in chosen:
        assert choice.best is not None
        found = standings.get(choice.region_id)
        if found is None or _where(found) != _where(choice.best.standing):
            moved = "it is running, and has moved on" if own.is_live else "it is not the same"
            return f"{moved} (region {choice.region_id} stands elsewhere by its raft log)"
    return ""


def _where(standing: Standing) -> tuple[object, ...]:
    return (
        *(standing.state, standing.version, standing.conf_ver),
        *(standing.start_key, standing.end_key),
        *(standing.last_term, standing.last_index, standing.applied_to, standing.trouble),
    )


def _portable(options: SourceOptions) -> SourceOptions:
    return replace(options, warn=_say_nothing)


def _say_nothing(message: str) -> None:
    """Warnings of another machine's key files stay there."""
