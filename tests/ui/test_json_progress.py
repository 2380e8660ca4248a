from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bkctl.errors import UsageError
from bkctl.pool.events import DoneRange, PhaseSeconds
from bkctl.restore.restore import FetchProgress
from bkctl.ui import log
from bkctl.ui.json_progress import JsonListener
from bkctl.ui.progress import make_listener
from bkctl.ui.transfer import TransferLine
from tests.ui.runs import Clock, backup_range


@pytest.fixture(autouse=True)
def _json() -> Iterator[None]:
    log.use(log.LogFormat.JSON)
    yield
    log.use(log.LogFormat.TEXT)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def run(mode: str) -> None:
    clock = Clock()
    listener = make_listener(mode, io.StringIO(), clock=clock)
    assert isinstance(listener, JsonListener)
    listener.started(3, None, 2)
    listener.range_started(0, backup_range(1))
    clock.tick(11)
    listener.advanced(0, 7, 70)
    seconds = PhaseSeconds(0.5, 2.25, 1)
    listener.range_done(0, DoneRange(backup_range(1), 9, 90, 30, (), seconds))
    listener.range_failed(1, backup_range(2), "corruption", "bad\nblock")
    listener.finished()
    listener.finished()


def test_a_run_is_told_range_by_range(capsys: pytest.CaptureFixture[str]) -> None:
    run("auto")
    running, progress, done, failed, last = lines(capsys)
    assert (running["event"], running["ranges"], running["jobs"]) == ("running", 3, 2)
    assert (progress["event"], progress["ranges_done"], progress["kvs"]) == ("progress", 0, 7)
    assert (done["event"], done["region_id"]) == ("range_done", 1)
    assert (done["start_key"], done["end_key"]) == (b"k001".hex().upper(), b"k002".hex().upper())
    assert (done["kvs"], done["bytes"], done["size"], done["files"]) == (9, 90, 30, 0)
    assert done["seconds"] == {"snapshot": 0.5, "scan": 2.25, "save": 1}
    assert (failed["event"], failed["level"], failed["kind"]) == (
        "range_failed",
        "warning",
        "corruption",
    )
    assert failed["message"] == "region 2 [k002, k003) failed: corruption: bad block"
    assert (last["event"], last["ranges_done"], last["ranges_failed"]) == ("progress", 1, 1)


def test_without_progress_the_events_stay(capsys: pytest.CaptureFixture[str]) -> None:
    run("none")
    assert [line["event"] for line in lines(capsys)] == ["running", "range_done", "range_failed"]


def test_a_live_display_and_json_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--log-format json"):
        make_listener("rich")
    with pytest.raises(UsageError, match="--log-format json"):
        TransferLine("rich")


def test_files_on_their_way_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    line = TransferLine("auto", clock=clock)
    clock.tick(11)
    line.show(FetchProgress(1, 2, 100, 300))
    line.close()
    (shown,) = lines(capsys)
    assert (shown["event"], shown["files"], shown["total_size"]) == ("progress", 1, 300)
