from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import typer

from bkctl import __version__
from bkctl.cli import COMMANDS, error_boundary
from bkctl.errors import (
    BkctlError,
    CancelledError,
    KeyIsLockedError,
    RangesFailedError,
    RegionMapError,
)
from tests.commands.console import bkctl, process

HEAVY = ("rocksdict", "numpy", "google", "rich", "bkctl.store.database", "bkctl.backup.backup")
OTHERS = ("bkctl.commands.backup", "bkctl.commands.bench")


def raised_by(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as caught, error_boundary():
        raise error
    return caught.value.exit_code


def test_help_lists_every_command_and_exit_code() -> None:
    outcome = bkctl("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in outcome.stdout
    assert "130/143 interrupted" in outcome.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_an_example_and_exit_codes(name: str) -> None:
    outcome = bkctl(name, "--help")
    assert outcome.code == 0
    assert f"bkctl {name}" in outcome.stdout.split("Example")[1]
    assert "Exit codes" in outcome.stdout
    assert "--config FILE" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY + OTHERS),
        (["ranges", "--help"], HEAVY + OTHERS),
        (["tso", "now"], HEAVY + OTHERS),
    ],
)
def test_a_command_loads_what_it_needs(arguments: list[str], unwanted: tuple[str, ...]) -> None:
    script = (
        "import sys, bkctl.__main__\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    bkctl.__main__.main()\n"
        "except SystemExit as e:\n"
        f"    heavy = [name for name in {unwanted!r} if name in sys.modules]\n"
        "    sys.exit(f'imported {heavy}' if heavy else e.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_main_module_imports_nothing_for_workers() -> None:
    script = "import sys, bkctl.__main__; sys.exit('bkctl.cli' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_version() -> None:
    outcome = bkctl("--version")
    assert (outcome.code, outcome.stdout) == (0, f"bkctl {__version__}\n")


def test_no_command_shows_help_and_fails() -> None:
    outcome = bkctl()
    assert outcome.code == 2
    assert "Usage: " in outcome.stderr
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["tso", "--jobs"], ["ranges", "--nonsense"], ["ranges", "extra"]]
)
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    outcome = bkctl(*arguments)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr


def test_of_a_mistyped_command_the_one_meant_is_named() -> None:
    assert "Did you mean 'verify'?" in bkctl("verfy").stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BkctlError("x"), 1),
        (RegionMapError("x"), 2),
        (RangesFailedError("x"), 3),
        (KeyIsLockedError("x"), 4),
        (CancelledError(signal.SIGINT), 130),
        (CancelledError(signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_each_error_ends_with_its_exit_code(error: BaseException, code: int) -> None:
    assert raised_by(error) == code


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    raised_by(BkctlError("one\nline"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "bkctl: one line\n")


def test_an_operating_system_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    raised_by(PermissionError(13, "Permission denied", "/var/lib/x"))
    assert capsys.readouterr().err == "bkctl: /var/lib/x: Permission denied\n"


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), error_boundary():
        raise ZeroDivisionError


def test_sigterm_unwinds_the_stack_and_ends_with_143() -> None:
    unwound = []

    def killed() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as caught, error_boundary():
        killed()
    assert caught.value.exit_code == 143
    assert unwound
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_python_drops_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    class Target:
        pass

    target = Target()
    # What is raised in a weak reference's callback goes nowhere.
    watched = weakref.ref(target, lambda _: os.kill(os.getpid(), signal.SIGTERM))

    def signalled() -> None:
        nonlocal target
        del target
        assert watched() is None
        threading.Event().wait(60)

    with pytest.raises(typer.Exit) as caught, error_boundary():
        signalled()
    assert caught.value.exit_code == 143
    assert capfd.readouterr().err == "bkctl: interrupted\n"


def test_a_reader_that_leaves_early_ends_the_program_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = process("tso", "now", capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_under_stdout_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not here")
    with open("/dev/full", "w") as full:
        done = process("tso", "now", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "bkctl: cannot write the output: No space left on device\n"


def test_a_closed_stdout_is_no_error() -> None:
    command = [sys.executable, "-m", "bkctl", "tso", "--json"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_runs_as_a_module_and_as_a_program() -> None:
    assert process("--version").stdout == f"bkctl {__version__}\n"
    program = Path(sys.executable).parent / "bkctl"
    if not program.exists():
        pytest.skip("bkctl is not installed as a program here")
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert done.stdout == f"bkctl {__version__}\n"
