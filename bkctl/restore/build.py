"""The processes of one restore: some look through the files, and one makes the store of them.

RocksDB is in that one only, and gets no file that was not looked through before: whatever the
files hold, what ends is a helper, and an error names the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.errors import CorruptionError, WorkerDiedError
from bkctl.pool import processes
from bkctl.pool.pool import Emitted, JobLost, WorkerPool
from bkctl.restore.check import PRELOAD, Checked, CheckFile, run_check
from bkctl.restore.files import ReadyFile
from bkctl.sst.soundness import check_sound
from bkctl.sst.source import FileReader
from bkctl.store.builder import NamedFile, StoreBuilder
from bkctl.verify.file import Finding

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_FILES_AT_ONCE = 512
_POLL_SECONDS = 0.5


class Workshop:
    """A context manager; with `jobs` of 0, files are taken in without being looked through."""

    def __init__(self, jobs: int) -> None:
        """Start the processes now, while they can be forked: before there are threads."""
        self._checks = WorkerPool(run_check, preload=PRELOAD)
        self._builder = StoreBuilder()
        self._looks = jobs > 0
        count = min(jobs, os.cpu_count() or 1)
        if processes.can_fork():
            self._checks.warm_up(count)
        else:
            self._checks.adjust_with(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._checks.terminate()
        self._builder.__exit__(kind, error, traceback)

    def look_through(
        self, fetched: Iterable[ReadyFile], told: Callable[[ReadyFile], None]
    ) -> list[ReadyFile]:
        """Take all files, as they come, and give them in that order; unsound ones have findings.

        `told` is called for each that is done. Raises WorkerDiedError where one cannot be looked
        through.
        """
        ready: list[ReadyFile] = []
        for file in fetched:
            ready.append(file)
            if self._looks and file.path is not None:
                name = file.planned.shown_name
                self._checks.submit(CheckFile(len(ready) - 1, name, file.path))
                self._take(ready, told, 0)
            else:
                told(file)
        while self._checks.busy:
            self._take(ready, told, _POLL_SECONDS)
        return ready

    def _take(
        self, ready: list[ReadyFile], told: Callable[[ReadyFile], None], timeout: float
    ) -> None:
        for event in self._checks.wait(timeout):
            job: CheckFile = event.job
            if isinstance(event, JobLost):
                raise WorkerDiedError(f"{job.shown_name}: looking through it {event.reason}")
            if isinstance(event, Emitted):
                checked: Checked = event.event
                if checked.error:
                    raise WorkerDiedError(f"{job.shown_name}: {checked.error}")
                if checked.what:
                    finding = Finding(job.shown_name, None, checked.what)
                    ready[job.number] = replace(ready[job.number], path=None, finding=finding)
                told(ready[job.number])

    def build(self, ready: Sequence[ReadyFile], db_dir: Path) -> tuple[Finding, ...]:
        """Make the store of the files, oldest backup first; what RocksDB finds wrong.

        Raises StorageError where there is no room for it, WorkerDiedError.
        """
        families = sorted({file.planned.family for file in ready})
        try:
            self._builder.make(db_dir, families)
            for family, files in _batches(ready):
                for first in range(0, len(files), _FILES_AT_ONCE):
                    refused = self._builder.ingest(family, files[first : first + _FILES_AT_ONCE])
                    if refused is not None:
                        return (Finding(refused.shown_name, None, refused.what),)
            self._builder.finish()
        except CorruptionError as e:
            name, _, what = str(e).partition(": ")
            return tuple(_unsound(ready)) or (Finding(name, None, what),)
        return ()


def _unsound(ready: Sequence[ReadyFile]) -> Iterator[Finding]:
    """Which files RocksDB should not have been given, where they were not looked through."""
    for file in ready:
        if file.path is None or not file.path.exists():
            continue
        name = file.planned.shown_name
        try:
            with FileReader(file.path) as reader:
                check_sound(reader, name)
        except CorruptionError as e:
            yield Finding(name, None, str(e).removeprefix(f"{name}: "))


def _batches(ready: Sequence[ReadyFile]) -> Iterator[tuple[str, list[NamedFile]]]:
    """The files of each backup's families; they come ordered by both."""

    def place(file: ReadyFile) -> tuple[str, str]:
        return file.planned.shown_name.split("/", 1)[0], file.planned.family

    for (_, family), files in groupby(ready, place):
        yield (
            family,
            [NamedFile(file.planned.shown_name, file.path) for file in files if file.path],
        )
