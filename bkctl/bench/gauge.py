"""Runs a command and says what it took, all its processes together; a small program of its own.

    python gauge.py RESULT COMMAND...

RESULT gets one JSON object: `code` (negative for a signal), `seconds` from start to end, `cpu` in
seconds and `peak` in bytes, the memory of the largest single process. Loaded by nobody, so that
it stays small: a started process counts the memory of its starter until its own program is there.

The system counts for a process what it waited for, and so do we: processes whose parent did not
wait for them become ours. When told to stop, or when whoever started us dies, all of them end.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In bytes on macOS, in KiB everywhere else.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Run the command; exits 0 whatever became of it, so long as it could be started."""
    result, *command = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_CHILD_SUBREAPER, 1)
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    begun = time.perf_counter()
    # A group of its own: an interrupt typed at the terminal is for us, who then end it.
    pid = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=())

    def stop(signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    for signum in _SIGNALS:
        signal.signal(signum, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begun
    usages = [usage, *_left()]
    measured = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu": sum(each.ru_utime + each.ru_stime for each in usages),
        "peak": max(each.ru_maxrss for each in usages) * _RSS_UNIT,
    }
    with open(result, "w", encoding="utf-8") as file:
        json.dump(measured, file)


def _left() -> list[Any]:
    """Wait for the processes that the command left, and say what they took."""
    usages = []
    while True:
        try:
            usages.append(os.wait4(-1, 0)[2])
        except ChildProcessError:
            return usages


if __name__ == "__main__":
    main()
