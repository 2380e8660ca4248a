"""How a benchmark goes on, on stderr: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, TextIO, cast

from bkctl.ui.lines import QuietStream
from bkctl.ui.periodic import PERIOD_SECONDS
from bkctl.ui.progress import is_screen

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def make_watcher(mode: str, stream: TextIO, notify: Callable[[str], None]) -> SilentWatcher:
    """The display for a mode of --progress: `auto`, `rich`, `plain` or `none`."""
    if mode == "none":
        return SilentWatcher(notify)
    if mode == "rich" or (mode == "auto" and is_screen(stream)):
        return RichWatcher(QuietStream(stream), notify)
    return PlainWatcher(QuietStream(stream), notify)


class SilentWatcher:
    """Says only what the user should know."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    def __enter__(self) -> SilentWatcher:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is open."""

    def begun(self, store: str, steps: int) -> None:
        """See Watcher."""

    def step(self, what: str) -> None:
        """See Watcher."""

    def told(self, note: str) -> None:
        """See Watcher."""
        self._notify(note)


class PlainWatcher(SilentWatcher):
    """A line for each store, and one every ten seconds at most."""

    def __init__(
        self,
        stream: QuietStream,
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(notify)
        self._stream, self._clock = stream, clock
        self._store = ""
        self._done = self._steps = 0
        self._last = 0.0

    def begun(self, store: str, steps: int) -> None:
        """See Watcher."""
        self._store, self._done, self._steps = store, 0, steps
        self._last = -PERIOD_SECONDS

    def step(self, what: str) -> None:
        """See Watcher."""
        self._done += 1
        if self._clock() - self._last >= PERIOD_SECONDS:
            self._last = self._clock()
            self._stream.line(f"{self._store}: {what} (step {self._done} of {self._steps})")


class RichWatcher(SilentWatcher):
    """A bar for each store."""

    def __init__(self, stream: QuietStream, notify: Callable[[str], None]) -> None:
        from rich.console import Console
        from rich.progress import Progress

        super().__init__(notify)
        console = Console(file=cast("IO[str]", stream), force_terminal=True, highlight=False)
        self._progress: Progress = Progress(console=console, transient=True, redirect_stdout=False)
        self._task: TaskID | None = None
        self._store = ""
        self._done = 0

    def __enter__(self) -> RichWatcher:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def begun(self, store: str, steps: int) -> None:
        """See Watcher."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._store, self._done = store, 0
        self._task = self._progress.add_task(store, total=steps)

    def step(self, what: str) -> None:
        """See Watcher."""
        if self._task is not None:
            text = f"{self._store}: {what}"
            self._progress.update(self._task, description=text, completed=self._done)
            self._done += 1
