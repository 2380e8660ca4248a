"""A run as lines of JSON on stderr: its beginning, each range's end, progress now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from bkctl.archive.report import Report
from bkctl.pool.events import DoneRange, JobRange
from bkctl.ui import log
from bkctl.ui.lines import failure_line
from bkctl.ui.periodic import PeriodicListener


class JsonListener(PeriodicListener):
    """Writes a run's events to the log; `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float], *, says_progress: bool) -> None:
        super().__init__(clock)
        self._says_progress = says_progress

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        super().started(total_ranges, approximate_keys, jobs)
        log.detail("running", f"{total_ranges} ranges", ranges=total_ranges, jobs=jobs)

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        fields: dict[str, object] = {
            **_keys(done.backup_range),
            "worker": worker,
            "kvs": done.kvs,
            "bytes": done.plain_bytes,
            "size": done.size,
        }
        if done.seconds is not None:
            fields["files"] = len(done.files)
            fields["seconds"] = {
                name: round(took, 6) for name, took in asdict(done.seconds).items()
            }
        log.detail("range_done", f"region {done.backup_range.region.id} done", **fields)
        super().range_done(worker, done)

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        """See Listener."""
        log.detail(
            "range_failed",
            failure_line(backup_range, kind, message),
            "warning",
            **_keys(backup_range),
            worker=worker,
            kind=kind,
            reason=message,
        )
        super().range_failed(worker, backup_range, kind, message)

    def tell(self, *, finished: bool = False) -> None:
        """See PeriodicListener."""
        tally = self.tally
        if not self._says_progress:
            return
        left = tally.seconds_left
        log.detail(
            "progress",
            tally.in_words(finished=finished),
            ranges_total=tally.total,
            ranges_done=tally.done,
            ranges_failed=tally.failed,
            kvs=tally.kvs,
            bytes=tally.plain_bytes,
            seconds=round(tally.elapsed, 3),
            seconds_left=None if left is None else round(left, 3),
        )


def log_report(report: Report) -> None:
    """Write a run's outcome to the log: what it skipped, and whether it is published."""
    for skip in report.skipped:
        message = f"region {skip.region_id} skipped: {skip.reason}"
        log.detail("range_skipped", message, region_id=skip.region_id, reason=skip.reason)
    fields = {
        "name": report.name,
        "status": report.status,
        "mode": report.mode,
        "start_ts": report.start_ts,
        "end_ts": report.end_ts,
        "ranges": asdict(report.ranges),
        "files": report.files,
        "kvs": report.total_kvs,
        "bytes": report.total_bytes,
        "size": report.size,
        "crc64xor": f"{report.crc64xor:016x}",
        "seconds": report.seconds,
        "storage": report.storage,
    }
    if report.status == "ok":
        log.detail("published", f"{report.name}: published", **fields)
    else:
        message = f"{report.name}: {report.status}, nothing is published"
        log.detail("not_published", message, "error", **fields)


def _keys(backup_range: JobRange) -> dict[str, object]:
    return {
        "region_id": backup_range.region.id,
        "start_key": backup_range.raw_start_key.hex().upper(),
        "end_key": backup_range.raw_end_key.hex().upper(),
    }
