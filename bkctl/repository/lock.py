"""The lock of a repository: one run at a time writes there, and a dead one does not stop the next.

    bkctl.lock    who holds it, with a counter that the holder moves on every 20 seconds

Taking it is a `create`, and everything after that an `exchange` of the content last seen, so of any
number of runs one succeeds. A lock is taken over when its holder is gone for certain (same host, no
such process) or when its counter stood still for two minutes of watching. Clocks of hosts are not
compared for that: times only decide whether watching is worth the wait.

A holder whose heartbeats do not get through may lose the lock. It finds out by `check`, which it
calls before every step that cannot be taken back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from bkctl.archive.names import REPOSITORY_LOCK_NAME
from bkctl.errors import RepositoryLockedError, StorageError
from bkctl.repository.holder import Holder, Life, format_time, parse_holder, this_process
from bkctl.storage.base import AlreadyExistsError, ChangedError, NotFoundError, Storage

_MAX_LOCK_BYTES = 64 << 10
_TRIES = 10


class LockLostError(StorageError):
    """Another run has taken the lock over, as this one's heartbeats did not get through."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, and the clocks that count them.

    A heartbeat every `heartbeat`; a holder is dead after `dead_after` without one, looked for every
    `poll`; letting go of the lock may take `release`, then it is left to be taken over.
    """

    heartbeat: float = 20.0
    dead_after: float = 120.0
    poll: float = 5.0
    release: float = 30.0
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Lockable:
    """What is locked: the lock's name in the storage, and what messages call it."""

    name: str = REPOSITORY_LOCK_NAME
    what: str = "the repository"


def _say_nothing(message: str) -> None:
    del message


@contextmanager
def repository_lock(
    storage: Storage,
    command: str,
    *,
    timing: Timing | None = None,
    notify: Callable[[str], None] = _say_nothing,
    of: Lockable | None = None,
) -> Iterator[RepositoryLock]:
    """Hold the lock within the block, its heart beating in a thread; `command` is for messages.

    A storage that keeps nothing needs none. `notify` is told, in a line, of a wait and of a lock
    taken over. With `of` it is another lock than the repository's. Raises RepositoryLockedError
    where another run holds it.
    """
    lock = RepositoryLock(storage, command, timing or Timing(), notify, of)
    if storage.discards:
        yield lock
        return
    lock.acquire()
    heart = _Heart(lock)
    heart.start()
    try:
        yield lock
    finally:
        heart.stop()


class RepositoryLock:
    """One run's hold on a repository; `renew` and `check` may be called from any thread."""

    def __init__(
        self,
        storage: Storage,
        command: str,
        timing: Timing,
        notify: Callable[[str], None],
        of: Lockable | None = None,
    ) -> None:
        self.timing, self._of = timing, of or Lockable()
        self._storage, self._command, self._notify = storage, command, notify
        self._threads = threading.Lock()
        self._holder = Holder()
        self._content = b""
        self._renewed = 0.0
        self._lost: LockLostError | None = None

    def acquire(self) -> None:
        """Take the lock, over from a dead holder if need be.

        May watch a lock that looks left behind for `dead_after`. Raises RepositoryLockedError.
        """
        self._holder = this_process(self._command, self.timing.wall())
        self._content = self._holder.encode()
        holder = Holder()
        for _ in range(_TRIES):
            self._renewed = self.timing.monotonic()
            with suppress(AlreadyExistsError):
                self._storage.create(self._of.name, self._content)
                return
            seen = self._read()
            if seen is None:
                continue
            holder = parse_holder(seen)
            if not self._is_dead(holder, seen):
                continue
            self._renewed = self.timing.monotonic()
            with suppress(ChangedError):
                self._storage.exchange(self._of.name, seen, self._content)
                self._notify(
                    f"{self._storage.url}: took over the lock of {holder.describe()}, which is dead"
                )
                return
        raise self._locked(holder)

    def _read(self) -> bytes | None:
        try:
            return self._storage.read(self._of.name, _MAX_LOCK_BYTES)
        except NotFoundError:
            return None

    def _is_dead(self, holder: Holder, seen: bytes) -> bool:
        """Whether the holder is dead; False if the lock is gone. Raises if someone is alive."""
        life = holder.life()
        if life is Life.ALIVE:
            raise self._locked(holder)
        if life is Life.GONE:
            return True
        info = self._storage.stat(self._of.name)
        if info is None:
            return False
        # The storage's clock against ours: a difference costs a needless wait, or a later try.
        if abs(self.timing.wall() - info.modified) < self.timing.dead_after:
            raise self._locked(holder)
        return self._stands_still(holder, seen)

    def _stands_still(self, holder: Holder, seen: bytes) -> bool:
        timing = self.timing
        self._notify(
            f"{self._storage.url}: the lock of {holder.describe()} looks left behind; watching it "
            f"for {timing.dead_after:.0f} s before it is taken over"
        )
        until = timing.monotonic() + timing.dead_after
        while timing.monotonic() < until:
            timing.sleep(timing.poll)
            now = self._read()
            if now is None:
                return False
            if now != seen:
                raise self._locked(parse_holder(now))
        return True

    def _locked(self, holder: Holder) -> RepositoryLockedError:
        return RepositoryLockedError(
            f"{self._storage.url}: {self._of.what} is in use by {holder.describe()}; "
            "try again when that run has ended"
        )

    def renew(self) -> None:
        """Give a sign of life. Raises LockLostError, once and for all, if the lock is another's."""
        with self._threads:
            if self._lost is not None:
                raise self._lost
            now = self.timing.monotonic()
            following = replace(
                self._holder,
                heartbeat=self._holder.heartbeat + 1,
                heartbeat_at=format_time(self.timing.wall()),
            )
            try:
                self._exchange(following.encode())
            except LockLostError as e:
                self._lost = e
                raise
            self._holder, self._renewed = following, now

    def check(self) -> None:
        """Make sure that the lock is still ours, and will be for a while; errors as for `renew`.

        To be called right before what cannot be taken back.
        """
        if self._storage.discards:
            return
        if self.timing.monotonic() - self._renewed >= self.timing.heartbeat:
            self.renew()
            return
        # Services allow few changes of one object a second, and reads without end.
        with self._threads:
            seen = self._read()
            if self._lost is None and not self._is_ours(seen):
                self._lost = self._lock_lost(seen)
            if self._lost is not None:
                raise self._lost

    def release(self) -> None:
        """Let go of the lock; if it is not ours, nothing happens. Raises StorageError."""
        with self._threads, suppress(LockLostError):
            if self._lost is None:
                self._exchange(None)

    def _exchange(self, new: bytes | None) -> None:
        try:
            self._storage.exchange(self._of.name, self._content, new)
        except ChangedError:
            # Perhaps by ourselves, in a call that failed without an answer.
            seen = self._read()
            if seen is None or not self._is_ours(seen):
                raise self._lock_lost(seen) from None
            try:
                self._storage.exchange(self._of.name, seen, new)
            except ChangedError:
                raise self._lock_lost(self._read()) from None
        self._content = new or b""

    def _is_ours(self, seen: bytes | None) -> bool:
        return seen is not None and parse_holder(seen).token == self._holder.token

    def _lock_lost(self, seen: bytes | None) -> LockLostError:
        what = "is gone" if seen is None else f"was taken over by {parse_holder(seen).describe()}"
        return LockLostError(
            f"{self._storage.url}: this run's lock {what}; nothing more is changed there, "
            "run the command again"
        )


class _Heart(threading.Thread):
    """Renews a lock until it is stopped, then lets go of it.

    A thread of its own, as the storage may take its time and neither work nor end may wait for it.
    """

    def __init__(self, lock: RepositoryLock) -> None:
        super().__init__(name="repository-lock", daemon=True)
        self._lock = lock
        self._stopped = threading.Event()

    def run(self) -> None:
        """See Thread."""
        while not self._stopped.wait(self._lock.timing.heartbeat):
            # What fails now may succeed the next time; `check` has the last word.
            with suppress(StorageError):
                self._lock.renew()
        with suppress(StorageError):
            self._lock.release()

    def stop(self) -> None:
        """Let go of the lock, or of the attempt after `release` seconds."""
        self._stopped.set()
        self.join(self._lock.timing.release)
