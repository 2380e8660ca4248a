"""One rate for bytes on their way out, shared by all processes of a run.

The bucket is a small file that every process maps to the same state:

    8 bytes   little-endian double: the monotonic time at which all bytes granted so far are paid

Whoever wants to send takes the file's lock, moves that time on by bytes / rate, lets go of the lock
and sleeps until the time it found has come. Nothing is held while sleeping, and the kernel releases
the lock of a process that is killed, so no death can stop the others.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.errors import StorageError, UsageError
from bkctl.pool import signs
from bkctl.shortage import reason_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

BURST_SECONDS = 0.25
_GRANT_SECONDS = 0.1
_MAX_AHEAD_SECONDS = 60.0
_STATE = struct.Struct("<d")
_OPEN_STATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What processes must agree on to share a rate; can be pickled.

    `state` is a file on a local disk that the first of them makes, one for each run.
    """

    bytes_per_second: int
    state: Path

    def __post_init__(self) -> None:
        if self.bytes_per_second <= 0:
            raise UsageError("a rate limit must be at least 1 byte a second; leave it out for none")


class TokenBucket:
    """Grants bytes at a rate; what is not asked for within BURST_SECONDS is lost.

    May be used from several threads. All processes that share it must use the same clock.
    """

    def __init__(
        self,
        limit: RateLimit,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit, self._clock, self._sleep = limit, clock, sleep
        self._grant = max(1, int(limit.bytes_per_second * _GRANT_SECONDS))
        # A file lock does not part the threads of one process.
        self._threads = threading.Lock()
        try:
            self._fd = os.open(limit.state, _OPEN_STATE, 0o600)
        except OSError as e:
            raise self._failure(e) from e

    def take(self, nbytes: int) -> None:
        """Return when `nbytes` may be sent. Raises StorageError if the shared state is gone."""
        while nbytes > 0:
            # In small steps, so that a large request does not make the others wait for all of it.
            step = min(nbytes, self._grant)
            wait = self._reserve(step)
            if wait > 0:
                signs.beat()
                self._sleep(wait)
            nbytes -= step

    def _reserve(self, nbytes: int) -> float:
        with self._threads:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                try:
                    now = self._clock()
                    paid = self._paid(now)
                    due = paid + nbytes / self._limit.bytes_per_second
                    os.pwrite(self._fd, _STATE.pack(due), 0)
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError as e:
                raise self._failure(e) from e
        return due - now

    def _paid(self, now: float) -> float:
        state = os.pread(self._fd, _STATE.size, 0)
        if len(state) < _STATE.size:
            return now
        # A time far ahead is from before a reboot, when the clock began anew.
        paid = float(_STATE.unpack(state)[0])
        return now if paid > now + _MAX_AHEAD_SECONDS else max(paid, now - BURST_SECONDS)

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._limit.state}: the rate limit's state cannot be used ({reason_of(error)}); "
            "check the temporary directory"
        )

    def close(self) -> None:
        """Let go of the state file; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class ThrottledBody:
    """A request's body that an HTTP client reads no faster than a bucket grants."""

    _STEP = 64 << 10

    def __init__(self, data: Buffer, take: Callable[[int], None]) -> None:
        self._data, self._take = memoryview(data), take
        self._at = self._granted = 0

    def __len__(self) -> int:
        return len(self._data)

    def read(self, size: int = -1) -> bytes:
        """Give the next bytes, at most `size` or a small step of them, once they may be sent."""
        size = len(self._data) if size < 0 else min(size, self._STEP)
        end = min(self._at + size, len(self._data))
        if end > self._granted:
            granted = min(max(end, self._at + self._STEP), len(self._data))
            self._take(granted - self._granted)
            self._granted = granted
        piece = bytes(self._data[self._at : end])
        self._at = end
        return piece

    def tell(self) -> int:
        """Tell the position, as clients ask to send a body a second time."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; bytes sent again are paid again."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = self._granted = max(0, min(base + offset, len(self._data)))
        return self._at
