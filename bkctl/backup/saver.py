"""Saves finished files beside the scan: completing, syncing and sending go on in other threads.

Storage latency does not stop a scan until `MAX_IN_FLIGHT` files wait; then `save` blocks until one
is through, so that neither memory nor the staging directory fills up.

Files may have to be encrypted while they wait, though they are not to be where they are stored:
those of a store that is encrypted at rest. Such a file is decrypted in memory when its turn comes.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.meta import BackupFile
from bkctl.pool import signs
from bkctl.pool.threads import Threads
from bkctl.sst.writer import FinishedSst, SstWriter
from bkctl.storage.base import Storage
from bkctl.storage.limit import TokenBucket

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

THREADS = 2
MAX_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Saved:
    """Files that are stored, and the seconds that completing and storing them took in all."""

    files: tuple[BackupFile, ...]
    seconds: float


PendingFile = Future[Saved]
PendingRange = Future[Saved]


class Saver:
    """Hands finished files to a storage, under `folder`."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        bucket: TokenBucket | None = None,
        seal: Cipher | None = None,
    ) -> None:
        """`bucket` limits the rate of files whose saving is a move: they pay as they are made.

        With a `seal`, files come encrypted with it, and are saved plain.
        """
        self._storage, self._seal = storage, seal
        self._folder = folder
        self._bucket = bucket
        self._threads = Threads(THREADS, thread_name_prefix="saver")
        self._in_flight = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    @property
    def grown(self) -> Callable[[int], None] | None:
        """What makers of files tell of the bytes they write."""
        return None if self._bucket is None else self._bucket.take

    def save(self, sst: SstWriter, describe: Callable[[FinishedSst], BackupFile]) -> PendingFile:
        """Complete and save a file, which is the saver's from here on.

        The result raises StorageError where that failed; the local file is gone either way.
        """
        while not self._in_flight.acquire(timeout=signs.BEAT_SECONDS):
            signs.beat()
        pending = self._threads.submit(self._save, sst, describe)
        pending.add_done_callback(lambda _: self._in_flight.release())
        return pending

    def _save(self, sst: SstWriter, describe: Callable[[FinishedSst], BackupFile]) -> Saved:
        begun = time.monotonic()
        try:
            # A storage that keeps the file syncs it; one that sends it away needs no such wait.
            finished = sst.finish(sync=False)
            file = describe(finished)
            if self._seal is not None and not self._storage.discards:
                file = self._save_unsealed(file, finished, self._seal)
            else:
                self._storage.save_file(f"{self._folder}/{file.name}", finished.path)
        except BaseException:
            sst.abandon()
            raise
        return Saved((file,), time.monotonic() - begun)

    def _save_unsealed(self, file: BackupFile, sealed: FinishedSst, seal: Cipher) -> BackupFile:
        """Save what a file holds that is encrypted with `seal`; describe that."""
        from bkctl.backup.unsealed import Unsealed

        with Unsealed(sealed, seal) as plain:
            self._storage.save_file(f"{self._folder}/{file.name}", plain.path)
            sealed.path.unlink()
            return dataclasses.replace(file, sha256=plain.sha256, cipher_iv=b"")

    def finish_range(
        self, files: list[PendingFile], record: Callable[[tuple[BackupFile, ...]], None]
    ) -> PendingRange:
        """Wait for a range's files beside the scan, then let `record` write them down."""
        # Files are taken from the queue in order, so this one never waits for one behind it.
        return self._threads.submit(self._finish_range, files, record)

    @staticmethod
    def _finish_range(
        files: list[PendingFile], record: Callable[[tuple[BackupFile, ...]], None]
    ) -> Saved:
        each = [file.result() for file in files]
        begun = time.monotonic()
        saved = tuple(file for one in each for file in one.files)
        record(saved)
        seconds = sum(one.seconds for one in each) + time.monotonic() - begun
        return Saved(saved, seconds)

    def close(self) -> None:
        """Wait for what is under way and end the threads."""
        with signs.waiting():
            self._threads.shutdown(wait=True, cancel_futures=True)
        if self._bucket is not None:
            self._bucket.close()
