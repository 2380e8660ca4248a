"""A helper process: it answers, and however it ends its parent goes on and can say how."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from bkctl.errors import CancelledError, CorruptionError
from bkctl.pool import helper
from bkctl.pool.helper import Helper, HelperDiedError


class Handler:
    """What the tests' helpers do."""

    def __call__(self, request: Any) -> Iterator[Any]:
        if request == "pid":
            yield os.getpid()
        elif request == "damaged":
            yield 1
            raise CorruptionError("f.sst: is damaged")
        elif request == "hang":
            signal.pause()
        elif isinstance(request, int):
            yield from range(request)
        else:
            os.kill(os.getpid(), getattr(signal, request))


@pytest.fixture
def asked() -> Iterator[Helper]:
    made = Helper(Handler, "test")
    yield made
    made.close()


def pid_of(asked: Helper) -> int:
    (pid,) = asked.ask("pid")
    assert isinstance(pid, int)
    return pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_answers_all_requests(asked: Helper) -> None:
    pid = pid_of(asked)
    assert list(asked.ask(3)) == [0, 1, 2]
    assert list(asked.ask(0)) == []
    assert pid_of(asked) == pid != os.getpid()
    asked.close()
    assert not is_alive(pid)


def test_an_error_comes_after_the_answers_before_it(asked: Helper) -> None:
    pid = pid_of(asked)
    answers = asked.ask("damaged")
    assert next(answers) == 1
    with pytest.raises(CorruptionError, match="is damaged"):
        next(answers)
    assert pid_of(asked) == pid


def test_answers_that_nobody_wants_are_not_taken_for_those_of_the_next_request(
    asked: Helper,
) -> None:
    answers = asked.ask(1_000_000)
    assert next(answers) == 0
    del answers
    assert list(asked.ask(2)) == [0, 1]


@pytest.mark.parametrize(
    ("name", "is_crash"), [("SIGSEGV", True), ("SIGABRT", True), ("SIGKILL", False)]
)
def test_its_death_is_an_error_that_says_how(asked: Helper, name: str, is_crash: bool) -> None:
    with pytest.raises(HelperDiedError, match=f"killed by {name}") as caught:
        list(asked.ask(name))
    assert caught.value.is_crash == is_crash
    assert list(asked.ask(1)) == [0]  # by another process


def test_one_that_does_nothing_at_all_is_killed(
    asked: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = pid_of(asked)
    monkeypatch.setattr(helper, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(helper, "SILENT_SECONDS", 0.1)
    with pytest.raises(HelperDiedError, match="did nothing"):
        list(asked.ask("hang"))
    assert not is_alive(pid)


def test_waiting_for_it_ends_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Helper(Handler, "test", lambda: True)
    pid = pid_of(asked)
    monkeypatch.setattr(helper, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(helper, "STOPPING_SECONDS", 0.1)
    with pytest.raises(CancelledError):
        list(asked.ask("hang"))
    assert not is_alive(pid)
