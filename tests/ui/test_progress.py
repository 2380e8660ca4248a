import io
import os
import sys

import pytest

from bkctl.errors import UsageError
from bkctl.pool.events import DoneRange, SilentListener
from bkctl.ui.lines import QuietStream
from bkctl.ui.live import RichListener
from bkctl.ui.progress import PlainListener, make_listener
from tests.ui.runs import Clock, backup_range

MODES = ["rich", "plain", "none"]


class Broken(io.StringIO):
    """A stream nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_auto_is_plain_where_no_terminal_is() -> None:
    assert isinstance(make_listener("auto", io.StringIO()), PlainListener)


def test_auto_is_rich_on_a_terminal_and_plain_on_a_dumb_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader, follower = os.openpty()
    with open(follower, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(make_listener("auto", terminal), RichListener)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_listener("auto", terminal), PlainListener)
    os.close(leader)


def test_none_is_silent_and_another_mode_an_error() -> None:
    assert isinstance(make_listener("none"), SilentListener)
    with pytest.raises(UsageError, match="'loud'"):
        make_listener("loud")


def test_a_closed_stderr_makes_it_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(make_listener("auto"), SilentListener)


def test_plain_says_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    listener = make_listener("plain", stream, clock=clock)
    listener.started(2, None, 1)
    listener.range_started(0, backup_range(1))
    for second in range(25):
        clock.tick(1)
        listener.advanced(0, second, second)
    listener.range_done(0, DoneRange(backup_range(1), 25, 25, 10))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("0/2 ranges, 9 keys, 9 B, ")
    listener.finished()
    listener.finished()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("1/2 ranges, 25 keys, 25 B, ")
    assert lines[-1].endswith("took 25s")


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_failures_are_said_at_once_on_one_line(mode: str, clock: Clock) -> None:
    stream = io.StringIO()
    listener = make_listener(mode, stream, clock=clock)
    listener.started(2, None, 1)
    listener.range_started(0, backup_range(5))
    listener.range_failed(0, backup_range(5), "corruption", "000012.sst: bad block\nat 4096")
    said = "region 5 [k005, k006) failed: corruption: 000012.sst: bad block at 4096"
    try:
        assert said in stream.getvalue()
    finally:
        listener.finished()


def test_rich_shows_the_run_and_its_workers(clock: Clock) -> None:
    stream = io.StringIO()
    listener = RichListener(QuietStream(stream), clock, width=100)
    listener.started(4, None, 2)
    listener.range_started(0, backup_range(1))
    listener.range_started(1, backup_range(2))
    clock.tick(10)
    listener.advanced(1, 1234, 2 << 20)
    listener.range_done(0, DoneRange(backup_range(1), 1000, 1 << 20, 10))
    listener.range_started(0, backup_range(3))
    # A failure draws the display again, with no need to wait for its own next time.
    listener.range_failed(0, backup_range(3), "other", "reason")
    screen = stream.getvalue()
    assert "1/4 ranges, 10s, 10s left" in screen
    assert "2,234 keys, 3.0 MiB, 307.2 KiB/s" in screen
    assert "worker 1: region 2 from k002, 1,234 keys" in screen
    listener.finished()


def test_rich_gives_the_terminal_back(clock: Clock) -> None:
    stream = io.StringIO()
    listener = make_listener("rich", stream, clock=clock)
    before = sys.stderr
    listener.started(1, None, 1)
    listener.finished()
    listener.finished()
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1
    assert sys.stderr is before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_stream_that_cannot_be_written_to_is_no_error(
    mode: str, is_closed: bool, clock: Clock
) -> None:
    stream = Broken()
    if is_closed:
        stream.close()
    listener = make_listener(mode, stream, clock=clock)
    listener.started(2, 100, 1)
    listener.range_started(0, backup_range(1))
    clock.tick(20)
    listener.advanced(0, 1, 1)
    listener.range_failed(0, backup_range(1), "other", "reason")
    listener.range_done(0, DoneRange(backup_range(1), 1, 1, 1))
    listener.finished()
