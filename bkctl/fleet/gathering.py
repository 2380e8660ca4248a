"""Gathers the ranges of a backup from its parts: each from the store whose replica counts for it.

What others did of it, or the same store as of another state of its replica, does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bkctl.archive.checkpoint import FinishedRange
from bkctl.archive.report import PartNote
from bkctl.backup.parts import Span, by_view, finished_span, left_of, span_of, whole_of
from bkctl.backup.resume import whole_of_records
from bkctl.backup.run import RunResult
from bkctl.cluster.regions import Refusal
from bkctl.fleet.council import Council
from bkctl.fleet.shelf import Shelf
from bkctl.fleet.state import State
from bkctl.regions.plan import BackupRange, Plan


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found: `result` is what the parts did, `left` what of the ranges none did.

    `total` ranges are to be read, of which `done` are; `unchanged` ones need not be. A range's
    `view` is the number of the state that counts for it. `refused` are ranges that no store is to
    be read for.
    """

    result: RunResult
    left: tuple[BackupRange, ...]
    refused: tuple[tuple[BackupRange, Refusal], ...]
    total: int
    done: int
    unchanged: tuple[BackupRange, ...]
    notes: tuple[PartNote, ...]


def gather(shelf: Shelf, council: Council, plan: Plan, has_plain_keys: bool) -> Gathered:
    """Find for each range of the plan what its part did of it."""
    chosen = council.regions
    refused = tuple(
        (brange, why)
        for brange in plan.ranges
        if (why := chosen.refused.get(brange.region.id)) is not None
    )
    wanted = [brange for brange in plan.ranges if brange.region.id not in chosen.refused]
    result, left, notes = RunResult(), list[BackupRange](), list[PartNote]()
    unchanged = list[BackupRange]()
    for state, ranges in zip(council.states, by_view(wanted, len(council.states)), strict=True):
        own = _Own(shelf, council, state, ranges, has_plain_keys)
        result.files += own.files
        for record in own.records:
            result.decided_locks += record.decided_locks
        left += own.left
        unchanged += own.unchanged
        host, pinned_at = state.host, state.pinned_ms / 1000
        notes.append(PartNote(state.store_id, host, pinned_at, len(ranges), len(own.files)))
    result.files.sort(key=lambda file: (file.start_key, file.name))
    left.sort(key=lambda brange: brange.start_key)
    open_ones = {span_of(whole) for part in left if (whole := whole_of(span_of(part), wanted))}
    unchanged.sort(key=lambda brange: brange.start_key)
    total = len(plan.ranges) - len(unchanged)
    done = len(wanted) - len(unchanged) - len(open_ones)
    return Gathered(result, tuple(left), refused, total, done, tuple(unchanged), tuple(notes))


class _Own:
    """What one part did of the ranges that it counts for."""

    def __init__(
        self,
        shelf: Shelf,
        council: Council,
        state: State,
        ranges: list[BackupRange],
        has_plain_keys: bool,
    ) -> None:
        self._ranges, self._has_plain_keys, self._council = ranges, has_plain_keys, council
        self._state = state
        found = self._apart(shelf.records(state.store_id), [])
        self.records = whole_of_records(shelf.backup_dir, found)
        spans = [finished_span(record, has_plain_keys) for record in self.records]
        unchanged = self._apart(shelf.unchanged(state.store_id), spans)
        whole = [finished_span(record, has_plain_keys) for record in unchanged if not record.files]
        self.files = [file for record in self.records for file in record.files]
        self.left = list(left_of(ranges, [*spans, *whole]))
        # Of ranges that are not read at all; of one that is done, nothing is unchanged besides.
        untouched = set(whole)
        self.unchanged = [brange for brange in ranges if span_of(brange) in untouched]

    def _apart(self, records: Iterable[FinishedRange], taken: list[Span]) -> list[FinishedRange]:
        """The records that count, none overlapping another or what is `taken`."""
        found: list[tuple[Span, FinishedRange | None]] = [(span, None) for span in taken]
        for record in records:
            span = finished_span(record, self._has_plain_keys)
            whole = whole_of(span, self._ranges)
            if whole is not None and self._council.accepts(record, self._state, whole.region.id):
                found.append((span, record))
        found.sort(key=lambda each: (each[0], each[1] is not None))
        kept, end = list[FinishedRange](), b""
        for span, own in found:
            if span[0] < end:
                continue
            end = span[1]
            if own is not None:
                kept.append(own)
        return kept
