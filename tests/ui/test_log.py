from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from bkctl.ui import log
from tests.ui.test_progress import Broken


@pytest.fixture(autouse=True)
def _text_again() -> Iterator[None]:
    yield
    log.use(log.LogFormat.TEXT)


def test_people_get_a_line_with_a_word_of_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("notice", "one\nline")
    log.warning("gaps", "two", gaps=2)
    log.error("error", "three", exit_code=1)
    log.detail("published", "four")
    captured = capsys.readouterr()
    assert captured.err == "bkctl: one line\nbkctl: warning: two\nbkctl: three\n"
    assert captured.out == ""


def test_machines_get_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.use(log.LogFormat.JSON)
    before = datetime.now(timezone.utc)
    log.warning("gaps", 'a "quoted"\nline ü\x00', gaps=2, names=["a"])
    log.detail("published", "four", "error")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    moment = datetime.fromisoformat(first.pop("time").replace("Z", "+00:00"))
    assert abs((moment - before).total_seconds()) < 60
    assert first == {
        "level": "warning",
        "event": "gaps",
        "message": 'a "quoted" line ü\x00',
        "gaps": 2,
        "names": ["a"],
    }
    assert (second["level"], second["event"]) == ("error", "published")


@pytest.mark.parametrize("stream", [None, Broken(), io.TextIOWrapper(io.BytesIO(), "ascii")])
@pytest.mark.parametrize("log_format", log.LogFormat)
def test_a_stderr_that_takes_nothing_is_no_error(
    stream: io.TextIOBase | None, log_format: log.LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    log.use(log_format)
    log.error("error", "ü")
