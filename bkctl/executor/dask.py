"""An Executor over many machines, by Dask: ranges are read where their stores are.

Workers say which stores they can read by resources: `dask worker tcp://… --resources "store-4=2"`.
For each store one of them starts an agent, which pins it and takes part in the election; the others
that have the resource follow: they pin the store themselves, and are told the same decisions. So
does one that comes in the place of a worker that was lost. All must come to the same.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from bkctl.archive.names import MAX_WRITER
from bkctl.backup.changes import Changes
from bkctl.backup.task import BackupTask
from bkctl.cluster.stores import Stores, options_of
from bkctl.errors import BkctlError, WorkerDiedError
from bkctl.executor import bridge
from bkctl.executor.cluster_file import ClusterStore
from bkctl.executor.crew import Crew
from bkctl.executor.locks import Decisions, decide_locks
from bkctl.executor.messages import Done, Event, JobResult, Lost, Parcel
from bkctl.executor.opening import Opening
from bkctl.executor.remote import RemoteAgent, RemoteSource
from bkctl.executor.scheduler import DaskWorker, Scheduler, WorkerLostError
from bkctl.pool.pool import Again, Emitted, JobDone, JobLost, PoolEvent
from bkctl.raft.at_hand import StoreAtHand
from bkctl.regions.plan import BackupRange
from bkctl.store.source import SourceOptions

GRACE_SECONDS = 30.0
"""So long a worker for a store is waited for, where there is none."""

_ATTEMPTS = 3
_STOPPING_SECONDS = 15.0
_STEP_SECONDS = 0.5
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Sent:
    """A job on its way: what was told of it in order, up to the event number `told`."""

    job: Any
    crew: Crew
    agent: RemoteAgent
    future: Any = None
    told: int = 0
    is_broken: bool = False


class DaskExecutor:
    """See `bkctl.backup.executor.Executor`; all methods are called from one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        stores: Sequence[ClusterStore],
        *,
        grace: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stores` are those to be opened, in this order; for `grace` seconds one is waited for."""
        self._scheduler, self._stores = scheduler, stores
        self._grace, self._clock = grace, clock
        self._inbox: queue.SimpleQueue[Callable[[list[PoolEvent]], None]] = queue.SimpleQueue()
        self._crews: Sequence[Crew] = ()
        self._sent: dict[int, _Sent] = {}
        self._tokens = self._processes = 0
        self._writers: set[int] = set()
        self._stopped_at: float | None = None
        self._rate_share = 1
        self._decisions: Decisions | None = None
        self._topic = scheduler.on_event(self._hear)
        scheduler.on_lost(lambda known: self._inbox.put(lambda told: self._miss(known, told)))

    # What an Executor does.

    @property
    def busy(self) -> bool:
        """See Runner."""
        return bool(self._sent) or any(crew.waiting for crew in self._crews)

    @property
    def free(self) -> int:
        """See Runner."""
        return sum(self.room_in(view) for view in range(len(self._crews)))

    def jobs_in(self, view: int) -> int:
        """See Executor."""
        return max(1, self._crews[view].slots)

    def room_in(self, view: int) -> int:
        """See Executor."""
        crew = self._crews[view]
        slots = max(1, sum(agent.slots for agent in crew.agents))
        taken = sum(sent.crew is crew for sent in self._sent.values())
        return max(0, slots - taken - len(crew.waiting))

    def staff(self, parts: int) -> int:
        """See Executor; workers that follow join meanwhile."""
        for crew in self._crews:
            if not crew.first.is_live:
                self._recruit(crew)
        self._rate_share = max(1, sum(len(crew.agents) + len(crew.joining) for crew in self._crews))
        return max(1, min(sum(crew.slots for crew in self._crews), parts))

    def submit(self, job: Any) -> None:
        """See Runner."""
        crew = self._crews[job.ranges[0][1].view]
        crew.waiting.append(job)
        self._dispatch(crew)

    def cancel(self) -> None:
        """See Runner; what does not stop in time is not waited for."""
        self._stopped_at = self._clock()
        for crew in self._crews:
            crew.waiting.clear()
            for agent in crew.agents:
                self._beside(partial(self._stop, agent))

    def _stop(self, agent: RemoteAgent) -> None:
        where = [agent.worker.address]
        session = agent.session
        self._scheduler.run(bridge.cancel, session, workers=where, seconds=_STOPPING_SECONDS)

    def wait(self, timeout: float | None = None) -> list[PoolEvent]:
        """See Runner; raises WorkerDiedError where the scheduler is lost."""
        events: list[PoolEvent] = []
        until = None if timeout is None else self._clock() + timeout
        while True:
            self._look_after(events)
            step = _STEP_SECONDS if until is None else min(_STEP_SECONDS, until - self._clock())
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=max(0.0, 0 if events else step))(events)
                while True:
                    self._inbox.get_nowait()(events)
            for crew in self._crews:
                self._dispatch(crew)
            if events or not self.busy or (until is not None and self._clock() >= until):
                return events

    def dismiss(self) -> None:
        """See Executor: agents end with their stores."""

    def find_changes(
        self, source: StoreAtHand, ranges: Sequence[BackupRange], start_ts: int, end_ts: int
    ) -> Changes:
        """See Executor."""
        assert isinstance(source, RemoteSource)
        return source.find_changes(ranges, start_ts, end_ts)

    def settle_locks(
        self,
        task: BackupTask,
        ranges: Sequence[BackupRange],
        stores: Stores,
        routes: Sequence[BackupRange] | None,
    ) -> BackupTask:
        """See Executor: they are decided now, as no machine has all that decides them."""
        sources = [crew.first for crew in self._crews]
        self._decisions = decide_locks(sources, ranges, task.end_ts, routes)
        return task

    def open_stores(
        self,
        options: Sequence[SourceOptions],
        is_cancelled: Callable[[], bool],
        *,
        chooses: bool,
        allow_minority: bool,
    ) -> Stores:
        """See Executor. UsageError where no worker has a store, or bkctl is another there."""
        opening = Opening(self._scheduler, self._stores, self._grace, is_cancelled)
        for attempt in range(_ATTEMPTS):
            is_last = attempt == _ATTEMPTS - 1
            try:
                stores = opening.open(options_of(options), allow_minority=allow_minority)
            except WorkerLostError:
                if is_last:
                    raise
                continue  # with those that are left
            if is_last or not stores.is_troubled:
                break
            stores.close()
        self._crews = stores.crews
        for crew in self._crews:
            self._enlist(crew, crew.first.agent)
        return stores

    def _enlist(self, crew: Crew, agent: RemoteAgent) -> None:
        if agent not in crew.agents:
            crew.agents.append(agent)
        crew.tried.add(agent.worker.address)
        crew.lonely_since = None
        agent.first_worker = self._processes
        self._processes += agent.slots
        agent.writer = _number(self._writers)

    # Running.

    def _dispatch(self, crew: Crew) -> None:
        while crew.waiting and self._stopped_at is None:
            taken = {agent.session: 0 for agent in crew.agents}
            for sent in self._sent.values():
                if sent.agent.session in taken:
                    taken[sent.agent.session] += 1
            free = [each for each in crew.agents if taken[each.session] < each.slots]
            if not free:
                return
            agent = min(free, key=lambda each: taken[each.session] / each.slots)
            self._send(crew.waiting.popleft(), crew, agent)

    def _send(self, job: Any, crew: Crew, agent: RemoteAgent) -> None:
        self._tokens += 1
        token = self._tokens
        task, storage = job.task, job.task.storage
        if storage.rate_limit is not None:
            rate = max(1, storage.rate_limit.bytes_per_second // self._rate_share)
            limit = replace(storage.rate_limit, bytes_per_second=rate)
            storage = replace(storage, rate_limit=limit)
        # An agent has a seal of its own: a key that has left no machine.
        task = replace(task, storage=storage, writer=agent.writer, seal=None)
        own = None
        if self._decisions is not None:
            own = self._decisions.within(brange for _, brange in job.ranges)
        sent = self._sent[token] = _Sent(job, crew, agent)
        sent.future = self._scheduler.submit(
            *(agent.worker.address, crew.store.id, bridge.run_job),
            *(agent.session, self._topic, token, Parcel(replace(job, task=task, decided=own))),
        )
        sent.future.add_done_callback(lambda future: self._settle(token, future))

    def _settle(self, token: int, future: Any) -> None:
        """In a thread of Dask's: a job's task has ended, which was told before, mostly."""
        self._inbox.put(partial(self._ended, token, future))

    def _ended(self, token: int, future: Any, events: list[PoolEvent]) -> None:
        sent = self._sent.get(token)
        if sent is None:
            return
        result: JobResult | None = None
        if future.status == "finished":
            with contextlib.suppress(Exception):
                result = future.result(timeout=_STOPPING_SECONDS).open()
        if result is None:
            self._lose(token, f"Dask worker {sent.agent.worker} lost its task", events)
            return
        for each in result.events:
            if each.number >= sent.told:
                self._emit(sent, each, events)
        self._end(token, sent, result.end, events)

    def _hear(self, parcel: Parcel) -> None:
        """In a thread of Dask's: something was told of a job."""
        self._inbox.put(partial(self._told, parcel))

    def _told(self, parcel: Parcel, events: list[PoolEvent]) -> None:
        told: Sequence[Event]
        token, told, end = parcel.open()
        sent = self._sent.get(token)
        if sent is None or sent.is_broken:
            return
        for each in told:
            if each.number != sent.told:
                sent.is_broken = True  # one is missing: all come with the result
                return
            self._emit(sent, each, events)
        if end is not None:
            self._end(token, sent, end, events)

    def _emit(self, sent: _Sent, each: Event, events: list[PoolEvent]) -> None:
        sent.told = each.number + 1
        events.append(Emitted(sent.agent.first_worker + each.worker, sent.job, each.event))

    def _end(self, token: int, sent: _Sent, end: Done | Lost, events: list[PoolEvent]) -> None:
        if isinstance(end, Lost) and end.reason.startswith(bridge.GONE):
            self._lose_agent(sent.agent, end.reason, events)
            return
        del self._sent[token]
        sent.future.release()
        worker = sent.agent.first_worker + end.worker
        if isinstance(end, Done):
            events.append(JobDone(worker, sent.job))
        else:
            events.append(JobLost(worker, sent.job, end.reason, end.again))

    # Losing and gaining workers.

    def _miss(self, known: frozenset[str], events: list[PoolEvent]) -> None:
        """Note which workers are there."""
        for crew in self._crews:
            crew.tried &= known
            for agent in [each for each in crew.agents if each.worker.address not in known]:
                self._lose_agent(agent, f"Dask worker {agent.worker} was lost", events)
            if not crew.agents and self._stopped_at is None and self.busy:
                self._recruit(crew)

    def _lose_agent(self, agent: RemoteAgent, why: str, events: list[PoolEvent]) -> None:
        for crew in self._crews:
            if agent in crew.agents:
                crew.agents.remove(agent)
                if not crew.agents:
                    crew.lonely_since = self._clock()
            # Its Dask worker may still be there, for another agent.
            crew.tried.discard(agent.worker.address)
        agent.release()
        for token in [token for token, sent in self._sent.items() if sent.agent is agent]:
            self._lose(token, why, events)

    def _lose(self, token: int, why: str, events: list[PoolEvent]) -> None:
        sent = self._sent.pop(token)
        sent.future.cancel()
        events.append(JobLost(sent.agent.first_worker, sent.job, why, Again.ALL))

    def _recruit(self, crew: Crew) -> None:
        """Have all workers follow that have the store and do not take part yet."""
        try:
            workers = self._scheduler.workers()
        except WorkerDiedError:
            return
        for worker in workers:
            if crew.store.id in worker.slots and worker.address not in crew.tried:
                crew.tried.add(worker.address)
                crew.joining.add(worker.address)
                crew.threads.append(self._beside(partial(self._join, crew, worker)))

    def _join(self, crew: Crew, worker: DaskWorker) -> None:
        """In a thread of its own: let a worker follow."""
        agent, trouble = None, ""
        try:
            agent = crew.follower(self._scheduler, worker, lambda: self._is_over(crew))
        except BkctlError as e:
            trouble = str(e)
        if agent is not None:
            crew.arrived.append(agent)
        self._inbox.put(lambda _: self._joined(crew, worker, agent, trouble))

    def _is_over(self, crew: Crew) -> bool:
        return crew.is_over or self._stopped_at is not None

    def _joined(
        self, crew: Crew, worker: DaskWorker, agent: RemoteAgent | None, trouble: str
    ) -> None:
        crew.joining.discard(worker.address)
        crew.trouble = trouble or crew.trouble
        if agent is not None:
            crew.arrived.remove(agent)
            self._enlist(crew, agent)

    def _look_after(self, events: list[PoolEvent]) -> None:
        if self._scheduler.is_lost:
            raise WorkerDiedError(
                f"the connection to the Dask scheduler {self._scheduler.address} broke; nothing is "
                "published, --resume takes up what was finished"
            )
        now = self._clock()
        if self._stopped_at is not None and now - self._stopped_at > _STOPPING_SECONDS:
            self._sent.clear()
        for crew in self._crews:
            since = crew.lonely_since
            if since is None or crew.joining or now - since < self._grace:
                continue
            why = crew.nobody(self._scheduler.address, self._grace)
            while crew.waiting:
                events.append(JobLost(0, crew.waiting.popleft(), why, Again.NOTHING))

    @staticmethod
    def _beside(call: Callable[[], Any]) -> threading.Thread:
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        return thread


def _number(taken: set[int]) -> int:
    """A number for names of files that no other agent has; of another run, hardly."""
    while (number := 1 + secrets.randbelow(MAX_WRITER)) in taken:
        pass
    taken.add(number)
    return number


@contextlib.contextmanager
def dask_executor(address: str, stores: Sequence[ClusterStore]) -> Iterator[DaskExecutor]:
    """An Executor with the workers of the scheduler at `address` (tcp:// or tls://)."""
    with Scheduler(address) as scheduler:
        yield DaskExecutor(scheduler, stores)
