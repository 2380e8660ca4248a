"""Looks through fetched files in worker processes, before RocksDB is given them.

A file's hash only says that it is the one that backupmeta means, and both may be made by someone
who means harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkctl.errors import BkctlError, CancelledError, CorruptionError
from bkctl.pool import signs
from bkctl.shortage import what_failed

PRELOAD = "bkctl.sst.soundness"


@dataclass(frozen=True, slots=True)
class CheckFile:
    """Look through the file at `path`, number `number` of those to restore."""

    number: int
    shown_name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it: what is wrong with the file, or `error` where that could not be found out.

    Both are empty for a file that RocksDB can be given.
    """

    what: str = ""
    error: str = ""


def run_check(job: Any, emit: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
    """Do one CheckFile in a worker; it ends in one Checked, unless it is cancelled."""
    from bkctl.sst.soundness import check_sound
    from bkctl.sst.source import FileReader

    def advance(size: int) -> None:
        if cancelled():
            raise CancelledError(0)

    signs.note(job.shown_name)
    try:
        with FileReader(job.path) as reader:
            check_sound(reader, job.shown_name, advance)
    except CancelledError:
        return
    except CorruptionError as e:
        emit(Checked(what=str(e).removeprefix(f"{job.shown_name}: ")))
    except (BkctlError, MemoryError) as e:
        emit(Checked(error=what_failed(e) if isinstance(e, MemoryError) else str(e)))
    else:
        emit(Checked())
