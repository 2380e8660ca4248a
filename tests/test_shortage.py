"""What the machine lacks is named: space, open files, memory, threads."""

from __future__ import annotations

import errno
import os
import resource
import threading

import pytest

from bkctl.pool.threads import Threads
from bkctl.shortage import NoThreadError, lack_in, reason_of, what_failed
from bkctl.storage.base import side_by_side


def lacking(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "/x: No space left on device"),
        (errno.EDQUOT, "/x: Disk quota exceeded"),
        (errno.EMFILE, r"/x: Too many open files: a process may have \d+ \(ulimit -n\)"),
        (errno.ENFILE, "/x: Too many open files in system"),
        (errno.EFBIG, r"\(ulimit -f\)"),
        (errno.ENOMEM, "/x: there is not enough memory"),
        (errno.EACCES, "^/x: Permission denied$"),
    ],
)
def test_the_systems_errors_are_told(number: int, says: str) -> None:
    error = lacking(number, "/x")
    with pytest.raises(ValueError, match=says):
        raise ValueError(what_failed(error))
    assert what_failed(error) == f"/x: {reason_of(error)}"


def test_memory_and_threads_are_told() -> None:
    assert "not enough memory" in what_failed(MemoryError())
    assert "no more processes or threads can be started" in what_failed(NoThreadError())
    assert what_failed(OSError("odd")) == "odd"


def test_what_a_library_quotes_is_told() -> None:
    quoted = "IO error: No space left on device: While appending to file: /x/000009.sst"
    assert lack_in(quoted).startswith("No space left on device")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert f"may have {most}" in lack_in("IO error: /x: Too many open files")
    assert lack_in("Corruption: block checksum mismatch") == ""


class Limit:
    """So many threads can be started, and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.left = count
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if not self.left:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_calls_side_by_side_are_made_with_few_threads_or_none(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    Limit(monkeypatch, count)
    made: list[int] = []

    def call(number: int) -> int:
        made.append(number)
        return number * 2

    assert side_by_side(call, range(200)) == list(range(0, 400, 2))
    assert sorted(made) == list(range(200))


def test_a_pool_without_a_thread_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Limit(monkeypatch, 0)
    with Threads(2) as threads, pytest.raises(NoThreadError):
        threads.submit(print)
