"""Opens stores of other machines as one source: an agent for each, and an election among them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bkctl.cluster.choice import Choice
from bkctl.cluster.election import Each, Election
from bkctl.cluster.stores import Stores, no_raft_log
from bkctl.errors import UsageError
from bkctl.executor.cluster_file import ClusterStore
from bkctl.executor.crew import Crew, begin, how_to_start, own_options
from bkctl.executor.remote import RemoteAgent, RemoteSource, close_agents
from bkctl.executor.scheduler import DaskWorker, Scheduler
from bkctl.store.source import SourceOptions

_PAUSE_SECONDS = 0.5
_JOINING_SECONDS = 10.0
_T = TypeVar("_T")


class RemoteStores(Stores):
    """Stores of other machines, with who reads each of them."""

    def __init__(
        self,
        scheduler: Scheduler,
        crews: Sequence[Crew],
        choices: dict[int, Choice] | None,
        *,
        allow_minority: bool,
    ) -> None:
        super().__init__([crew.first for crew in crews], choices, allow_minority=allow_minority)
        self._scheduler, self.crews = scheduler, crews

    def close(self) -> None:
        """See Stores: the agents end, those that are joining too."""
        for crew in self.crews:
            crew.is_over = True
        for thread in [thread for crew in self.crews for thread in crew.threads]:
            thread.join(_JOINING_SECONDS)
        agents = [agent for crew in self.crews for agent in (*crew.agents, *crew.arrived)]
        for crew in self.crews:
            crew.agents.clear()
            crew.arrived.clear()
        close_agents(self._scheduler, agents)


class Opening:
    """How stores are opened; a worker for each is waited for, `grace` seconds at most."""

    def __init__(
        self,
        scheduler: Scheduler,
        stores: Sequence[ClusterStore],
        grace: float,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._scheduler, self._stores = scheduler, stores
        self._grace, self._is_cancelled = grace, is_cancelled

    def open(self, options: Sequence[SourceOptions], *, allow_minority: bool) -> RemoteStores:
        """Open them all at once, each by the worker that has the most to give for it.

        Raises UsageError where nobody has a store, or what Stores raises.
        """
        workers = self._find_workers()
        numbers = range(len(self._stores))
        agents: list[RemoteAgent] = []

        def start(number: int) -> RemoteSource:
            store, own = self._stores[number], options[number]
            best = max(workers[store.id], key=lambda worker: worker.slots[store.id])
            agent = begin(self._scheduler, best, store, own, self._is_cancelled)
            agents.append(agent)
            return RemoteSource(agent, own_options(store, own, agent))

        try:
            with ThreadPoolExecutor(len(self._stores)) as threads:

                def each(ask: Callable[[int], _T], asked: Sequence[int], /) -> list[_T]:
                    return list(threads.map(ask, asked))

                sources = each(start, numbers)
                choices = _elect(sources, each, allow_minority)
        except BaseException:
            close_agents(self._scheduler, agents)
            raise
        crews = []
        for number, source in enumerate(sources):
            store = self._stores[number]
            there = [source.agent.worker] if source.is_live else workers[store.id]
            slots = sum(worker.slots[store.id] for worker in there)
            chosen = _chosen(choices or {}, number)
            crew = Crew(store, options[number], number, source, slots, chosen, [source.agent])
            crews.append(crew)
        return RemoteStores(self._scheduler, crews, choices, allow_minority=allow_minority)

    def _find_workers(self) -> dict[int, list[DaskWorker]]:
        """By store the workers that have it; UsageError if one has none for too long."""
        until = time.monotonic() + self._grace
        pause = threading.Event()
        while True:
            workers = self._scheduler.workers()
            found = {
                store.id: [worker for worker in workers if store.id in worker.slots]
                for store in self._stores
            }
            lacking = next((store for store, own in found.items() if not own), None)
            if lacking is None:
                return found
            if time.monotonic() >= until or self._is_cancelled():
                address = self._scheduler.address
                raise UsageError(
                    f"store {lacking}: no Dask worker of {address} can read it; "
                    f"{how_to_start(address, lacking)}"
                )
            pause.wait(_PAUSE_SECONDS)


def _elect(sources: Sequence[RemoteSource], each: Each, minority: bool) -> dict[int, Choice] | None:
    silent = [source for source in sources if not source.has_log]
    if not silent:
        return Election(sources, allow_minority=minority, each=each).hold()
    for source in sources:
        source.finish()
    if len(sources) > 1:
        raise no_raft_log(silent[0].path)
    return None


def _chosen(choices: dict[int, Choice], number: int) -> list[Choice]:
    """What is read from the store of this number."""
    return [
        choice
        for choice in choices.values()
        if choice.best is not None and not choice.unfit and choice.best.number == number
    ]
