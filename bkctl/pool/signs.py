"""Signs of life that a worker process gives to its parent, and what it says it has in hand.

They lie in memory that both share, so that they outlive the worker and cost it no message:

    beats     counts how often the worker's main thread came by between two steps of its work
    waits     how many waits that have a deadline of their own it is in (a storage's retries, say)
    at_hand   what it is about to give to RocksDB: a store or a file, for the message if it dies

Only the main thread can beat: while it is stuck in a library, no other thread does so in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from multiprocessing.sharedctypes import RawValue
from typing import Any, TypeVar

SILENT_SECONDS = 60.0
"""A worker that shows no sign of life for so long is taken for stuck."""
WAITING_SECONDS = 900.0
"""The same while it waits for something that has a deadline of its own."""
STOPPING_SECONDS = 3.0
"""The same once all work is to stop."""
BEAT_SECONDS = 2.0
"""How long a worker may at most wait, where it can wait in steps, before it beats again."""

# A parent that was stopped itself, or that slept, has seen nothing of that time.
_MOST_AT_A_LOOK = 5.0
_NOTE_BYTES = 400
_T = TypeVar("_T")


class _Shared(ctypes.Structure):
    _fields_ = (
        ("beats", ctypes.c_uint64),
        ("waits", ctypes.c_uint32),
        ("at_hand", ctypes.c_char * _NOTE_BYTES),
    )


class Signs:
    """One worker's signs, made by its parent and given to it at its start."""

    def __init__(self) -> None:
        self._shared: Any = RawValue(_Shared)
        self._owner = 0

    @property
    def beats(self) -> int:
        """How often the worker came by."""
        return int(self._shared.beats)

    @property
    def is_waiting(self) -> bool:
        """Whether it is in a wait that has a deadline of its own."""
        return bool(self._shared.waits)

    @property
    def at_hand(self) -> str:
        """What it had in hand last; empty if it never said."""
        return bytes(self._shared.at_hand).decode("utf-8", "ignore")

    def adopt(self) -> None:
        """In the worker: these are the signs that `beat` and the others below give from now on."""
        global _given
        self._owner = threading.get_ident()
        _given = self

    def beat(self) -> None:
        """Count, if this is the worker's main thread."""
        if threading.get_ident() == self._owner:
            self._shared.beats += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block the worker waits, if this is its main thread."""
        if threading.get_ident() != self._owner:
            yield
            return
        self._shared.waits += 1
        try:
            yield
        finally:
            self._shared.waits -= 1
            self._shared.beats += 1

    def note(self, text: str) -> None:
        """Say what is in hand; what does not fit is cut off."""
        self._shared.at_hand = text.encode("utf-8", "replace").replace(b"\0", b"")[:_NOTE_BYTES]


_given: Signs | None = None


def beat() -> None:
    """Give a sign of life; nothing happens but in a worker's main thread."""
    if _given is not None:
        _given.beat()


def waiting() -> contextlib.AbstractContextManager[None]:
    """Within the block, waiting may take as long as what is waited for allows itself."""
    return contextlib.nullcontext() if _given is None else _given.waiting()


def note(text: str) -> None:
    """Say what a library is about to be given that may crash on it."""
    if _given is not None:
        _given.note(text)


def result_of(future: Future[_T]) -> _T:
    """A future's result, waited for as long as it takes, with signs of life meanwhile."""
    while _given is not None and not wait([future], BEAT_SECONDS).done:
        beat()
    return future.result()


class Vigil:
    """Watches over one worker's signs, by a clock in seconds."""

    def __init__(self, signs: Signs, clock: Callable[[], float]) -> None:
        self._signs, self._clock = signs, clock
        self._looked = clock()
        self._beats = signs.beats
        self.silence = 0.0

    def is_stuck(self, *, is_stopping: bool) -> bool:
        """Look again: whether the worker has been silent for longer than it may be."""
        self.look()
        if self._signs.is_waiting:
            return self.silence >= WAITING_SECONDS
        return self.silence >= (STOPPING_SECONDS if is_stopping else SILENT_SECONDS)

    def look(self) -> None:
        """Note how long there was no sign."""
        now, beats = self._clock(), self._signs.beats
        passed = min(now - self._looked, _MOST_AT_A_LOOK)
        self.silence = self.silence + passed if beats == self._beats else 0.0
        self._looked, self._beats = now, beats

    def begin(self) -> None:
        """From now on something is to be seen: a silence before does not count."""
        self._looked, self._beats, self.silence = self._clock(), self._signs.beats, 0.0
