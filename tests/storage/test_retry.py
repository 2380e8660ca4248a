from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import StorageError
from bkctl.storage.base import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
    ObjectInfo,
    TransientError,
)
from bkctl.storage.local import LocalStorage
from bkctl.storage.metrics import Metrics, MetricsStorage
from bkctl.storage.retry import RetryPolicy, RetryStorage
from tests.storage.servers import Clock


class Flaky(LocalStorage):
    """Fails with what stands in `errors` before it does its work; `lose` loses answers instead."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.errors: list[StorageError] = []
        self.lost: list[StorageError] = []
        self.calls = 0

    def fail(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def stat(self, name: str) -> ObjectInfo | None:
        self.fail()
        return super().stat(name)

    def create(self, name: str, data: bytes) -> None:
        self.fail()
        super().create(name, data)
        if self.lost:
            raise self.lost.pop(0)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        self.fail()
        super().exchange(name, old, new)
        if self.lost:
            raise self.lost.pop(0)

    def save_file(self, name: str, path: Path) -> None:
        self.fail()
        super().save_file(name, path)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self.fail()
        for info in super().list(prefix, after):
            yield info
            self.fail()


def transient(progressed: bool = False) -> TransientError:
    return TransientError("gcs://b: x: cannot be read (busy); wait", progressed=progressed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flaky(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path)


def retrying(flaky: Flaky, clock: Clock, policy: RetryPolicy | None = None) -> RetryStorage:
    return RetryStorage(flaky, policy, clock=clock, sleep=clock.sleep, chance=lambda: 0.0)


def test_what_passes_is_tried_again_after_growing_pauses(flaky: Flaky, clock: Clock) -> None:
    flaky.errors = [transient() for _ in range(4)]
    assert retrying(flaky, clock).stat("x") is None
    assert clock.slept == [0.5, 1.0, 2.0, 4.0]


@given(failures=st.integers(1, 5000), chance=st.floats(0, 1, exclude_max=True))
def test_a_pause_is_between_half_and_whole_of_what_doubles_up_to_a_bound(
    failures: int, chance: float
) -> None:
    delay = RetryPolicy().delay(failures, chance)
    full = min(0.5 * 2 ** min(failures - 1, 10), 16)
    assert full / 2 <= delay <= full


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("gcs://b: x: no such object; check"),
        AlreadyExistsError("gcs://b: x: exists already; check"),
        StorageError("gcs://b: x: permission denied (403); check"),
    ],
)
def test_what_cannot_pass_is_final_at_once(flaky: Flaky, clock: Clock, error: StorageError) -> None:
    flaky.errors = [error]
    with pytest.raises(type(error)) as e:
        retrying(flaky, clock).stat("x")
    assert e.value is error
    assert (flaky.calls, clock.slept) == (1, [])


def test_without_any_success_it_gives_up_within_30_seconds(flaky: Flaky, clock: Clock) -> None:
    flaky.errors = [transient() for _ in range(100)]
    with pytest.raises(StorageError, match=r"busy\); wait \(gave up after 6 tries, 16 s") as e:
        retrying(flaky, clock).stat("x")
    assert not isinstance(e.value, TransientError)
    assert sum(clock.slept) <= 30


def test_a_slow_failure_is_not_begun_again_where_it_cannot_end_in_time(
    flaky: Flaky, clock: Clock
) -> None:
    def stall() -> None:
        clock.now += 20
        raise transient()

    flaky.fail = stall  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="gave up after 1 try, 20 s"):
        retrying(flaky, clock).stat("x")


@pytest.mark.parametrize("answer", ["success", "not found"])
def test_once_answered_it_goes_on_for_five_minutes(flaky: Flaky, clock: Clock, answer: str) -> None:
    storage = retrying(flaky, clock)
    if answer == "success":
        storage.stat("x")
    else:
        with pytest.raises(NotFoundError):
            storage.read("x")
    flaky.errors = [transient() for _ in range(100)]
    with pytest.raises(StorageError, match="gave up"):
        storage.stat("x")
    assert 280 < sum(clock.slept) <= 300


def test_a_call_that_gets_further_may_take_longer_than_the_deadline(
    flaky: Flaky, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    # Fewer failures in a row than the deadline takes, a few hundred all in all.
    flaky.errors = [transient(progressed=number % 10 == 0) for number in range(300)]
    retrying(flaky, clock).save_file("x", path)
    assert sum(clock.slept) > 600


def test_a_create_whose_answer_was_lost_is_a_success(flaky: Flaky, clock: Clock) -> None:
    flaky.lost = [transient()]
    retrying(flaky, clock).create("x", b"mine")
    assert flaky.read("x") == b"mine"
    assert flaky.calls == 2


@pytest.mark.parametrize("theirs", [b"them", b"longer than mine", b""])
def test_a_create_that_was_overtaken_is_told_so(flaky: Flaky, clock: Clock, theirs: bytes) -> None:
    flaky.errors = [transient()]

    def overtake(seconds: float) -> None:
        del seconds
        flaky.write("x", theirs)

    storage = RetryStorage(flaky, clock=clock, sleep=overtake)
    with pytest.raises(AlreadyExistsError):
        storage.create("x", b"mine")
    assert flaky.read("x") == theirs


def test_the_same_content_without_a_failure_of_ours_is_someone_elses(
    flaky: Flaky, clock: Clock
) -> None:
    flaky.write("x", b"same")
    with pytest.raises(AlreadyExistsError):
        retrying(flaky, clock).create("x", b"same")


@pytest.mark.parametrize("new", [b"new", None])
def test_an_exchange_whose_answer_was_lost_is_a_success(
    flaky: Flaky, clock: Clock, new: bytes | None
) -> None:
    flaky.write("x", b"old")
    flaky.lost = [transient()]
    retrying(flaky, clock).exchange("x", b"old", new)
    assert (flaky.read("x") if flaky.stat("x") else None) == new


@pytest.mark.parametrize("new", [b"new", None])
def test_an_exchange_that_was_overtaken_is_told_so(
    flaky: Flaky, clock: Clock, new: bytes | None
) -> None:
    flaky.write("x", b"old")
    flaky.errors = [transient()]

    def overtake(seconds: float) -> None:
        del seconds
        flaky.write("x", b"theirs")

    storage = RetryStorage(flaky, clock=clock, sleep=overtake)
    with pytest.raises(ChangedError):
        storage.exchange("x", b"old", new)
    assert flaky.read("x") == b"theirs"


def test_a_listing_that_is_cut_goes_on_where_it_was(flaky: Flaky, clock: Clock) -> None:
    expected = [f"{number:02}" for number in range(20)]
    for name in expected:
        flaky.write(name, b"")
    storage = retrying(flaky, clock)
    found = []
    for info in storage.list():
        found.append(info.name)
        if info.name.endswith(("3", "9")):
            flaky.errors = [transient(), transient()]
    assert found == expected
    assert len(clock.slept) == 8


def test_every_retry_is_told_and_counted(flaky: Flaky, clock: Clock) -> None:
    metrics = Metrics()
    inner = retrying(flaky, clock)
    inner.on_retry = metrics.count_retry
    storage = MetricsStorage(inner, metrics, clock)
    flaky.errors = [transient(), transient()]
    storage.stat("x")
    storage.create("x", b"12345")
    assert storage.read("x") == b"12345"
    with storage.open("x") as reader:
        assert reader.read_at(1, 3) == b"234"
    assert [info.name for info in storage.list()] == ["x"]
    for attempt in (lambda: storage.create("x", b"1"), lambda: storage.read("../x")):
        with pytest.raises(StorageError):
            attempt()
    with pytest.raises(NotFoundError):
        storage.read("none")
    counts = {count.operation: count for count in metrics.snapshot()}
    assert counts["stat"].retries == 2
    assert (counts["stat"].calls, counts["stat"].seconds) == (1, 1.5)
    assert (counts["create"].calls, counts["create"].failures) == (2, 1)
    assert counts["create"].bytes_sent == 5
    assert (counts["read"].calls, counts["read"].failures) == (3, 1)
    assert (counts["read"].bytes_received, counts["read_at"].bytes_received) == (5, 3)
    assert counts["list"].failures == 0


def test_counts_of_another_process_are_added() -> None:
    metrics = Metrics()
    metrics.count_retry("read", transient())
    snapshot = pickle.loads(pickle.dumps(metrics.snapshot()))
    metrics.add(snapshot)
    assert [(count.operation, count.retries) for count in metrics.snapshot()] == [("read", 2)]


def test_a_transient_error_can_be_sent_between_processes() -> None:
    for progressed in (False, True):
        copy = pickle.loads(pickle.dumps(transient(progressed)))
        assert (str(copy), copy.progressed) == (str(transient()), progressed)


def test_all_other_methods_reach_the_inner_storage(
    flaky: Flaky, clock: Clock, tmp_path: Path
) -> None:
    for wrap in (lambda: retrying(flaky, clock), lambda: MetricsStorage(flaky, Metrics())):
        check_methods(wrap, tmp_path)


def check_methods(wrap: Callable[[], RetryStorage | MetricsStorage], tmp_path: Path) -> None:
    with wrap() as storage:
        assert storage.url == f"local://{tmp_path}"
        assert not storage.discards
        staging = storage.staging_dir("b")
        assert staging is not None
        (staging / "x").write_bytes(b"1")
        storage.save_file("b/x", staging / "x")
        storage.write("b/y", b"2")
        storage.discard_staging("b")
        assert storage.list_folders() == ("b",)
        storage.delete("b/x")
        assert [info.name for info in storage.list("b")] == ["b/y"]
        assert storage.url in repr(storage)
