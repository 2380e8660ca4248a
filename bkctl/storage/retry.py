"""A storage that tries again: the one retry policy of all storages behind a network.

What may pass (TransientError) is tried again after growing, randomly shortened pauses until a
deadline; everything else is final at once. A call that gets further each time, such as the upload
of a large file, may take as long as it needs: the deadline counts time without progress.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bkctl.errors import StorageError
from bkctl.pool import signs
from bkctl.storage.base import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
    ObjectInfo,
    RandomReader,
    Storage,
    TransientError,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on, in seconds.

    `deadline` is for one call, without progress; `start_deadline` takes its place until the storage
    has answered once, as a wrong URL should not take minutes to be told. Pauses start at
    `first_delay`, double up to `max_delay`, and are shortened at random by up to a half.
    """

    deadline: float = 300.0
    start_deadline: float = 30.0
    first_delay: float = 0.5
    max_delay: float = 16.0

    def delay(self, failures: int, chance: float) -> float:
        """The pause after that many failures in a row (from 1); `chance` lies in [0, 1)."""
        # The exponent's bound keeps the power a number of sane size.
        full = min(self.max_delay, self.first_delay * 2.0 ** min(failures - 1, 32))
        return full * (1 - chance / 2)


def _ignore(operation: str, error: StorageError) -> None:
    del operation, error


class RetryStorage(Storage):
    """Wraps a storage; each call is repeated as the policy says.

    `on_retry` is told the operation and the error before each further try. A call that gives up
    raises a StorageError that adds to the last error how often and how long it was tried.
    """

    def __init__(
        self,
        inner: Storage,
        policy: RetryPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        on_retry: Callable[[str, StorageError], None] = _ignore,
    ) -> None:
        self._inner = inner
        self.policy = policy or RetryPolicy()
        self.clock, self.sleep, self.chance, self.on_retry = clock, sleep, chance, on_retry
        self.has_answered = False

    def __repr__(self) -> str:
        return f"RetryStorage({self._inner!r})"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    @property
    def discards(self) -> bool:
        """The inner storage's."""
        return self._inner.discards

    def call(self, operation: str, attempt: Callable[[], T]) -> T:
        """Make one call of the inner storage, as often as it takes."""
        tries = _Tries(self, operation)
        while True:
            try:
                with signs.waiting():
                    result = attempt()
            except TransientError as e:
                tries.failed(e)
            except (AlreadyExistsError, ChangedError, NotFoundError):
                self.has_answered = True
                raise
            else:
                self.has_answered = True
                return result

    def stat(self, name: str) -> ObjectInfo | None:
        """See Storage."""
        return self.call("stat", lambda: self._inner.stat(name))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """See Storage. A listing that is cut goes on after the last object given."""
        tries = _Tries(self, "list")
        while True:
            try:
                for info in self._inner.list(prefix, after):
                    yield info
                    after = info.name
                    tries.progressed()
            except TransientError as e:
                tries.failed(e)
            else:
                self.has_answered = True
                return

    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """See Storage."""
        return self.call("list_folders", lambda: self._inner.list_folders(prefix))

    def read(self, name: str, limit: int | None = None) -> bytes:
        """See Storage."""
        return self.call("read", lambda: self._inner.read(name, limit))

    def open(self, name: str) -> RandomReader:
        """See Storage."""
        return _RetryReader(self, self.call("open", lambda: self._inner.open(name)))

    def write(self, name: str, data: bytes) -> None:
        """See Storage."""
        self.call("write", lambda: self._inner.write(name, data))

    def create(self, name: str, data: bytes) -> None:
        """See Storage.

        An object that is found after an attempt of ours failed without a clear answer is taken for
        ours if its content is: callers that contend for a name must write different content.
        """
        is_ambiguous = False

        def attempt() -> None:
            nonlocal is_ambiguous
            try:
                self._inner.create(name, data)
            except AlreadyExistsError:
                if not is_ambiguous or not self._holds(name, data):
                    raise
            except TransientError:
                is_ambiguous = True
                raise

        self.call("create", attempt)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """See Storage.

        What is found after an attempt of ours failed without a clear answer is taken for ours if
        it is what we wanted there.
        """
        is_ambiguous = False

        def attempt() -> None:
            nonlocal is_ambiguous
            try:
                self._inner.exchange(name, old, new)
            except ChangedError:
                if not is_ambiguous or not self._is_made(name, new):
                    raise
            except TransientError:
                is_ambiguous = True
                raise

        self.call("exchange", attempt)

    def _is_made(self, name: str, new: bytes | None) -> bool:
        return self._inner.stat(name) is None if new is None else self._holds(name, new)

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self._inner.read(name, len(data)) == data
        except TransientError:
            raise
        except StorageError:
            # Longer than ours, or already gone.
            return False

    def save_file(self, name: str, path: Path) -> None:
        """See Storage."""
        self.call("save_file", lambda: self._inner.save_file(name, path))

    def staging_dir(self, backup_name: str) -> Path | None:
        """See Storage."""
        return self._inner.staging_dir(backup_name)

    def discard_staging(self, backup_name: str) -> None:
        """See Storage."""
        self.call("discard_staging", lambda: self._inner.discard_staging(backup_name))

    def delete(self, name: str) -> None:
        """See Storage."""
        self.call("delete", lambda: self._inner.delete(name))

    def close(self) -> None:
        """See Storage."""
        self._inner.close()


class _Tries:
    """The tries of one call: pauses between them, gives up at the deadline."""

    def __init__(self, storage: RetryStorage, operation: str) -> None:
        self._storage, self._operation = storage, operation
        self._failures = self._tries = 0
        self._since = self._began = storage.clock()

    def progressed(self) -> None:
        """Start counting anew."""
        self._storage.has_answered = True
        self._failures = 0
        self._since = self._began = self._storage.clock()

    def failed(self, error: TransientError) -> None:
        """Wait before the next try, or raise the error as final."""
        storage, policy = self._storage, self._storage.policy
        now = storage.clock()
        took = now - self._began
        self._tries += 1
        if error.progressed:
            self.progressed()
            took = 0.0
        self._failures += 1
        delay = policy.delay(self._failures, storage.chance())
        deadline = policy.deadline if storage.has_answered else policy.start_deadline
        # The next try is expected to take as long as this one did: it must end in time too.
        if now - self._since + delay + took > deadline:
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            raise StorageError(
                f"{error} (gave up after {tries}, {now - self._since:.0f} s without success)"
            ) from error
        storage.on_retry(self._operation, error)
        with signs.waiting():
            storage.sleep(delay)
        self._began = storage.clock()


class _RetryReader(RandomReader):
    def __init__(self, storage: RetryStorage, inner: RandomReader) -> None:
        self._storage, self._inner = storage, inner

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def crc32c(self) -> int | None:
        return self._inner.crc32c

    def read_at(self, offset: int, length: int) -> bytes:
        return self._storage.call("read_at", lambda: self._inner.read_at(offset, length))

    def close(self) -> None:
        self._inner.close()
