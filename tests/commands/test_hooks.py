"""Hooks by themselves: what they are given, and what they cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bkctl.archive.report import RangeCounts, RangeError, Report
from bkctl.commands import hooks
from bkctl.commands.hooks import run_hook


def a_report(errors: int = 0) -> Report:
    return Report(
        name="b; rm -rf x",
        status="partial" if errors else "ok",
        mode="txn",
        start_ts=0,
        end_ts=7,
        store_id=1,
        cluster_id=1,
        ranges=RangeCounts(1, 1, 0, 0),
        files=1,
        total_kvs=1,
        total_bytes=1,
        crc64xor=0,
        size=1,
        seconds=1.0,
        errors=tuple(RangeError(1, b"", b"", "other", "x" * 1000) for _ in range(errors)),
    )


def test_a_hook_gets_the_report_and_three_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BKCTL_ON_FAILURE", "exit 1")
    monkeypatch.setenv("BKCTL_STORAGE", "/backups")
    run_hook("--on-failure", "cat >report.json; env >env; echo told; pwd", a_report(), 3)
    assert json.loads(Path("report.json").read_text()) == a_report().to_json_dict()
    variables = {line for line in Path("env").read_text().splitlines() if "BKCTL" in line}
    assert variables >= {
        "BKCTL_STATUS=ok",
        "BKCTL_EXIT_CODE=3",
        "BKCTL_BACKUP_NAME=b; rm -rf x",
        "BKCTL_STORAGE=/backups",
    }
    assert not any(line.startswith(("BKCTL_ON", "BKCTL_NAME")) for line in variables)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", f"told\n{tmp_path}\n")


@pytest.mark.parametrize("errors", [0, 1000])
@pytest.mark.parametrize("command", ["true", "exec <&-; true", "head -c 1 >/dev/null"])
def test_a_hook_need_not_read_its_input(
    command: str, errors: int, capfd: pytest.CaptureFixture[str]
) -> None:
    run_hook("--on-success", command, a_report(errors), 0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("exit 7", "failed with exit code 7"),
        ("kill -9 $$", "killed by signal 9"),
        ("no-such-command-here 2>/dev/null", "failed with exit code 127"),
        ("\0", "cannot be run (embedded null byte)"),
    ],
)
def test_a_hook_that_fails_is_a_warning(
    command: str, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_hook("--on-success", command, a_report(), 0)
    assert capfd.readouterr().err == f"bkctl: warning: --on-success: the command {what}\n"


def test_a_hook_that_hangs_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hooks, "_ENDING_SECONDS", 0.2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # Neither the shell nor its child goes of its own accord, nor when asked.
    stubborn = f"trap '' TERM; (exec 9>{fifo}; sleep 1000) & wait"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run_hook("--on-failure", stubborn, a_report(1000), 1, seconds=0.5)
        assert "not over after 0.5 seconds, and ended" in capfd.readouterr().err
        # The end of the pipe: nobody has its other end open any more.
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("signal_name", ["INT", "TERM"])
def test_a_signal_ends_the_hook_and_no_more(
    signal_name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_hook(
        "--on-success", f"cat >/dev/null; kill -{signal_name} $PPID; exec sleep 1000", a_report(), 0
    )
    err = capfd.readouterr().err
    assert err == "bkctl: warning: --on-success: the command ended, as bkctl was told to stop\n"


def test_what_a_hook_leaves_running_on_purpose_stays(tmp_path: Path) -> None:
    run_hook("--on-success", f"sleep 100 & echo $! >{tmp_path}/pid", a_report(), 0)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 9)
