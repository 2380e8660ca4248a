"""Python's garbage collector, kept from looking through a million regions over and over."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Within the block nothing is searched for circles, and what it made is not afterwards either.

    For blocks that make many values without circles: a search costs what there is, and comes again
    with each quarter that is added.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
