"""The pool: resized while it runs, closed when idle, not lost when a worker dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bkctl.pool.pool import Emitted, JobDone, JobLost, PoolEvent, WorkerPool
from bkctl.pool.signs import SILENT_SECONDS, STOPPING_SECONDS, WAITING_SECONDS
from bkctl.pool.worker import Target
from tests.pool import jobs

MakePool = Callable[[Target], WorkerPool]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_pool(clock: Clock) -> Iterator[MakePool]:
    pools: list[WorkerPool] = []

    def make(target: Target) -> WorkerPool:
        pools.append(WorkerPool(target, clock))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()


def drain(pool: WorkerPool) -> list[PoolEvent]:
    events: list[PoolEvent] = []
    while pool.busy:
        events += pool.wait(10)
    return events


def next_pid(pool: WorkerPool) -> int:
    while True:
        for event in pool.wait(10):
            if isinstance(event, Emitted):
                assert isinstance(event.event, int)
                return event.event


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_resizing_keeps_queued_and_running_jobs(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(jobs.touch)
    pool.adjust_with(3)
    for i in range(8):
        pool.submit(str(tmp_path / f"{i}"))
    pool.adjust_with(4)
    for i in range(8, 16):
        pool.submit(str(tmp_path / f"{i}"))
    done = [event for event in drain(pool) if isinstance(event, JobDone)]
    assert len(done) == 16
    assert {path.name for path in tmp_path.iterdir()} == {str(i) for i in range(16)}
    assert len(pool.process_ids) <= 4


def test_size_grows_at_once_and_shrinks_only_past_ten_idle(make_pool: MakePool) -> None:
    pool = make_pool(jobs.touch)
    assert pool.size == 0
    pool.adjust_with(15)
    assert pool.size == 15
    pool.adjust_with(10)
    assert pool.size == 15
    pool.adjust_with(5)
    assert pool.size == 15
    pool.adjust_with(3)
    assert pool.size == 3


def test_a_running_job_outlives_the_shrinking_of_its_pool(
    make_pool: MakePool, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = make_pool(jobs.until_released)
    pool.adjust_with(12)
    pool.submit(str(fifo))
    pid = next_pid(pool)
    pool.adjust_with(1)
    assert pool.size == 1
    assert pid in pool.process_ids
    with fifo.open("wb") as end:
        end.write(b"x")
    assert [type(event) for event in drain(pool)] == [JobDone]


def test_an_idle_pool_closes_after_the_threshold(
    make_pool: MakePool, clock: Clock, tmp_path: Path
) -> None:
    pool = make_pool(jobs.touch)
    pool.adjust_with(10)
    pool.submit(str(tmp_path / "a"))
    drain(pool)
    pids = pool.process_ids
    clock.now += 0.05
    pool.check_active(0.1)
    assert pool.size == 10
    assert all(alive(pid) for pid in pids)
    clock.now += 0.06
    pool.check_active(0.1)
    assert pool.size == 0
    assert not any(alive(pid) for pid in pids)
    # and it can be used again
    pool.adjust_with(1)
    pool.submit(str(tmp_path / "b"))
    drain(pool)
    assert (tmp_path / "b").exists()


def test_a_busy_pool_does_not_close(make_pool: MakePool, clock: Clock, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = make_pool(jobs.until_released)
    pool.adjust_with(1)
    pool.submit(str(fifo))
    next_pid(pool)
    clock.now += 3600
    pool.check_active(0.1)
    assert pool.size == 1
    with fifo.open("wb") as end:
        end.write(b"x")
    drain(pool)


def test_a_killed_worker_costs_its_job_and_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(jobs.die)
    pool.adjust_with(1)
    for job in ("first", "die", "last"):
        pool.submit(job)
    events = drain(pool)
    assert [event.job for event in events if isinstance(event, JobDone)] == ["first", "last"]
    lost = [event for event in events if isinstance(event, JobLost)]
    assert [event.job for event in lost] == ["die"]
    assert "SIGKILL" in lost[0].reason


def fifos(folder: Path, count: int) -> list[str]:
    paths = [str(folder / f"fifo{number}") for number in range(count)]
    for path in paths:
        os.mkfifo(path)
    return paths


def test_what_is_left_of_a_job_does_not_keep_a_worker_from_the_next(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(jobs.with_rest)
    pool.adjust_with(1)
    first, second = fifos(tmp_path, 2)
    pool.submit(first)
    pool.submit(second)
    assert next_pid(pool) == next_pid(pool)  # the second is begun, too
    assert pool.busy
    with open(second, "wb", buffering=0) as later, open(first, "wb", buffering=0) as earlier:
        later.write(b"x")
        earlier.write(b"x")
        events = drain(pool)
    assert [event.job for event in events if isinstance(event, JobDone)] == [first, second]


def test_a_killed_worker_costs_what_is_left_of_its_jobs_too(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(jobs.with_rest)
    pool.adjust_with(1)
    first, second = fifos(tmp_path, 2)
    pool.submit(first)
    pool.submit(second)
    pid = next_pid(pool)
    next_pid(pool)
    os.kill(pid, signal.SIGKILL)
    lost = [event.job for event in drain(pool) if isinstance(event, JobLost)]
    assert lost == [first, second]


def test_closing_waits_for_what_is_left_of_jobs(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(jobs.with_rest)
    pool.adjust_with(1)
    (path,) = fifos(tmp_path, 1)
    pool.submit(path)
    pid = next_pid(pool)
    with open(path, "wb", buffering=0) as end:
        end.write(b"x")
        pool.close()
    assert not alive(pid)


def test_dismissed_workers_end_once_they_are_done(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(jobs.until_released)
    pool.adjust_with(2)
    paths = fifos(tmp_path, 2)
    for path in paths:
        pool.submit(path)
    with open(paths[0], "wb", buffering=0) as end:
        end.write(b"x")
    while not any(isinstance(event, JobDone) for event in pool.wait(10)):
        pass
    pids = pool.process_ids
    pool.dismiss()
    with open(paths[1], "wb", buffering=0) as end:
        end.write(b"x")
        pool.close()
    assert not any(alive(pid) for pid in pids)


def test_cancelling_stops_running_jobs_and_forgets_queued_ones(make_pool: MakePool) -> None:
    pool = make_pool(jobs.until_cancelled)
    pool.adjust_with(1)
    pool.submit("one")
    pool.submit("two")
    while not pool.wait(10):
        pass
    pool.cancel()
    events = drain(pool)
    assert [event.event for event in events if isinstance(event, Emitted)] == ["stopped"]
    assert [event.job for event in events if isinstance(event, JobDone)] == ["one"]


def test_closing_leaves_no_process(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(jobs.touch)
    pool.adjust_with(2)
    pool.submit(str(tmp_path / "a"))
    pool.submit(str(tmp_path / "b"))
    drain(pool)
    pids = pool.process_ids
    assert pids
    pool.close()
    assert not any(alive(pid) for pid in pids)


def pass_time(pool: WorkerPool, clock: Clock, seconds: float) -> list[PoolEvent]:
    """Let the clock go on by single seconds, with a look at the pool after each."""
    events: list[PoolEvent] = []
    for _ in range(int(seconds)):
        clock.now += 1
        events += pool.wait(0)
    return events


def losses(pool: WorkerPool, events: list[PoolEvent]) -> list[JobLost]:
    """The jobs lost by now, or by the worker that was just killed."""
    while not (lost := [event for event in events if isinstance(event, JobLost)]) and pool.busy:
        events = pool.wait(10)
    return lost


def test_a_worker_without_a_sign_of_life_is_killed_after_a_minute(
    make_pool: MakePool, clock: Clock
) -> None:
    pool = make_pool(jobs.hang)
    pool.adjust_with(1)
    pool.submit("hang")
    pool.submit("last")
    pid = next_pid(pool)
    assert pass_time(pool, clock, SILENT_SECONDS - 1) == []
    assert alive(pid)
    lost = losses(pool, pass_time(pool, clock, 2))
    assert [event.job for event in lost] == ["hang"]
    assert "no sign of life for 60 s" in lost[0].reason
    assert "/store/db" in lost[0].reason
    assert not alive(pid)
    assert next_pid(pool) != pid  # another worker does what is left
    drain(pool)


def test_a_stopped_worker_is_killed_too(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.until_cancelled)
    pool.adjust_with(1)
    pool.submit("one")
    while not pool.wait(10):
        pass
    os.kill(pool.process_ids[0], signal.SIGSTOP)
    lost = losses(pool, pass_time(pool, clock, SILENT_SECONDS + 1))
    assert "no sign of life" in lost[0].reason


def test_a_worker_that_works_on_is_left_alone(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.until_cancelled)
    pool.adjust_with(1)
    pool.submit("one")
    while not pool.wait(10):
        pass
    (worker,) = pool._workers
    for _ in range(10 * int(SILENT_SECONDS)):
        beats = worker.signs.beats
        while worker.signs.beats == beats:
            os.sched_yield()
        assert pass_time(pool, clock, 1) == []
    pool.cancel()
    assert isinstance(drain(pool)[-1], JobDone)


def test_an_idle_worker_is_left_alone(make_pool: MakePool, clock: Clock, tmp_path: Path) -> None:
    pool = make_pool(jobs.touch)
    pool.adjust_with(1)
    pool.submit(str(tmp_path / "a"))
    pid = next_pid(pool)
    drain(pool)
    pass_time(pool, clock, 2 * SILENT_SECONDS)
    pool.submit(str(tmp_path / "b"))
    assert next_pid(pool) == pid
    drain(pool)


def test_what_has_a_deadline_of_its_own_may_take_longer(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.wait_for_long)
    pool.adjust_with(1)
    pool.submit("one")
    pid = next_pid(pool)
    assert pass_time(pool, clock, WAITING_SECONDS - 1) == []
    assert alive(pid)
    assert losses(pool, pass_time(pool, clock, 2))


def test_another_thread_gives_no_signs_for_the_main_one(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.beat_elsewhere)
    pool.adjust_with(1)
    pool.submit("one")
    next_pid(pool)
    assert losses(pool, pass_time(pool, clock, SILENT_SECONDS + 1))


def test_time_in_which_the_parent_itself_slept_does_not_count(
    make_pool: MakePool, clock: Clock
) -> None:
    pool = make_pool(jobs.hang)
    pool.adjust_with(1)
    pool.submit("hang")
    pid = next_pid(pool)
    clock.now += 8 * 3600
    assert pool.wait(0) == []
    assert alive(pid)


def test_cancelling_ends_a_worker_that_hangs(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.hang)
    pool.adjust_with(1)
    pool.submit("hang")
    next_pid(pool)
    pool.cancel()
    assert losses(pool, pass_time(pool, clock, STOPPING_SECONDS + 1))
    assert not pool.busy


def test_closing_does_not_wait_for_a_worker_that_hangs(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(jobs.hang)
    pool.adjust_with(1)
    pool.submit("hang")
    pid = next_pid(pool)
    pass_time(pool, clock, SILENT_SECONDS - 1)
    (worker,) = pool._workers
    worker.vigil.silence += SILENT_SECONDS
    pool.close()
    assert not alive(pid)
