import pytest

from bkctl.ui.tally import Tally
from tests.ui.runs import Clock, backup_range


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock)


def test_counts_ranges_in_work_until_they_end(tally: Tally) -> None:
    tally.started(3, None)
    tally.range_started(0, backup_range(1))
    tally.range_started(1, backup_range(2))
    tally.advanced(0, 10, 100)
    tally.advanced(0, 20, 200)
    tally.advanced(1, 5, 50)
    assert (tally.kvs, tally.plain_bytes) == (25, 250)
    tally.range_done(0, 30, 300)
    assert (tally.kvs, tally.plain_bytes, tally.done) == (35, 350, 1)
    tally.range_failed(1, backup_range(2))
    assert (tally.kvs, tally.plain_bytes, tally.failed) == (30, 300, 1)
    assert not tally.workers


def test_a_failure_of_a_range_never_begun_leaves_the_worker_its_own(tally: Tally) -> None:
    tally.started(2, None)
    tally.range_started(0, backup_range(1))
    tally.range_failed(0, backup_range(2))
    assert list(tally.workers) == [0]


def test_unknown_workers_are_no_error(tally: Tally) -> None:
    tally.started(1, 10)
    tally.advanced(7, 1, 1)
    tally.range_done(7, 1, 1)
    assert (tally.kvs, tally.done) == (1, 1)


def test_time_left_is_unknown_before_anything_has_passed(tally: Tally, clock: Clock) -> None:
    tally.started(4, None)
    clock.tick(5)
    assert tally.seconds_left is None


def test_time_left_is_measured_in_ranges_without_estimates(tally: Tally, clock: Clock) -> None:
    tally.started(4, None)
    clock.tick(10)
    tally.range_started(0, backup_range(1))
    tally.range_done(0, 5, 5)
    assert tally.seconds_left == pytest.approx(30)
    tally.range_failed(0, backup_range(2))
    assert tally.seconds_left == pytest.approx(10)


def test_time_left_is_measured_in_keys_where_they_are_estimated(tally: Tally, clock: Clock) -> None:
    tally.started(2, 1000)
    tally.range_started(0, backup_range(1, 900))
    tally.range_started(1, backup_range(2, 100))
    clock.tick(10)
    tally.advanced(0, 400, 1)
    tally.advanced(1, 100, 1)
    assert tally.seconds_left == pytest.approx(10)


def test_a_range_that_yields_little_counts_by_its_estimate_once_done(
    tally: Tally, clock: Clock
) -> None:
    tally.started(2, 1000)
    tally.range_started(0, backup_range(1, 500))
    clock.tick(10)
    tally.range_done(0, 3, 30)
    assert tally.seconds_left == pytest.approx(10)


def test_nothing_is_left_when_all_ranges_have_ended(tally: Tally, clock: Clock) -> None:
    tally.started(1, 1000)
    clock.tick(10)
    tally.range_started(0, backup_range(1, 1))
    tally.range_done(0, 1, 1)
    assert tally.seconds_left == 0.0


def test_words_say_all_figures(tally: Tally, clock: Clock) -> None:
    tally.started(128, None)
    clock.tick(2)
    for number in range(12):
        tally.range_started(0, backup_range(number))
        tally.range_done(0, 100_000, 10 << 20)
    assert tally.in_words() == (
        "12/128 ranges, 1,200,000 keys, 120.0 MiB, 60.0 MiB/s, 0 failed, 19s left"
    )
    assert tally.in_words(finished=True).endswith("0 failed, took 2s")
