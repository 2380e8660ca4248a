"""A worker process's side of a merge: a temporary store for each portion, backed up as any other.

1. fetch    the portion's files, verified, linked where they are local
2. layer    one store of them, each backup of the chain over the one before
3. back up  the portion's ranges, as of the chain's end
4. remove   the store
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from bkctl.backup.task import BackupTask, RangeFailed, RangeJob
from bkctl.backup.worker import Emit, close_opened, run_job
from bkctl.errors import BkctlError, CancelledError, CorruptionError
from bkctl.files.trees import remove_folder
from bkctl.folders import making_files
from bkctl.merge.plan import LayeredFile, MergeRange
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import MAX_TS
from bkctl.pool import signs
from bkctl.restore.files import FileFetcher, ReadyFile
from bkctl.shortage import what_failed
from bkctl.sst.soundness import check_ends
from bkctl.sst.source import FileReader
from bkctl.storage.url import OpenedStorage
from bkctl.store.database import Database
from bkctl.store.layers import LayeredStore, LayerFile, build_layers

_SHOWN_FILES = 2
FETCHES = 4
"""Files that a worker fetches at a time."""


@dataclass(frozen=True, slots=True)
class MergeTask(BackupTask):
    """A merge's settings; the only view's folder is where temporary stores are made, `layered`
    the one at hand.

    `local_root` is the storage's directory, if it is one.
    """

    local_root: Path | None = None
    layered: LayeredStore | None = None

    def note_at_hand(self, view: int) -> None:
        """See BackupTask; that of a portion is said where its store is made."""

    def open_view(self, view: int) -> Database:
        """See BackupTask."""
        if self.layered is None:
            raise ValueError("a merge has no store but that of a portion")
        return self.layered.open()


_source = OpenedStorage()


def run_portion(job: RangeJob, emit: Emit, cancelled: Callable[[], bool]) -> None:
    """Merge the ranges of one portion; each ends in one RangeDone or RangeFailed.

    A file that is damaged fails all of them, each with the file's name.
    """
    task = job.task
    assert isinstance(task, MergeTask)
    with ExitStack() as stack:
        try:
            layered = stack.enter_context(_portion_store(task, _files_of(job), cancelled))
        except CancelledError:
            return
        except BkctlError as e:
            _fail(job, emit, e.kind, str(e))
            return
        except (OSError, MemoryError) as e:
            _fail(job, emit, "other", what_failed(e))
            return
        run_job(RangeJob(replace(task, layered=layered), job.ranges), emit, cancelled)


def _fail(job: RangeJob, emit: Emit, kind: str, message: str) -> None:
    for number, _ in job.ranges:
        emit(RangeFailed(number, kind, message))


def _files_of(job: RangeJob) -> list[LayeredFile]:
    """The files of all ranges, each once, by backup."""
    files: dict[int, LayeredFile] = {}
    for _, merge_range in job.ranges:
        assert isinstance(merge_range, MergeRange)
        files |= {file.planned.number: file for file in merge_range.files}
    return [files[number] for number in sorted(files)]


@contextmanager
def _portion_store(
    task: MergeTask, files: list[LayeredFile], cancelled: Callable[[], bool]
) -> Iterator[LayeredStore]:
    """Make the store of these files; it is gone at the end of the block."""
    stores = task.views[0].db_dir
    with making_files(stores):
        folder = Path(tempfile.mkdtemp(prefix="portion-", dir=stores))
    try:
        ready = _fetch(task, files, folder, cancelled)
        layers = [
            [_layer_file(file, path) for file, path in layer if path is not None]
            for _, layer in groupby(
                zip(files, ready, strict=True), key=lambda entry: entry[0].layer
            )
        ]
        signs.note(_names_of(files))
        yield build_layers(folder / "db", layers)
    finally:
        # Nothing of it may be open when it goes, nor stay open without it.
        close_opened()
        remove_folder(folder)


def _fetch(
    task: MergeTask, files: list[LayeredFile], folder: Path, cancelled: Callable[[], bool]
) -> list[Path | None]:
    """Where each file is; None for one that holds nothing of what is wanted."""
    staging = folder / "files"
    staging.mkdir()
    fetcher = FileFetcher(
        _source.get(task.storage), task.local_root, staging, verify=True, cipher=task.cipher
    )
    paths: list[Path | None] = []
    damaged: list[ReadyFile] = []
    for ready in fetcher.fetch_all([file.planned for file in files], FETCHES):
        if cancelled():
            raise CancelledError(0)
        paths.append(ready.path)
        if ready.finding is not None:
            damaged.append(ready)
    if damaged:
        raise CorruptionError("; ".join(str(ready.finding) for ready in damaged))
    for file, path in zip(files, paths, strict=True):
        if path is None:
            continue
        # RocksDB trusts in what it reads of a file to take it in.
        with FileReader(path) as reader:
            check_ends(reader, file.planned.shown_name)
    return paths


def _names_of(files: list[LayeredFile]) -> str:
    """The files of a portion, for a message: the first ones."""
    names = ", ".join(file.planned.shown_name for file in files[:_SHOWN_FILES])
    more = len(files) - _SHOWN_FILES
    return f"{names} and {more} more" if more > 0 else names


def _layer_file(file: LayeredFile, path: Path) -> LayerFile:
    planned = file.planned
    bounds = EntryBounds(planned.keys.start_key, planned.keys.end_key, 0, MAX_TS, False)
    return LayerFile(planned.shown_name, path, planned.family, bounds.lower(), bounds.upper())
