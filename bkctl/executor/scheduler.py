"""A Dask cluster as its client: who works there, tasks for one worker, events, who is lost.

Source: distributed's Client (`submit`, `run`, `subscribe_topic`, `scheduler_info`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bkctl import __version__
from bkctl.errors import BkctlError, CancelledError, UsageError, WorkerDiedError
from bkctl.executor import bridge
from bkctl.executor.messages import Parcel

_CONNECT_SECONDS = 15.0
_CALL_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 0.5
RESOURCE = "store-"


@dataclass(frozen=True, slots=True)
class DaskWorker:
    """A Dask worker that reads stores; `slots` are the jobs at once that it has for each."""

    address: str
    name: str
    host: str
    slots: Mapping[int, int]

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"


class WorkerLostError(WorkerDiedError):
    """A Dask worker is gone, with what it had in hand."""


class Scheduler:
    """A context manager: a connection to a scheduler, all of whose methods any thread may call."""

    def __init__(self, address: str) -> None:
        """Connect; UsageError where that fails. `address` is Dask's own, tcp:// or tls://."""
        self.address = address
        self._client = _connected(address)
        self._topic = f"bkctl-{uuid4().hex}"
        self._known: frozenset[str] = frozenset()
        self._watchers: list[Callable[[frozenset[str]], None]] = []
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="dask-watch", daemon=True).start()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let it go, with all that it holds for us."""
        self._ended.set()
        with contextlib.suppress(Exception), _silence():
            self._client.close(timeout=_LOOK_SECONDS * 5)

    @property
    def is_lost(self) -> bool:
        """Whether the connection has broken; what the scheduler held for us is gone then."""
        return bool(self._client.status != "running")

    def workers(self) -> list[DaskWorker]:
        """The workers that say which stores they can read; raises WorkerDiedError."""
        found = self._call(lambda: self._client.scheduler_info(n_workers=-1))["workers"]
        self._known = frozenset(found)
        workers = []
        for address, info in found.items():
            slots = _slots(info.get("resources") or {}, int(info["nthreads"]))
            if slots and info.get("status") == "running":
                workers.append(DaskWorker(address, str(info["name"]), str(info["host"]), slots))
        return workers

    def on_lost(self, watcher: Callable[[frozenset[str]], None]) -> None:
        """Have `watcher` told again and again, in another thread, which addresses are there."""
        self._watchers.append(watcher)

    def on_event(self, handler: Callable[[Parcel], None]) -> str:
        """Have `handler` told, in another thread, what is logged for the topic returned."""
        self._client.subscribe_topic(self._topic, lambda event: handler(Parcel.of(event[1])))
        return self._topic

    def submit(self, worker: str, store: int | None, function: Any, *args: Any) -> Any:
        """A task for one worker and no other, of its resource for a store if that is given."""
        return self._client.submit(
            function,
            *args,
            key=f"bkctl-{function.__name__}-{uuid4().hex}",
            pure=False,
            workers=[worker],
            allow_other_workers=False,
            resources={f"{RESOURCE}{store}": 1} if store is not None else None,
        )

    def result(self, future: Any, worker: str, is_cancelled: Callable[[], bool]) -> Any:
        """A task's result; WorkerLostError once its worker is gone, CancelledError if asked to."""
        self.settle(future, worker, is_cancelled)
        try:
            return future.result(timeout=_CALL_SECONDS)
        except (Exception, asyncio.CancelledError) as e:  # noqa: BLE001
            raise self._lost(worker, f"{type(e).__name__}: {e}") from None

    def settle(self, future: Any, worker: str, is_cancelled: Callable[[], bool]) -> None:
        """Wait for a task's end; raises as `result` does."""
        is_done = threading.Event()
        future.add_done_callback(lambda _: is_done.set())
        while not is_done.wait(_ANSWER_SECONDS):
            if is_cancelled():
                future.cancel()
                raise CancelledError(0)
            if self.is_lost or worker not in self._known:
                raise self._lost(worker, "it is not there any more")

    def run(self, function: Any, *args: Any, workers: list[str], seconds: float) -> dict[str, Any]:
        """Run a function in workers beside their tasks; what each of them answered, or raised.

        None has answered where that takes longer than so many seconds.
        """
        found: dict[str, Any] = {}

        def call() -> None:
            with contextlib.suppress(Exception):
                found.update(self._client.run(function, *args, workers=workers, on_error="return"))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(seconds)
        return dict(found)

    def check_versions(self, workers: list[DaskWorker]) -> dict[str, bridge.About]:
        """What each worker is, by its address; UsageError for one that runs another bkctl."""
        addresses = [worker.address for worker in workers]
        answers = self.run(bridge.about, workers=addresses, seconds=_CALL_SECONDS)
        found: dict[str, bridge.About] = {}
        for worker in workers:
            answer = answers.get(worker.address)
            if isinstance(answer, ModuleNotFoundError | AttributeError):
                raise UsageError(
                    f"Dask worker {worker}: there is no bkctl {__version__} ({answer}); install "
                    f"bkctl[dask]=={__version__} there"
                )
            if not isinstance(answer, bridge.About):
                continue  # it is on its way out, or does not answer
            if answer.version != __version__:
                raise UsageError(
                    f"Dask worker {worker} runs bkctl {answer.version}, this is {__version__}; "
                    "install the same everywhere"
                )
            found[worker.address] = answer
        return found

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as e:  # noqa: BLE001
            raise WorkerDiedError(
                f"the Dask scheduler {self.address} does not answer ({type(e).__name__}); look "
                "whether it runs"
            ) from None

    def _lost(self, worker: str, why: str) -> BkctlError:
        if self.is_lost:
            return WorkerDiedError(f"the connection to the Dask scheduler {self.address} broke")
        return WorkerLostError(f"Dask worker {worker} was lost ({why})")

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self.workers()
            except WorkerDiedError:
                continue  # `is_lost` tells in time
            for watcher in self._watchers:
                watcher(self._known)


def _slots(resources: Mapping[str, float], threads: int) -> dict[int, int]:
    """By store the jobs at once: no more than the worker has threads, each of which waits for one.

    Resources are counts that a worker is started with: `--resources store-4=2`.
    """
    return {
        int(name.removeprefix(RESOURCE)): max(1, min(int(count), threads))
        for name, count in resources.items()
        if name.startswith(RESOURCE) and name.removeprefix(RESOURCE).isdecimal() and count >= 1
    }


def _connected(address: str) -> Any:
    try:
        import dask

        # Set before distributed is loaded, which makes its loggers then.
        dask.config.set({"logging.distributed": "critical"})
        import distributed
    except ImportError:
        raise UsageError(
            "--executor dask:// needs Dask's distributed; pip install 'bkctl[dask]'"
        ) from None
    for name in ("distributed", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="distributed")
    secured: Any = distributed.Security
    client: Any = distributed.Client
    is_tls = address.startswith("tls://")
    made: list[Any] = []
    failed: list[str] = []

    def connect() -> None:
        try:
            security = secured(require_encryption=True) if is_tls else None
            made.append(
                client(address, timeout=_CONNECT_SECONDS, security=security, set_as_default=False)
            )
        except Exception as e:  # noqa: BLE001
            failed.append(" ".join(str(e).split())[:200] or type(e).__name__)

    # What is no scheduler may say nothing, or half of something, for ever.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + _LOOK_SECONDS)
    if made:
        return made[0]
    reason = failed[0] if failed else f"no answer in {_CONNECT_SECONDS:.0f} s"
    raise UsageError(
        f"Dask scheduler {address}: cannot connect ({reason}); check --executor, and "
        "whether `dask scheduler` runs there"
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
