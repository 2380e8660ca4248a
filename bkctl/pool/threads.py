"""Threads that do with fewer of them where no more can be started."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bkctl.shortage import NoThreadError


class Threads(ThreadPoolExecutor):
    """A thread pool; `submit` raises NoThreadError only where it has no thread at all."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            # "can't start new thread": what was submitted waits for those that there are.
            if not self._threads:
                raise NoThreadError from None
