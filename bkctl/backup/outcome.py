"""What came of a backup: its report, and the description that publishes it."""

from __future__ import annotations

import dataclasses
import functools
import time
from operator import xor

from bkctl import __version__
from bkctl.archive.meta import BackupMeta, RawRange
from bkctl.archive.names import default_backup_name
from bkctl.archive.report import KeyRange, RangeCounts, RangeError, Report
from bkctl.backup.cover import errors_of
from bkctl.backup.job import Job, ReadPlan
from bkctl.backup.parts import span_of, whole_of
from bkctl.backup.request import BackupRequest
from bkctl.backup.run import RunResult
from bkctl.errors import BkctlError, CancelledError
from bkctl.regions.plan import to_raw_key


def make_report(job: Job, read: ReadPlan, result: RunResult, resumed: int) -> Report:
    """Sum a run up; `resumed` ranges were finished by runs before.

    Ranges count as the plan has them, though they may have been done in parts.
    """
    request, plan = job.request, read.plan
    failed_in = [whole_of(span_of(f.backup_range), plan.ranges) for f in result.failures]
    failed = len({span_of(whole) for whole in failed_in if whole is not None})
    report = Report(
        name=job.name,
        status=status_of(result),
        mode="raw" if request.is_raw else "txn",
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        store_id=job.store_id,
        cluster_id=job.stores.ident.cluster_id,
        ranges=RangeCounts(len(plan.ranges), result.done, failed, len(plan.skipped)),
        storage=str(request.storage),
        codec=request.compression.codec,
        started_at=job.begun,
        resumed=resumed,
        base=job.base.name,
        note=job.base.note,
        covered=read.cover.covered,
        uncovered=read.cover.uncovered,
        replicas=read.replicas,
        notes=read.notes,
        minority=read.minority,
        skipped=plan.skipped,
        gaps=tuple(
            KeyRange(
                to_raw_key(gap.start_key, request.has_plain_keys),
                to_raw_key(gap.end_key, request.has_plain_keys),
            )
            for gap in plan.gaps
        ),
    )
    return with_figures(report, result)


def refusal_report(job: Job, read: ReadPlan) -> Report:
    """The report of a run that was not begun, as it would not cover what it is asked for."""
    report = make_report(job, read, RunResult(failures=list(read.refused)), 0)
    errors = (*errors_of(read.cover.uncovered), *report.errors)
    return dataclasses.replace(report, status="failed", errors=errors)


def status_of(result: RunResult) -> str:
    """A report's status after a run."""
    if result.cancelled:
        return "cancelled"
    if result.failures:
        return "partial" if result.done else "failed"
    return "ok"


def with_figures(report: Report, result: RunResult) -> Report:
    """The report with what a run adds up to: files, errors, locks, the time until now."""
    return dataclasses.replace(
        report,
        files=len(result.files),
        total_kvs=sum(file.total_kvs for file in result.files),
        total_bytes=sum(file.total_bytes for file in result.files),
        crc64xor=functools.reduce(xor, (file.crc64xor for file in result.files), 0),
        size=sum(file.size for file in result.files),
        seconds=round(time.time() - report.started_at, 3),
        errors=tuple(
            RangeError(
                failure.backup_range.region.id,
                failure.backup_range.raw_start_key,
                failure.backup_range.raw_end_key,
                failure.kind,
                failure.message,
            )
            for failure in result.failures
        ),
        decided_locks=tuple(result.decided_locks),
    )


def failed_report(request: BackupRequest, error: BkctlError, begun: float) -> Report:
    """The report of a run that ended before it had any: nothing is done, this is why."""
    return Report(
        name=request.name or default_backup_name(request.end_ts, request.kind),
        status="cancelled" if isinstance(error, CancelledError) else "failed",
        mode="raw" if request.is_raw else "txn",
        start_ts=request.start_ts,
        end_ts=request.end_ts,
        store_id=request.store_id or 0,
        seconds=round(time.time() - begun, 3),
        errors=(RangeError(0, request.start_key, request.end_key, error.kind, str(error)),),
        storage=str(request.storage),
        codec=request.compression.codec,
        started_at=begun,
    )


def make_meta(job: Job, result: RunResult) -> BackupMeta:
    """The backupmeta of a run whose ranges are all done."""
    request, ident = job.request, job.stores.ident
    raw_ranges = (
        (RawRange(request.start_key, request.end_key, request.family),) if request.is_raw else ()
    )
    return BackupMeta(
        cluster_id=ident.cluster_id,
        cluster_version="",
        files=tuple(result.files),
        start_version=request.start_ts,
        end_version=request.end_ts,
        is_raw_kv=request.is_raw,
        raw_ranges=raw_ranges,
        api_version=ident.api_version,
        backup_size=sum(file.size for file in result.files),
        br_version=f"bkctl {__version__}",
    )
