from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import struct
import threading
from io import SEEK_CUR, SEEK_END
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.size import parse_size
from bkctl.errors import StorageError, UsageError
from bkctl.storage.limit import (
    BURST_SECONDS,
    RateLimit,
    ThrottledBody,
    TokenBucket,
)
from bkctl.storage.url import parse_storage, writer_bucket
from tests.storage.servers import Clock

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("50MiB", 50 * MIB),
        ("50 mib", 50 * MIB),
        ("5MB", 5_000_000),
        ("1.5KiB", 1536),
        ("0.1KB", 100),
        ("7B", 7),
        ("2GiB", 2 << 30),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e3", "5M", "5 parsecs", "1..5MB", "٣", "nan", "0x10", "9" * 99]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size; write bytes as"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_refused_on_one_line(text: str) -> None:
    try:
        told = f"{parse_size(text)} bytes"
    except UsageError as e:
        told = str(e)
    assert told.isprintable()


def test_a_rate_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 byte"):
        RateLimit(0, tmp_path / "rate")


def bucket_of(tmp_path: Path, rate: int, clock: Clock) -> TokenBucket:
    return TokenBucket(RateLimit(rate, tmp_path / "rate"), clock, clock.sleep)


@given(
    rate=st.integers(1, 1 << 30),
    takes=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 1 << 22)), min_size=1, max_size=8),
)
def test_no_more_is_granted_than_the_rate_and_one_burst_allow(
    tmp_path_factory: pytest.TempPathFactory, rate: int, takes: list[tuple[float, int]]
) -> None:
    clock = Clock()
    begun = clock.now
    bucket = bucket_of(tmp_path_factory.mktemp("rate"), rate, clock)
    granted = 0
    for pause, nbytes in takes:
        clock.now += pause
        bucket.take(min(nbytes, 20 * rate))
        granted += min(nbytes, 20 * rate)
        allowed = rate * (clock.now - begun + BURST_SECONDS)
        assert granted <= allowed * (1 + 1e-9) + 1
    bucket.close()


def test_a_busy_sender_gets_the_whole_rate(tmp_path: Path) -> None:
    clock = Clock()
    bucket = bucket_of(tmp_path, 5 * MIB, clock)
    for _ in range(100):
        bucket.take(MIB)
    assert clock.now - 1000 == pytest.approx(20)


def test_a_large_request_is_granted_step_by_step(tmp_path: Path) -> None:
    clock = Clock()
    bucket_of(tmp_path, 1000, clock).take(5000)
    assert clock.slept == pytest.approx([0.1] * 50)


def test_buckets_of_one_state_share_one_rate(tmp_path: Path) -> None:
    clock = Clock()
    buckets = [bucket_of(tmp_path, 1000, clock) for _ in range(4)]
    for _ in range(10):
        for bucket in buckets:
            bucket.take(100)
    assert clock.now - 1000 == pytest.approx(4)


def test_a_state_from_before_a_reboot_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "rate").write_bytes(struct.pack("<d", 9e9))
    clock = Clock()
    bucket_of(tmp_path, 1000, clock).take(100)
    assert clock.now - 1000 == pytest.approx(0.1)


def test_a_state_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/rate: .*\(No such file or directory\)"):
        TokenBucket(RateLimit(1, tmp_path / "missing" / "rate"))
    bucket = TokenBucket(RateLimit(1, tmp_path / "rate"))
    bucket.close()
    bucket.close()


def send(limit: RateLimit, barrier: Barrier, nbytes: int) -> None:
    # A clock that stands still: what has to be waited for is the sum of what was asked for.
    bucket = TokenBucket(limit, clock=lambda: 1000.0, sleep=lambda seconds: None)
    barrier.wait()
    for _ in range(nbytes // 65536):
        bucket.take(65536)


def test_two_processes_keep_to_one_rate_together(tmp_path: Path) -> None:
    context = get_context("spawn")
    limit = pickle.loads(pickle.dumps(RateLimit(5 * MIB, tmp_path / "rate")))
    barrier = context.Barrier(3)
    processes = [context.Process(target=send, args=(limit, barrier, 5 * MIB)) for _ in range(2)]
    for process in processes:
        process.start()
    barrier.wait()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (paid,) = struct.unpack("<d", limit.state.read_bytes())
    assert paid - 1000 == pytest.approx(2)


def send_for_ever(limit: RateLimit, barrier: Barrier) -> None:
    bucket = TokenBucket(limit, sleep=lambda seconds: None)
    barrier.wait()
    while True:
        bucket.take(1)


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    context = get_context("spawn")
    limit = RateLimit(1 << 60, tmp_path / "rate")
    barrier = context.Barrier(3)
    victims = [context.Process(target=send_for_ever, args=(limit, barrier)) for _ in range(2)]
    for victim in victims:
        victim.start()
    barrier.wait()
    for victim in victims:
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    taken = threading.Thread(target=TokenBucket(limit).take, args=(1,), daemon=True)
    taken.start()
    taken.join(10)
    assert not taken.is_alive()


def test_a_body_is_read_whole_and_paid_before_it_is_given() -> None:
    content = os.urandom(200_000)
    paid: list[int] = []
    body = ThrottledBody(content, paid.append)
    assert len(body) == len(content)
    pieces = []
    given = 0
    while piece := body.read(16384):
        given += len(piece)
        assert given <= sum(paid) <= given + 65536
        pieces.append(piece)
    assert b"".join(pieces) == content
    assert sum(paid) == len(content)
    assert body.seek(-4, SEEK_END) == len(content) - 4
    assert body.seek(1, SEEK_CUR) == body.tell()
    assert body.read() == content[-3:]
    assert sum(paid) == len(content) + 3


def test_the_maker_of_files_pays_only_where_saving_is_a_move(tmp_path: Path) -> None:
    limit = RateLimit(1000, tmp_path / "rate")
    for url, pays in (
        ("/b", True),
        ("noop://", True),
        ("gcs://bucket", False),
        ("s3://bkt", False),
    ):
        spec = parse_storage(url)
        assert writer_bucket(spec) is None
        bucket = writer_bucket(dataclasses.replace(spec, rate_limit=limit))
        assert (bucket is not None) == pays
