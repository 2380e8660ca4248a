"""Who holds a repository: the content of its lock, and whether that process is still there.

    {"bkctl", "host", "pid", "process_started", "boot_id", "pid_namespace", "command",
     "token", "started_at", "heartbeat", "heartbeat_at"}

`process_started` is in clock ticks since the machine's start, as `/proc/<pid>/stat` has it. With
the id of that start and of the process's namespace it names one process for good: a pid alone may
have been given to another one since, or mean another one in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from bkctl import __version__
from bkctl.codec.json_text import loads

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = "/proc/self/ns/pid"
_DEAD_STATES = frozenset("ZXx")
_MAX_PID = (1 << 31) - 1


class Life(Enum):
    """What can be proved of a process: that it is gone, that it is there, or nothing."""

    GONE = "gone"
    ALIVE = "alive"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Holder:
    """A lock's content; what another program wrote there leaves fields empty or 0.

    `heartbeat` counts signs of life. Times are the holder's own clock's, for people only.
    """

    bkctl: str = ""
    host: str = ""
    pid: int = 0
    process_started: int = 0
    boot_id: str = ""
    pid_namespace: str = ""
    command: str = ""
    token: str = ""
    started_at: str = ""
    heartbeat: int = 0
    heartbeat_at: str = ""

    def encode(self) -> bytes:
        """The lock's content."""
        return json.dumps(asdict(self)).encode()

    def identity(self) -> dict[str, object]:
        """Which process it is, for a record that has no heartbeat; `parse_holder` reads it."""
        fields = asdict(self)
        for name in ("token", "heartbeat", "heartbeat_at"):
            del fields[name]
        return fields

    def describe(self) -> str:
        """Who it is, for a message: `bkctl backup on host H, pid P, since T, …`."""
        parts = (
            self.host and f"on host {self.host}",
            self.pid and f"pid {self.pid}",
            self.started_at and f"since {self.started_at}",
            self.heartbeat_at and f"last heartbeat {self.heartbeat_at}",
        )
        known = ", ".join(part for part in parts if part)
        return (
            f"{f'bkctl {self.command}' if self.command else 'a run'} {known or 'of unknown host'}"
        )

    def life(self) -> Life:
        """Whether the process is gone, as far as that can be told from here."""
        here = _this_place()
        if not self.boot_id or (self.host, self.boot_id, self.pid_namespace) != here:
            return Life.UNKNOWN
        if not 0 < self.pid <= _MAX_PID or not self.process_started:
            return Life.UNKNOWN
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return Life.GONE
        except OSError:
            pass  # it is there, and someone else's
        started, state = _process_stat(self.pid)
        if not started:
            return Life.UNKNOWN
        is_it = started == self.process_started and state not in _DEAD_STATES
        return Life.ALIVE if is_it else Life.GONE


def this_process(command: str, now: float) -> Holder:
    """Describe this process as a holder with a token of its own; `now` is in unix seconds."""
    host, boot_id, pid_namespace = _this_place()
    moment = format_time(now)
    return Holder(
        bkctl=__version__,
        host=host,
        pid=os.getpid(),
        process_started=_process_stat(os.getpid())[0],
        boot_id=boot_id,
        pid_namespace=pid_namespace,
        command=command,
        token=secrets.token_hex(16),
        started_at=moment,
        heartbeat_at=moment,
    )


def format_time(now: float) -> str:
    """A moment in unix seconds as `2026-11-23T10:15:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def parse_holder(data: bytes) -> Holder:
    """Read a lock's content, which anyone may have written."""
    try:
        fields = loads(data)
    except ValueError:
        return Holder()
    if not isinstance(fields, dict):
        return Holder()
    known = asdict(Holder())
    return Holder(
        **{
            name: value
            for name, value in fields.items()
            if name in known and type(value) is type(known[name]) and _is_sane(value)
        }
    )


def _is_sane(value: str | int) -> bool:
    if isinstance(value, int):
        return 0 <= value < 1 << 63
    return len(value) <= 256 and value.isprintable()


def _this_place() -> tuple[str, str, str]:
    """Host, id of its start and of the namespace of pids; empty where the system tells none."""
    boot_id = pid_namespace = ""
    with suppress(OSError):
        boot_id = _BOOT_ID.read_text().strip()
    with suppress(OSError):
        pid_namespace = os.readlink(_PID_NAMESPACE)
    return socket.gethostname(), boot_id, pid_namespace


def _process_stat(pid: int) -> tuple[int, str]:
    """When a process started, and its state; 0 where the system does not tell."""
    try:
        # The name in parentheses may hold anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[19]), fields[0]
    except (OSError, IndexError, ValueError):
        return 0, ""
