"""Who is told how a run ended: the metrics file and the hooks, whatever the end was.

They are told of every end that comes after the options were read: done, failed ranges, an input
that cannot be read, a repository that is locked, a signal, even a fault of the program.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.commands.endings import exit_code_of
from bkctl.errors import BkctlError, CancelledError
from bkctl.shortage import reason_of
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report
    from bkctl.pool.events import Listener
    from bkctl.ui.metrics import RunMetrics

FailedReport = Callable[[BkctlError], "Report"]
"""The report of a run that ended by this error before it had one."""


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is to be told; `command` is the metrics' prefix, `is_raw` names their scan phase."""

    command: str
    metrics_file: Path | None = None
    on_success: str | None = None
    on_failure: str | None = None
    is_raw: bool = False


class Watch:
    """A run under watch: `report` is what came of it, `failed` makes one while there is none."""

    def __init__(self, watchers: Watchers, failed: FailedReport) -> None:
        self._watchers = watchers
        self._metrics: RunMetrics | None = None
        self.report: Report | None = None
        self.failed = failed

    def listener(self, display: Listener) -> Listener:
        """What the run is to tell its events: the display, and those who count."""
        if self._metrics is None:
            return display
        from bkctl.pool.events import Listeners

        return Listeners(display, self._metrics)

    def begin(self) -> None:
        """Raise UsageError where the metrics could not be written at the end."""
        path = self._watchers.metrics_file
        if path is None:
            return
        from bkctl.ui.metrics import RunMetrics
        from bkctl.ui.metrics_file import check_metrics_file

        check_metrics_file(path)
        self._metrics = RunMetrics(self._watchers.command, is_raw=self._watchers.is_raw)

    def end(self, error: BaseException | None) -> None:
        """Tell everyone; what they do about it is no matter of the run's."""
        watchers, code = self._watchers, exit_code_of(error)
        hook = (
            ("--on-failure", watchers.on_failure) if code else ("--on-success", watchers.on_success)
        )
        if self._metrics is None and not hook[1]:
            return
        report = self.report or self.failed(_as_own(error))
        try:
            if self._metrics is not None and watchers.metrics_file is not None:
                self._write_metrics(self._metrics, watchers.metrics_file, report, code)
        finally:
            if hook[1]:
                from bkctl.commands.hooks import run_hook

                run_hook(hook[0], hook[1], report, code)

    @staticmethod
    def _write_metrics(metrics: RunMetrics, path: Path, report: Report, code: int) -> None:
        from bkctl.ui.metrics_file import read_samples, write_metrics

        try:
            before = read_samples(path)
        except BkctlError as e:
            log.warning("metrics_file", f"--metrics-file {e}; its counters begin anew")
            before = {}
        metrics.finish(report, code, time.time())
        try:
            write_metrics(path, metrics.render(before))
        except OSError as e:
            reason = e.strerror or e
            log.warning("metrics_file", f"--metrics-file {path}: cannot be written ({reason})")


@contextlib.contextmanager
def watched(watchers: Watchers, failed: FailedReport) -> Iterator[Watch]:
    """Watch over the block and tell its end; the block's error passes.

    Raises UsageError at once where the metrics file cannot be written.
    """
    watch = Watch(watchers, failed)
    error: BaseException | None = None
    try:
        watch.begin()
        yield watch
    except BaseException as e:
        error = e
        raise
    finally:
        watch.end(error)


def _as_own(error: BaseException | None) -> BkctlError:
    if isinstance(error, BkctlError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return CancelledError(exit_code_of(error) - 128)
    if isinstance(error, OSError):
        return BkctlError(f"{error.filename or 'input or output'}: {reason_of(error)}")
    return BkctlError(f"{type(error).__name__}: {error}")
