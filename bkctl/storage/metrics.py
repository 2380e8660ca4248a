"""Counts what a storage does: calls, failures, retries, bytes and seconds, by operation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bkctl.errors import StorageError
from bkctl.pool.events import OperationCounts
from bkctl.storage.base import NotFoundError, ObjectInfo, RandomReader, Storage


class Metrics:
    """Counts that several threads add to; a snapshot can be pickled and added elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, OperationCounts] = {}

    def add(self, counts: Iterable[OperationCounts]) -> None:
        """Add counts, such as another process's snapshot."""
        with self._lock:
            for more in counts:
                known = self._counts.get(more.operation, OperationCounts(more.operation))
                self._counts[more.operation] = known.plus(more)

    def snapshot(self) -> tuple[OperationCounts, ...]:
        """Give the counts so far, sorted by operation."""
        with self._lock:
            return tuple(self._counts[operation] for operation in sorted(self._counts))

    def take(self) -> tuple[OperationCounts, ...]:
        """Give the counts so far, and begin at nothing again."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return tuple(counts[operation] for operation in sorted(counts))

    def count_retry(self, operation: str, error: StorageError) -> None:
        """Count one retry; fits RetryStorage's `on_retry`."""
        del error
        self.add([OperationCounts(operation, retries=1)])


class MetricsStorage(Storage):
    """Wraps a storage and counts its calls in `metrics`."""

    def __init__(
        self, inner: Storage, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._metrics, self._clock = inner, metrics, clock

    def __repr__(self) -> str:
        return f"MetricsStorage({self._inner!r})"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    @property
    def discards(self) -> bool:
        """The inner storage's."""
        return self._inner.discards

    @contextmanager
    def counted(self, operation: str, sent: int = 0) -> Iterator[list[int]]:
        """Count the block as one call; lengths put into the list it is given are received bytes."""
        received: list[int] = []
        failures = 0
        begun = self._clock()
        try:
            yield received
        except NotFoundError:
            raise
        except GeneratorExit:
            # A listing whose reader had enough.
            raise
        except BaseException:
            failures, sent = 1, 0
            raise
        finally:
            seconds = self._clock() - begun
            counts = OperationCounts(operation, 1, failures, 0, sent, sum(received), seconds)
            self._metrics.add([counts])

    def stat(self, name: str) -> ObjectInfo | None:
        """See Storage."""
        with self.counted("stat"):
            return self._inner.stat(name)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """See Storage. The seconds are those until the listing's end."""
        with self.counted("list"):
            yield from self._inner.list(prefix, after)

    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """See Storage."""
        with self.counted("list_folders"):
            return self._inner.list_folders(prefix)

    def read(self, name: str, limit: int | None = None) -> bytes:
        """See Storage."""
        with self.counted("read") as received:
            data = self._inner.read(name, limit)
            received.append(len(data))
        return data

    def open(self, name: str) -> RandomReader:
        """See Storage."""
        with self.counted("open"):
            return _MetricsReader(self, self._inner.open(name))

    def write(self, name: str, data: bytes) -> None:
        """See Storage."""
        with self.counted("write", len(data)):
            self._inner.write(name, data)

    def create(self, name: str, data: bytes) -> None:
        """See Storage."""
        with self.counted("create", len(data)):
            self._inner.create(name, data)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """See Storage."""
        with self.counted("exchange", len(new or b"")):
            self._inner.exchange(name, old, new)

    def save_file(self, name: str, path: Path) -> None:
        """See Storage."""
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # the inner storage knows what to say about it
        with self.counted("save_file", size):
            self._inner.save_file(name, path)

    def staging_dir(self, backup_name: str) -> Path | None:
        """See Storage; not counted, as nothing is sent."""
        return self._inner.staging_dir(backup_name)

    def discard_staging(self, backup_name: str) -> None:
        """See Storage."""
        with self.counted("discard_staging"):
            self._inner.discard_staging(backup_name)

    def delete(self, name: str) -> None:
        """See Storage."""
        with self.counted("delete"):
            self._inner.delete(name)

    def close(self) -> None:
        """See Storage."""
        self._inner.close()


class _MetricsReader(RandomReader):
    def __init__(self, storage: MetricsStorage, inner: RandomReader) -> None:
        self._storage, self._inner = storage, inner

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def crc32c(self) -> int | None:
        return self._inner.crc32c

    def read_at(self, offset: int, length: int) -> bytes:
        with self._storage.counted("read_at") as received:
            data = self._inner.read_at(offset, length)
            received.append(len(data))
        return data

    def close(self) -> None:
        self._inner.close()
