"""What runs in a Dask worker: it starts agents, and passes on what they are told and tell.

An agent lives as long as its Lease, which is the result of the task that started it, and which the
scheduler keeps for the coordinator: it is gone with that, with this worker, and with `close`.
Nothing here raises: Dask would log the task with its arguments. What failed is in the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bkctl import __version__
from bkctl.backup.task import RangeAdvanced
from bkctl.executor.messages import (
    Answer,
    Ask,
    Cancel,
    Ended,
    Event,
    JobResult,
    Lost,
    Parcel,
    Refused,
    Run,
    Told,
)
from bkctl.pool.pool import Again
from bkctl.pool.processes import describe_end

GONE = "the agent is gone"
_LOOK_SECONDS = 1.0
_TELL_SECONDS = 0.2
_NOTHING = object()
_ENDING_SECONDS = 20.0
_CLOSING = frozenset({"closed", "closing", "failed"})


@dataclass(frozen=True, slots=True)
class About:
    """A Dask worker and what it runs; `worker_id` is another one's after a restart."""

    version: str
    python: str
    host: str
    worker_id: str


class Agent:
    """An agent's process, as the worker has it."""

    def __init__(self, processes: int) -> None:
        """Start it; raises OSError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-m", "bkctl.executor.agent"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(processes)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # What a terminal sends to the worker is not the agent's: it ends with the socket.
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
            self._connection = Connection(ours.detach())
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        threading.Thread(target=self._listen, name="bkctl-agent", daemon=True).start()

    def send(self, kind: Any, what: Any) -> tuple[int, queue.SimpleQueue[Any]]:
        """Send an Ask or a Run; the queue gets what is told of it, and None if the agent ends."""
        own: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = own
            try:
                self._connection.send(kind(number, what))
            except (OSError, ValueError):
                own.put(None)
        return number, own

    def forget(self, number: int) -> None:
        """No more is wanted of what was sent."""
        self._waiting.pop(number, None)

    def cancel(self) -> None:
        """Have it stop what is in work."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._connection.send(Cancel())

    def close(self) -> None:
        """Have it end, and do not wait for that."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor())) as own:
            own.shutdown(socket.SHUT_RDWR)

    def _descriptor(self) -> int:
        if self._connection.closed:
            raise OSError("closed")
        return self._connection.fileno()

    def wait(self) -> None:
        """Wait for its end, though not for ever."""
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def death(self) -> str:
        """How it ended."""
        self.wait()
        return f"{GONE} ({describe_end(self._process.returncode)})"

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                waiting = self._waiting.get(message.number)
                if waiting is not None:
                    waiting.put(message)
        with self._lock:
            self._connection.close()
            waiting_ones = list(self._waiting.values())
        for each in waiting_ones:
            each.put(None)
        self.wait()


_agents: dict[str, Agent] = {}


class Lease:
    """Keeps an agent as long as Dask keeps this; it cannot be moved to another worker."""

    def __init__(self, session: str) -> None:
        self._session = session

    def __reduce__(self) -> Any:
        raise TypeError("an agent stays where it is")

    def __del__(self) -> None:
        agent = _agents.pop(self._session, None)
        if agent is not None:
            agent.close()


def about(dask_worker: Any = None) -> About:
    """Run by `Client.run`: who the worker is."""
    return About(
        __version__,
        ".".join(platform.python_version_tuple()[:2]),
        socket.gethostname(),
        str(dask_worker.id),
    )


def open_agent(session: str, worker_id: str, processes: int) -> Lease:
    """A task: start an agent, unless it is another worker by now than it is meant for."""
    from distributed import get_worker

    if get_worker().id == worker_id:
        with contextlib.suppress(OSError):
            _agents[session] = Agent(processes)
    return Lease(session)


def ask(session: str, request: Parcel) -> Parcel:
    """A task: have an agent answer a request."""
    agent = _agents.get(session)
    if agent is None:
        return Parcel(Refused("WorkerDiedError", GONE))
    number, waiting = agent.send(Ask, request.open())
    try:
        answer = _next(agent, waiting)
    finally:
        agent.forget(number)
    if not isinstance(answer, Answer):
        return Parcel(Refused("WorkerDiedError", agent.death))
    return Parcel(answer.answer)


def run_job(session: str, topic: str, token: int, job: Parcel) -> Parcel:
    """A task: have an agent run a RangeJob; what it tells is logged as events of `topic`.

    Its end is the last of that. All comes once more with the result, should it have been lost.
    """
    from distributed import get_worker

    agent = _agents.get(session)
    if agent is None:
        return Parcel(JobResult((), Lost(0, GONE, Again.ALL)))
    log_event = get_worker().log_event
    number, waiting = agent.send(Run, job.open())
    kept: list[Event] = []
    told: list[Event] = []
    due = time.monotonic()
    message: Any = _NOTHING
    try:
        while isinstance(message, Told) or message is _NOTHING:
            # Messages cost more than what is in them, so small ranges share one.
            if told and time.monotonic() >= due:
                log_event(topic, Parcel((token, tuple(told), None)).data)
                told, due = [], time.monotonic() + _TELL_SECONDS
            message = _next(agent, waiting, due if told else None)
            if isinstance(message, Told):
                told += message.events
                kept += (each for each in message.events if not _is_passing(each.event))
    finally:
        agent.forget(number)
    end = message.end if isinstance(message, Ended) else Lost(0, agent.death, Again.ALL)
    log_event(topic, Parcel((token, tuple(told), end)).data)
    return Parcel(JobResult(tuple(kept), end))


def cancel(session: str) -> None:
    """Run by `Client.run`: have an agent stop what is in work."""
    if (agent := _agents.get(session)) is not None:
        agent.cancel()


async def close(sessions: tuple[str, ...]) -> None:
    """Run by `Client.run`: end agents, and wait for that."""
    agents = [agent for each in sessions if (agent := _agents.pop(each, None)) is not None]
    for agent in agents:
        agent.close()
    for agent in agents:
        await asyncio.get_running_loop().run_in_executor(None, agent.wait)


def _next(agent: Agent, waiting: queue.SimpleQueue[Any], due: float | None = None) -> Any:
    """What comes next, None once the agent has ended; it ends with its Dask worker.

    With `due`, _NOTHING where nothing comes until then.
    """
    from distributed import get_worker

    worker = get_worker()
    while True:
        left = _LOOK_SECONDS if due is None else max(0.0, due - time.monotonic())
        try:
            return waiting.get(timeout=left)
        except queue.Empty:
            if worker.status.name in _CLOSING:
                agent.close()
            if due is not None:
                return _NOTHING


def _is_passing(event: Any) -> bool:
    """Whether it tells of nothing that lasts."""
    return isinstance(event, RangeAdvanced)
