"""The agents of one store in a run: those that are there, and those that are to join them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bkctl.cluster.choice import Choice
from bkctl.errors import BkctlError, UsageError
from bkctl.executor.cluster_file import ClusterStore
from bkctl.executor.remote import RemoteAgent, RemoteSource, close_agents, difference
from bkctl.executor.scheduler import RESOURCE, DaskWorker, Scheduler
from bkctl.store.source import SourceOptions


@dataclass(slots=True, eq=False)
class Crew:
    """Who reads a store: `view` is its number, `first` the source that the plan was made with.

    `waiting` are jobs for which no agent is free, `joining` addresses of Dask workers that are on
    their way to take part, `tried` those that need not be asked (again). `lonely_since` is when the
    last agent went; `trouble` why one could not come in its place. Once all `is_over`, those that
    are joining (in `threads`) give up; some have `arrived` that nobody took in yet.
    """

    store: ClusterStore
    options: SourceOptions
    view: int
    first: RemoteSource
    slots: int
    chosen: Sequence[Choice] = ()
    agents: list[RemoteAgent] = field(default_factory=list)
    waiting: deque[Any] = field(default_factory=deque)
    joining: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    lonely_since: float | None = None
    trouble: str = ""
    is_over: bool = False
    arrived: list[RemoteAgent] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def follower(
        self, scheduler: Scheduler, worker: DaskWorker, is_cancelled: Callable[[], bool]
    ) -> RemoteAgent:
        """Have another worker pin the store and come to where the first one stood.

        Raises BkctlError where it does not come to that.
        """
        agent = begin(scheduler, worker, self.store, self.options, is_cancelled)
        try:
            source = RemoteSource(agent, own_options(self.store, self.options, agent))
            source.follow(self.first)
            if why := difference(source, self.first, self.chosen):
                raise UsageError(f"store {self.store.id} on {agent.host}: {why}")
        except BaseException:
            close_agents(scheduler, [agent])
            raise
        return agent

    def nobody(self, address: str, grace: float) -> str:
        """What is said of ranges that nobody is left to read."""
        told = (
            f"store {self.store.id}: the Dask worker that read it was lost, and no other that can "
            f"came within {grace:.0f} s; {how_to_start(address, self.store.id)}"
        )
        return f"{told} ({self.trouble})" if self.trouble else told


def begin(
    scheduler: Scheduler,
    worker: DaskWorker,
    store: ClusterStore,
    options: SourceOptions,
    is_cancelled: Callable[[], bool],
) -> RemoteAgent:
    """Start an agent for a store; UsageError where the worker is not to have it."""
    about = scheduler.check_versions([worker]).get(worker.address)
    if about is None:
        raise BkctlError(f"Dask worker {worker} does not answer")
    agent = RemoteAgent(scheduler, worker, about, store.id, is_cancelled)
    own_options(store, options, agent)
    return agent


def own_options(store: ClusterStore, options: SourceOptions, agent: RemoteAgent) -> SourceOptions:
    """How the agent opens the store; UsageError where --cluster has it elsewhere only."""
    worker = agent.worker
    own = store.options_on(options, worker.name, worker.host, agent.host)
    if own is None:
        raise UsageError(
            f"--cluster does not say where store {store.id} is for Dask worker {worker} on "
            f"{agent.host}; correct it, or start that worker without {RESOURCE}{store.id}"
        )
    return own


def how_to_start(address: str, store: int) -> str:
    """What to do about a store that no worker reads."""
    return f"start one where the store is: dask worker {address} --resources {RESOURCE}{store}=2"
