"""Storages behind a network that fails: calls complete exactly or fail clearly, never otherwise.

A model holds what each object may contain. A call that completed leaves one possibility; one that
failed leaves two, and what is there must be one of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
    Storage,
    TransientError,
)
from bkctl.storage.metrics import Metrics
from bkctl.storage.retry import RetryPolicy, RetryStorage
from bkctl.storage.url import open_storage, parse_storage
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.servers import (
    Clock,
    Fault,
    FaultProxy,
    gcs_server,
    one_in,
    s3_server,
)

pytestmark = pytest.mark.xdist_group("object-stores")

KEYS = "access-key=a&secret-access-key=b&region=us-east-1"
QUICK = (Fault.STATUS_503, Fault.STATUS_429, Fault.CUT_REQUEST, Fault.CUT_ANSWER)
DAMAGE = (Fault.LOST_ANSWER, Fault.DAMAGED_REQUEST, Fault.DAMAGED_ANSWER)
NAMES = ("a/1", "a/2", "b/1", "c")


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        gcs, s3 = stack.enter_context(gcs_server()), stack.enter_context(s3_server())
        yield {"gcs": gcs, "s3": s3}


def failure_of(call: Callable[[], None]) -> StorageError | None:
    try:
        call()
    except StorageError as e:
        return e
    return None


@dataclass(slots=True)
class Model:
    """What each object may hold; None for no object."""

    random: random.Random
    files: Path
    contents: dict[str, set[bytes | None]] = field(
        default_factory=lambda: {name: {None} for name in NAMES}
    )
    outcomes: Counter[str] = field(default_factory=Counter)

    def step(self, storage: Storage, large: int) -> None:
        """Make one call and hold its outcome against what is known."""
        name = self.random.choice(NAMES)
        action = self.random.choice(
            (self.put, self.put, self.save, self.create, self.swap, self.remove)
        )
        size = self.random.choice((0, 1, 1000, 40_000, large))
        for act in (action, self.look, self.list_all):
            error = failure_of(partial(act, storage, name, self.random.randbytes(size)))
            self.outcomes["failed" if error else "completed"] += 1
            if error:
                assert not isinstance(error, TransientError)
                assert str(error).startswith(storage.url)
                assert "gave up after" in str(error)

    def changing(self, name: str, new: bytes | None, call: Callable[[], None]) -> None:
        before = self.contents[name]
        self.contents[name] = before | {new}
        call()
        self.contents[name] = {new}

    def put(self, storage: Storage, name: str, data: bytes) -> None:
        self.changing(name, data, lambda: storage.write(name, data))

    def save(self, storage: Storage, name: str, data: bytes) -> None:
        path = self.files / uuid4().hex
        path.write_bytes(data)
        self.changing(name, data, lambda: storage.save_file(name, path))
        assert not path.exists()

    def create(self, storage: Storage, name: str, data: bytes) -> None:
        known = self.contents[name]
        try:
            self.changing(name, data, lambda: storage.create(name, data))
        except AlreadyExistsError:
            assert known != {None}
            self.contents[name] = known - {None}
        else:
            assert None in known or data in known

    def swap(self, storage: Storage, name: str, data: bytes) -> None:
        known = self.contents[name]
        old = next(iter(known - {None}), None) or b""
        new = None if len(data) == 1 else data
        try:
            self.changing(name, new, lambda: storage.exchange(name, old, new))
        except ChangedError:
            # Not what was expected, or stored damaged and removed.
            self.contents[name] = known | {None}
        else:
            assert old in known or new in known

    def remove(self, storage: Storage, name: str, data: bytes) -> None:
        del data
        self.changing(name, None, lambda: storage.delete(name))

    def look(self, storage: Storage, name: str, data: bytes) -> None:
        del data
        found: bytes | None
        try:
            found = storage.read(name)
        except NotFoundError:
            found = None
        assert found in self.contents[name]
        self.contents[name] = {found}
        if found:
            with storage.open(name) as reader:
                assert reader.read_at(0, 1 << 30) == found

    def list_all(self, storage: Storage, name: str, data: bytes) -> None:
        del name, data
        listed = {info.name: info.size for info in storage.list()}
        for known, contents in self.contents.items():
            sizes = {None if content is None else len(content) for content in contents}
            assert listed.get(known) in sizes


def run(
    kind: str,
    endpoint: str,
    tmp_path: Path,
    seed: int,
    share: int,
    steps: int,
    faults: tuple[Fault, ...],
    policy: RetryPolicy | None = None,
    *,
    has_sessions: bool = True,
    checks: bool = False,
) -> tuple[FaultProxy, Model, Metrics]:
    sessions = GcsSessions() if kind == "gcs" and has_sessions else None
    metrics = Metrics()
    model = Model(random.Random(seed), tmp_path)
    large = (600 << 10) if kind == "gcs" else (6 << 20)
    prefix = uuid4().hex
    with FaultProxy(endpoint, sessions=sessions, checks=checks).running() as proxy:
        options = f"{KEYS}&chunk-size=1" if kind == "s3" else "chunk-size=1"
        url = f"{kind}://bucket/{prefix}?endpoint={proxy.endpoint}&timeout=1&{options}"
        with open_storage(parse_storage(url), metrics) as storage:
            inner = getattr(storage, "_inner")  # noqa: B009
            assert isinstance(inner, RetryStorage)
            clock = Clock()
            inner.clock, inner.sleep = clock, clock.sleep
            inner.policy = policy or inner.policy
            list(storage.list())
            proxy.plan = one_in(share, seed, faults)
            for _ in range(steps):
                model.step(storage, large)
            proxy.plan = lambda request: None
            for name in NAMES:
                model.look(storage, name, b"")
    return proxy, model, metrics


@pytest.mark.parametrize("kind", ["gcs", "s3"])
@pytest.mark.parametrize("seed", range(3))
def test_with_one_request_in_ten_failing_every_call_completes(
    endpoints: dict[str, str], tmp_path: Path, kind: str, seed: int
) -> None:
    faults = QUICK * 3 + DAMAGE * 2
    proxy, model, metrics = run(kind, endpoints[kind], tmp_path, seed, 10, 60, faults)
    print(kind, dict(proxy.faults), dict(model.outcomes))
    assert model.outcomes["failed"] == 0
    assert proxy.faults.total() > 20
    retries = sum(count.retries for count in metrics.snapshot())
    assert retries >= proxy.faults.total() * 0.8


@pytest.mark.parametrize("kind", ["gcs", "s3"])
@pytest.mark.parametrize("seed", range(3))
def test_with_most_requests_failing_calls_complete_or_say_so(
    endpoints: dict[str, str], tmp_path: Path, kind: str, seed: int
) -> None:
    hasty = RetryPolicy(deadline=1.0, start_deadline=1.0)
    faults = QUICK + DAMAGE
    # A call may end while what came damaged still stands there, on a service that checks nothing.
    proxy, model, _ = run(kind, endpoints[kind], tmp_path, seed, 2, 60, faults, hasty, checks=True)
    print(kind, dict(proxy.faults), dict(model.outcomes))
    assert model.outcomes["failed"] > 10
    assert model.outcomes["completed"] > 10


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_stalls_are_cut_off_and_tried_again(
    endpoints: dict[str, str], tmp_path: Path, kind: str
) -> None:
    proxy, model, _ = run(kind, endpoints[kind], tmp_path, 3, 12, 8, (Fault.STALL,))
    print(kind, dict(proxy.faults), dict(model.outcomes))
    assert model.outcomes["failed"] == 0
    assert proxy.faults[Fault.STALL] > 0


def test_a_service_that_cannot_tell_how_far_an_upload_came_gets_it_anew(
    endpoints: dict[str, str], tmp_path: Path
) -> None:
    proxy, model, _ = run(
        "gcs", endpoints["gcs"], tmp_path, 5, 10, 60, QUICK + DAMAGE, has_sessions=False
    )
    print("gcs without sessions", dict(proxy.faults), dict(model.outcomes))
    assert model.outcomes["failed"] == 0
