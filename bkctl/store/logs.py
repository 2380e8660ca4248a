"""Which write-ahead logs a view takes, and whether they are all there and whole.

    log      what must hold, as far as the MANIFEST tells
    all      those that the MANIFEST tracks are there, with at least the size that was synced
    each     begins where the one before it ends: numbers of writes run on without a hole, but for
             those that ingested SST files took
    oldest   begins where what is flushed ends
    newest   may end in a record half written, with nothing readable behind it
    all      reach as far as the SST files do

Everything else would show a state that never was. `point_in_time` takes what lies before a hole or
damage inside the logs, as TiKV does at its start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import open_regular
from bkctl.shortage import reason_of
from bkctl.sst.source import FileReader
from bkctl.store.manifest import ManifestState
from bkctl.store.wal import Opener, WalSummary, read_wal

_POINT_IN_TIME = "--recovery point-in-time takes what lies before it, as TiKV would"
_INCOMPLETE = "the store is incomplete: bring the missing log, or back up another replica"


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A log of the store, open; `size` is the prefix of it that the view takes."""

    number: int
    path: Path
    descriptor: int
    size: int


@dataclass(frozen=True, slots=True)
class KeptLog:
    """A log as the view is to have it: its copy, cut to `size` bytes."""

    copy: Path
    size: int
    has_writes: bool


def open_logs(wal_dir: Path, min_number: int) -> list[OpenLog]:
    """Open the logs of a folder that count, oldest first.

    Sizes are taken from the newest to the oldest: a log is whole once a newer one exists, so what
    is taken is a prefix of what was written. Raises CorruptionError for one that goes away
    meanwhile, SourceError for one that cannot be read.
    """
    found: list[OpenLog] = []
    try:
        for number in sorted(_live_numbers(wal_dir, min_number), reverse=True):
            path = wal_dir / f"{number:06}.log"
            try:
                descriptor = open_regular(path)
            except FileNotFoundError:
                raise CorruptionError(f"{path}: the log went away; the store changed") from None
            except OSError as e:
                raise SourceError(f"{path}: cannot be read ({reason_of(e)})") from None
            found.append(OpenLog(number, path, descriptor, os.fstat(descriptor).st_size))
    except BaseException:
        close_logs(found)
        raise
    return found[::-1]


def close_logs(logs: Sequence[OpenLog]) -> None:
    """Let the logs go."""
    for log in logs:
        os.close(log.descriptor)


def choose_wal_dir(db_dir: Path, told: Path, min_number: int) -> Path:
    """Where the logs are: in the database's folder, or where its OPTIONS file says, `told`.

    Raises SourceError where both hold logs with records that would count.
    """
    here, there = (_with_records(folder, min_number) for folder in (db_dir, told))
    if here and there:
        raise SourceError(
            f"{db_dir}: write-ahead logs that count lie both there ({here[0]}) and in {told} "
            f"({there[0]}), which its OPTIONS file names; say which are its own with --wal-dir"
        )
    return told if there or (not here and _live_numbers(told, min_number)) else db_dir


def _with_records(folder: Path, min_number: int) -> list[str]:
    names = [f"{number:06}.log" for number in sorted(_live_numbers(folder, min_number))]
    return [name for name in names if (folder / name).stat().st_size]


def _live_numbers(folder: Path, min_number: int) -> list[int]:
    matches = (re.fullmatch(r"(\d+)\.log", name) for name in os.listdir(folder))
    return [int(m.group(1)) for m in matches if m and int(m.group(1)) >= min_number]


def check_logs(
    logs: Sequence[OpenLog],
    copies: Path,
    state: ManifestState,
    *,
    point_in_time: bool,
    opened: Opener = FileReader,
) -> list[KeptLog]:
    """Read the copies of the logs, and say how much of each to keep; oldest first.

    `copies` is the folder that holds them under their names; `opened` opens one. Raises
    CorruptionError, naming the log, where one is missing, cut or damaged.
    """
    _check_tracked(logs, state)
    summaries = [read_wal(copies / log.path.name, log.number, opened) for log in logs]
    newest = max((i for i, found in enumerate(summaries) if found.next is not None), default=-1)
    kept: list[KeptLog] = []
    expected: int | None = None
    is_cut = False
    for i, (log, found) in enumerate(zip(logs, summaries, strict=True)):
        what = _hole_before(log, found, expected, state)
        if what and not point_in_time:
            raise CorruptionError(f"{log.path}: {what}; {_INCOMPLETE}, or {_POINT_IN_TIME}")
        if what:
            is_cut = True
            break
        kept.append(KeptLog(copies / log.path.name, found.size, found.next is not None))
        expected = expected if found.next is None else found.next
        if found.trouble and not (found.is_torn and i >= newest):
            if not point_in_time:
                raise CorruptionError(_damage(log, found))
            is_cut = True
            break
    if is_cut and expected is None:
        expected = state.oldest_log.next_sequence
    _check_reach(logs, expected, state)
    return kept


def _damage(log: OpenLog, found: WalSummary) -> str:
    where = "" if found.is_torn else ", and sound records follow it"
    newer = "; newer logs follow it" if found.is_torn else ""
    return (
        f"{log.path}: the write-ahead log is damaged: {found.trouble}{where}{newer}; "
        f"{_POINT_IN_TIME}"
    )


def _check_tracked(logs: Sequence[OpenLog], state: ManifestState) -> None:
    sizes = {log.number: log.size for log in logs}
    for tracked in state.tracked_logs:
        if tracked.number < state.min_log_number:
            continue
        name = f"{tracked.number:06}.log"
        if tracked.number not in sizes:
            raise CorruptionError(
                f"{name}: the write-ahead log, which the MANIFEST counts, is missing; {_INCOMPLETE}"
            )
        if sizes[tracked.number] < tracked.synced_size:
            raise CorruptionError(
                f"{name}: the write-ahead log was cut: it has {sizes[tracked.number]} bytes, and "
                f"{tracked.synced_size} were synced, the MANIFEST says; {_INCOMPLETE}"
            )


def _hole_before(
    log: OpenLog, found: WalSummary, expected: int | None, state: ManifestState
) -> str:
    """What is missing between what came before and a log; empty where nothing is."""
    if found.first is None:
        return ""
    if expected is not None:
        return _hole(expected, found.first, state, "the log before it ends with")
    # The oldest of those there are: all before it was flushed.
    flushed = "what is flushed ends with"
    oldest = state.oldest_log
    if log.number == oldest.number:
        return _hole(state.last_sequence + 1, found.first, state, flushed)
    if oldest.is_certain and found.first < oldest.next_sequence:
        return f"{oldest.number:06}.log before it is missing"
    return _hole(oldest.next_sequence, found.first, state, flushed)


def _hole(expected: int, first: int, state: ManifestState, what: str) -> str:
    missing = range(expected, first)
    if len(missing) <= len(state.ingested) and all(n in state.ingested for n in missing):
        return ""
    return (
        f"writes {expected} to {first - 1} are missing: {what} {expected - 1}, and the log begins "
        f"with {first}"
    )


def _check_reach(logs: Sequence[OpenLog], reached: int | None, state: ManifestState) -> None:
    """Raise CorruptionError where SST files hold newer writes than logs that were cut."""
    if reached is None:
        return
    ahead = max(
        (file for file in state.live_files if file.largest_sequence not in state.ingested),
        key=lambda file: file.largest_sequence,
        default=None,
    )
    if ahead is not None and ahead.largest_sequence >= reached:
        raise CorruptionError(
            f"{logs[-1].path}: the write-ahead log ends with write {reached - 1}, but {ahead.name} "
            f"holds write {ahead.largest_sequence}: the log was cut; {_INCOMPLETE}"
        )
