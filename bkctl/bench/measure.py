"""Runs one command and measures it: time, processor time, memory of its largest process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bkctl import interrupts
from bkctl.errors import BkctlError

_GAUGE = Path(__file__).with_name("gauge.py")


@dataclass(frozen=True, slots=True)
class Measured:
    """A command that succeeded: `wall` and `cpu` in seconds, `peak` in bytes, what it printed.

    `wall` is from the start of the program to its end, `cpu` that of all its processes, `peak` the
    most memory that a single one of them had (10 MiB at least, as that is what cannot be told).
    """

    wall: float
    cpu: float
    peak: int
    stdout: str


class CommandFailedError(BkctlError):
    """A command ended with `code` (negative for a signal); `reason` is the last line it said."""

    def __init__(self, name: str, code: int, stdout: str, stderr: str) -> None:
        lines = stderr.strip().splitlines()
        self.code, self.stdout = code, stdout
        self.reason = lines[-1].strip().removeprefix("bkctl: ") if lines else "it said nothing"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        super().__init__(f"{name} ended with {how}: {self.reason}")


def run_measured(name: str, command: Sequence[object], folder: Path) -> Measured:
    """Run a command to its end, with nothing of the user's own settings for bkctl.

    `name` is what errors call it, `folder` is for a temporary file. Raises CommandFailedError. No
    process of the command is left, whatever is raised.
    """
    result = folder / "measured.json"
    # Isolated and without site-packages: what it loads counts as memory of what it starts.
    gauge = [sys.executable, "-I", "-S", str(_GAUGE), str(result), *map(str, command)]
    process = subprocess.Popen(
        gauge,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={name: value for name, value in os.environ.items() if not name.startswith("BKCTL_")},
    )
    try:
        stdout, stderr = process.communicate()
    except BaseException:
        with interrupts.handled_by(lambda signum, frame: None):
            process.terminate()
            process.communicate()
        raise
    if not result.exists():
        raise CommandFailedError(name, process.returncode, stdout, stderr)
    measured = json.loads(result.read_bytes())
    result.unlink()
    if measured["code"] != 0:
        raise CommandFailedError(name, measured["code"], stdout, stderr)
    return Measured(measured["seconds"], measured["cpu"], measured["peak"], stdout)
