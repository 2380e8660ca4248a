"""Merges a chain into one full backup as of its end, from the backups alone.

1. read     the chain, its descriptions, the ranges to make of its files
2. claim    the new backup's name, or take an unfinished merge up again
3. merge    portion by portion in worker processes, each out of a temporary store of its files
4. publish  as any backup, backupmeta last
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl import __version__
from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FinishedRange, remove_checkpoints
from bkctl.archive.coverage import CoveredKeys, UncoveredKeys
from bkctl.archive.meta import BackupMeta
from bkctl.archive.names import check_backup_name, default_backup_name
from bkctl.archive.report import RangeCounts, Report
from bkctl.backup.outcome import status_of, with_figures
from bkctl.backup.parts import finished_span, left_of
from bkctl.backup.resume import (
    check_same_settings,
    cipher_settings,
    claim_info,
    keep_finished,
)
from bkctl.backup.run import BackupRun, RunResult
from bkctl.backup.task import DEFAULT_SST_MAX_SIZE, View
from bkctl.errors import StorageError, UsageError
from bkctl.files.trees import remove_folder
from bkctl.folders import PrivateFolder, refuse_work_dir_in
from bkctl.merge.chain import MergeChain, read_chain
from bkctl.merge.plan import PORTION_RANGES, Portions, portion_size
from bkctl.merge.worker import MergeTask
from bkctl.merge.workers import merge_workers
from bkctl.pool.events import Listener
from bkctl.pool.pool import WorkerPool
from bkctl.repository.holder import Life, parse_holder
from bkctl.repository.lock import repository_lock
from bkctl.sst.writer import Compression
from bkctl.storage.base import Storage
from bkctl.storage.limit import RateLimit
from bkctl.storage.url import StorageSpec, open_storage

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

_FOLDER = "bkctl-merge-"


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What to merge: the chain that ends with the backup `chain`, by default with the newest.

    `name` None names the merged backup after its end timestamp. `rate_limit` is in bytes a second
    over all workers, for what goes to the storage. `cipher` decrypts the chain and encrypts the
    merged backup. `allow_gaps` merges what the chain is whole for, though it has more.
    """

    storage: StorageSpec
    chain: str | None = None
    name: str | None = None
    compression: Compression = dataclasses.field(default_factory=Compression)
    sst_max_size: int = DEFAULT_SST_MAX_SIZE
    jobs: int = 1
    resume: bool = False
    rate_limit: int | None = None
    work_dir: Path | None = None
    cipher: Cipher | None = None
    allow_gaps: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            check_backup_name(self.name)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """How a merge went; `report` is None where none was begun: nothing to do, or damage found."""

    chain: MergeChain
    name: str
    report: Report | None


def plan_merge(request: MergeRequest) -> MergeResult:
    """Find out what a merge would do, without reading a data file; errors as for `merge`."""
    with open_storage(request.storage) as storage:
        chain = read_chain(storage, request.chain, request.cipher, allow_gaps=request.allow_gaps)
        return MergeResult(chain, _name(request, chain), None)


def merge(
    request: MergeRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    pool: WorkerPool | None = None,
) -> MergeResult:
    """Merge the chain with the workers of `pool`, and publish the result if every range succeeded.

    Holds the repository's lock meanwhile. A chain of one backup is not merged, nor one whose
    descriptions are damaged. Otherwise the report tells the outcome, as for `take_backup`: damage
    of a file is an error of its ranges. Raises UsageError before anything is started,
    RepositoryLockedError where another run is writing, StorageError where the repository fails.
    `notify` is told what concerns the lock.
    """
    if pool is None:
        with merge_workers(request.jobs) as own_pool:
            return merge(request, listener, is_cancelled, notify, own_pool)
    begun = time.time()
    if request.cipher is not None:
        refuse_work_dir_in(request.storage.path, request.work_dir)
    with (
        open_storage(request.storage) as storage,
        repository_lock(storage, "merge", notify=notify) as lock,
    ):
        chain = read_chain(storage, request.chain, request.cipher, allow_gaps=request.allow_gaps)
        name = _name(request, chain)
        if chain.findings or len(chain.backups) == 1:
            return MergeResult(chain, name, None)
        backup_dir = BackupDir(storage, name)
        finished = _begin(request, storage, backup_dir, chain)
        with _folders(request, storage, name) as (staging, stores):
            task = _task(request, chain, name, staging, stores)
            result = _run(request, task, chain, finished, pool, listener, is_cancelled)
        report = _report(request, name, chain, result, finished, begun)
        if report.status == "ok":
            report = backup_dir.publish(_meta(chain, result), report, lock.check)
            with contextlib.suppress(StorageError):  # the backup counts already
                remove_checkpoints(storage, name)
        else:
            backup_dir.write_report(report)
        return MergeResult(chain, name, report)


def _name(request: MergeRequest, chain: MergeChain) -> str:
    return request.name or default_backup_name(chain.last.facts.end_ts or 0, "full")


def _begin(
    request: MergeRequest, storage: Storage, backup_dir: BackupDir, chain: MergeChain
) -> list[FinishedRange]:
    """Claim the name, or take up what a merge left unfinished; the ranges that are finished."""
    settings = _settings(request, chain)
    if not request.resume and not _is_abandoned(backup_dir, settings):
        backup_dir.claim(claim_info("merge", settings))
        return []
    check_same_settings(backup_dir, settings)
    return keep_finished(storage, backup_dir, chain.ranges, is_raw=False)


def _is_abandoned(backup_dir: BackupDir, settings: dict[str, object]) -> bool:
    """Whether a run of this machine left this very merge unfinished and is surely dead."""
    claim = backup_dir.read_claim()
    if claim is None or parse_holder(claim).life() is not Life.GONE:
        return False
    with contextlib.suppress(UsageError):
        check_same_settings(backup_dir, settings)
        return True
    return False


def _settings(request: MergeRequest, chain: MergeChain) -> dict[str, object]:
    """What the merged backup is; a resumed run must have it in common with the one that began."""
    facts = chain.last.facts
    settings: dict[str, object] = {
        "cluster_id": facts.cluster_id or 0,
        "store_id": facts.store_id or 0,
        "start_ts": 0,
        "end_ts": facts.end_ts or 0,
        "mode": "txn",
        "cf": "",
        "compression": request.compression.codec,
        "compression_level": request.compression.level,
        "sst_max_size": request.sst_max_size,
        "merged_from": list(chain.names),
        **cipher_settings(request.cipher),
    }
    if facts.window is not None:
        settings["start_key"] = facts.window.start_key.hex().upper()
        settings["end_key"] = facts.window.end_key.hex().upper()
    return settings


@contextlib.contextmanager
def _folders(request: MergeRequest, storage: Storage, name: str) -> Iterator[tuple[Path, Path]]:
    """Where files are made, and where temporary stores are: beside the chain, if it is local.

    There its files can be linked. But what was encrypted is plain in a temporary store, which is
    kept away from the repository then. A folder elsewhere that a killed run left is removed first.
    """
    staging = storage.staging_dir(name)
    if staging is not None and request.work_dir is None and request.cipher is None:
        try:
            yield staging, staging
        finally:
            remove_folder(staging)
        return
    with PrivateFolder(_FOLDER, request.work_dir) as folder:
        try:
            yield staging or folder, folder
        finally:
            if staging is not None:
                remove_folder(staging)


def _task(
    request: MergeRequest, chain: MergeChain, name: str, staging: Path, stores: Path
) -> MergeTask:
    storage = request.storage
    if request.rate_limit is not None:
        limit = RateLimit(request.rate_limit, stores / "rate-limit")
        storage = dataclasses.replace(storage, rate_limit=limit)
    facts = chain.last.facts
    return MergeTask(
        views=(View(stores, stores, facts.store_id or 0, stores),),
        start_ts=0,
        end_ts=facts.end_ts or 0,
        is_raw=False,
        family="default",
        compression=request.compression,
        sst_max_size=request.sst_max_size,
        storage=storage,
        name=name,
        staging=staging,
        cipher=request.cipher,
        local_root=Path(storage.path) if storage.scheme == "local" else None,
    )


def _run(
    request: MergeRequest,
    task: MergeTask,
    chain: MergeChain,
    finished: list[FinishedRange],
    pool: WorkerPool,
    listener: Listener,
    is_cancelled: Callable[[], bool],
) -> RunResult:
    """Merge what is not finished yet; the result tells of what was, too."""
    spans = [finished_span(record, is_raw=False) for record in finished]
    left = list(left_of(chain.ranges, spans))
    total = len(left)
    jobs = max(1, min(request.jobs, total))
    portions = Portions(left, portion_size(chain.size, jobs))
    pool.adjust_with(jobs)
    listener.started(total, None, jobs)
    try:
        run = BackupRun(
            pool, task, portions, listener, batch_size=PORTION_RANGES, is_cancelled=is_cancelled
        )
        result = run.run()
    finally:
        listener.finished()
    for done in finished:
        result.done += 1
        result.files += done.files
    return result


def _report(
    request: MergeRequest,
    name: str,
    chain: MergeChain,
    result: RunResult,
    finished: list[FinishedRange],
    begun: float,
) -> Report:
    facts = chain.last.facts
    report = Report(
        name=name,
        status=status_of(result),
        mode="txn",
        start_ts=0,
        end_ts=facts.end_ts or 0,
        store_id=facts.store_id or 0,
        cluster_id=facts.cluster_id or 0,
        ranges=RangeCounts(
            len(chain.ranges), result.done, len(result.failures), len(chain.skipped)
        ),
        skipped=chain.skipped,
        gaps=chain.gaps,
        storage=str(request.storage),
        started_at=begun,
        codec=request.compression.codec,
        resumed=len(finished),
        merged_from=chain.names,
        covered=tuple(CoveredKeys(keys, 0) for keys in chain.whole.ranges),
        uncovered=tuple(
            UncoveredKeys(keys, 0, "the chain did not cover them")
            for keys in (chain.window - chain.whole).ranges
        ),
        notes=chain.holes,
    )
    return with_figures(report, result)


def _meta(chain: MergeChain, result: RunResult) -> BackupMeta:
    facts = chain.last.facts
    return BackupMeta(
        cluster_id=facts.cluster_id or 0,
        cluster_version="",
        files=tuple(result.files),
        start_version=0,
        end_version=facts.end_ts or 0,
        api_version=chain.api_version,
        backup_size=sum(file.size for file in result.files),
        br_version=f"bkctl {__version__}",
    )
