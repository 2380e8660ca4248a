"""The live display: two lines for the run, one of them with a bar, and one for each worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bkctl.pool.events import DoneRange, JobRange, SilentListener
from bkctl.ui.human import format_count, format_duration, format_size
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.lines import QuietStream, failure_line
from bkctl.ui.tally import RangeInWork, Tally

_REFRESHES_PER_SECOND = 4
_BAR_WIDTH = 30
_KEY_WIDTH = 40


class RichListener(SilentListener):
    """Draws a run's state four times a second, and failures above it as they come."""

    def __init__(
        self, stream: QuietStream, clock: Callable[[], float], width: int | None = None
    ) -> None:
        """Draw on `stream`, which the caller has found to be a terminal."""
        file = cast("IO[str]", stream)
        self._console = Console(file=file, force_terminal=True, width=width, highlight=False)
        self._tally = Tally(clock)
        self._is_over = False
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            # Results on stdout are for other programs and stay as they are.
            redirect_stdout=False,
        )

    def started(self, total_ranges: int, approximate_keys: int | None, jobs: int) -> None:
        """See Listener."""
        self._tally.started(total_ranges, approximate_keys)
        self._live.start(refresh=True)

    def range_started(self, worker: int, backup_range: JobRange) -> None:
        """See Listener."""
        self._tally.range_started(worker, backup_range)

    def advanced(self, worker: int, kvs: int, plain_bytes: int) -> None:
        """See Listener."""
        self._tally.advanced(worker, kvs, plain_bytes)

    def range_done(self, worker: int, done: DoneRange) -> None:
        """See Listener."""
        self._tally.range_done(worker, done.kvs, done.plain_bytes)

    def range_failed(self, worker: int, backup_range: JobRange, kind: str, message: str) -> None:
        """See Listener."""
        self._tally.range_failed(worker, backup_range)
        line = Text(failure_line(backup_range, kind, message), "red")
        self._console.print(line, soft_wrap=True)
        self._live.refresh()

    def finished(self) -> None:
        """See Listener."""
        self._is_over = True
        self._live.stop()

    def _render(self) -> RenderableType:
        """What is on the screen now; called from the display's own thread."""
        lines: list[RenderableType] = [self._bar(), self._figures()]
        if not self._is_over:
            workers = dict(self._tally.workers)
            lines += [_worker_line(number, workers[number]) for number in sorted(workers)]
        return Group(*lines)

    def _bar(self) -> Table:
        tally = self._tally
        times = [format_duration(tally.elapsed)]
        left = tally.seconds_left
        if left is not None and not self._is_over:
            times.append(f"{format_duration(left)} left")
        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        grid.add_column(no_wrap=True, overflow="ellipsis")
        finished = tally.done + tally.failed
        grid.add_row(
            ProgressBar(total=max(1, tally.total), completed=finished, width=_BAR_WIDTH),
            Text(f"{tally.done:,}/{format_count(tally.total, 'range')}, {', '.join(times)}"),
        )
        return grid

    def _figures(self) -> Text:
        tally = self._tally
        figures = [
            format_count(tally.kvs, "key"),
            format_size(tally.plain_bytes),
            f"{format_size(tally.bytes_per_second)}/s",
        ]
        line = Text(", ".join(figures), no_wrap=True, overflow="ellipsis")
        if tally.failed:
            line.append(f", {format_count(tally.failed)} failed", "red")
        return line


def _worker_line(number: int, work: RangeInWork) -> Text:
    start = describe_key(work.backup_range.raw_start_key, "(start)")
    return Text(
        f"worker {number}: region {work.backup_range.region.id} from "
        f"{shorten_middle(start, _KEY_WIDTH)}, {format_count(work.kvs, 'key')}",
        "dim",
        no_wrap=True,
        overflow="ellipsis",
    )
