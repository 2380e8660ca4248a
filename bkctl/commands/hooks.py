"""Commands that users have run when a backup has ended, by `/bin/sh -c`.

A hook gets the report as JSON on standard input, and in its environment BKCTL_STATUS (the report's
status), BKCTL_EXIT_CODE and BKCTL_BACKUP_NAME. What it prints goes to stderr. It is a process group
of its own, which is ended when it takes too long. Nothing that a hook does changes how bkctl ends.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from types import FrameType

from bkctl import interrupts
from bkctl.archive.report import Report
from bkctl.files.access import outside_umask
from bkctl.ui import log

HOOK_SECONDS = 60.0
_ENDING_SECONDS = 5.0
# A bkctl that a hook starts is not to run hooks in turn.
_NOT_PASSED_ON = ("BKCTL_ON_SUCCESS", "BKCTL_ON_FAILURE")


def run_hook(
    option: str, command: str, report: Report, exit_code: int, seconds: float = HOOK_SECONDS
) -> None:
    """Run a hook to its end, at most so long; what goes wrong is a warning that names `option`."""
    sys.stderr.flush()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=_stderr(),
            stderr=_stderr(),
            env=_environment(report, exit_code),
            start_new_session=True,
            umask=outside_umask(),
        )
    except (OSError, ValueError) as e:
        _warn(option, f"cannot be run ({e})")
        return
    document = json.dumps(report.to_json_dict(), indent=2).encode() + b"\n"
    try:
        # The run is over, and deaf to signals; the hook need not be waited for.
        with interrupts.handled_by(_interrupt):
            process.communicate(document, seconds)
    except subprocess.TimeoutExpired:
        _end_group(process)
        _warn(option, f"not over after {seconds:g} seconds, and ended")
        return
    except KeyboardInterrupt:
        _end_group(process)
        _warn(option, "ended, as bkctl was told to stop")
        return
    if process.returncode:
        code = process.returncode
        _warn(option, f"killed by signal {-code}" if code < 0 else f"failed with exit code {code}")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _environment(report: Report, exit_code: int) -> dict[str, str]:
    outside = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
    return outside | {
        "BKCTL_STATUS": report.status,
        "BKCTL_EXIT_CODE": str(exit_code),
        # Not BKCTL_NAME, which would be --name to a bkctl that the hook starts.
        "BKCTL_BACKUP_NAME": report.name,
    }


def _stderr() -> int:
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        return sys.stderr.fileno()
    return subprocess.DEVNULL


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the hook and all it started: asked first, then not."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(_ENDING_SECONDS)
            # Its children may outlive it: once it is gone, they get no more time.
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _warn(option: str, what: str) -> None:
    log.warning("hook", f"{option}: the command {what}", option=option)
