"""Seals what the parts of a fleet have taken: checks that it is one whole, and publishes it.

1. read     what all parts have recorded; no part may be at work
2. check    one cluster, one set of settings, each state from after the window, the base
3. choose   which replicas count, by all that is recorded; nothing may be left to be decided
4. gather   each range from the part of the store that counts for it, as of the state that counts
5. publish  as any backup

What is amiss is said store by store, with what to run where; nothing is published then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bkctl import __version__
from bkctl.archive.meta import BackupMeta, RawRange
from bkctl.archive.report import KeyRange, RangeCounts, RangeError, Report
from bkctl.backup.changes import UNCHANGED
from bkctl.backup.cover import Cover, cover_of, errors_of, split_by
from bkctl.backup.follow import Base, Subject, find_base
from bkctl.backup.outcome import with_figures
from bkctl.backup.planning import Regions, plan_regions
from bkctl.backup.standings import chosen_notes
from bkctl.codec.tso import format_ts
from bkctl.errors import KINDS, CorruptionError, KeyIsLockedError, StorageError, UsageError
from bkctl.fleet.advice import run_again, run_first
from bkctl.fleet.council import Council
from bkctl.fleet.gathering import Gathered, gather
from bkctl.fleet.joining import is_over
from bkctl.fleet.settings import Settings, read_settings
from bkctl.fleet.shelf import Shelf
from bkctl.fleet.state import State
from bkctl.regions.plan import BackupRange, Plan, to_raw_key
from bkctl.regions.region_map import Skipped
from bkctl.repository.lock import RepositoryLock, repository_lock
from bkctl.storage.base import Storage

_LOCK_ADVICE = (
    "; run that part again once the lock's transaction has ended, or take all parts for an earlier "
    "--end-ts; of a cluster that is dead, take the stores at one place (bkctl backup --db A --db B "
    "--resolve-locks), where it can be found out"
)


@dataclass(frozen=True, slots=True)
class SealOutcome:
    """What came of it: the report (`ok` once it is published), and what is to be run where."""

    report: Report
    remedies: tuple[str, ...]


@dataclass(slots=True)
class _Complaints:
    """What is amiss, and the remedy for each store, once."""

    errors: list[RangeError] = field(default_factory=list)
    remedies: dict[int, str] = field(default_factory=dict)

    def add(self, message: str, kind: str = "other") -> None:
        self.errors.append(RangeError(0, b"", b"", kind, message))


def seal(
    storage: Storage,
    name: str,
    *,
    allow_gaps: bool = False,
    notify: Callable[[str], None] = lambda message: None,
) -> SealOutcome:
    """Publish the backup `name` of its parts, if they make a whole one; else say what is missing.

    Holds the repository's lock, and those of all parts. Raises UsageError where there is no backup
    in parts of that name, RepositoryLockedError where a run is at work there, StorageError.
    """
    begun = time.time()
    shelf = Shelf(storage, name)
    with contextlib.ExitStack() as held:
        lock = held.enter_context(repository_lock(storage, "seal", notify=notify))
        settings = read_settings(shelf)
        for store_id in shelf.store_ids("state", "lock"):
            held.enter_context(shelf.lock(store_id, "seal", notify))
        return _Sealing(shelf, settings, begun, allow_gaps).run(lock)


class _Sealing:
    """One attempt to seal."""

    def __init__(self, shelf: Shelf, settings: Settings, begun: float, allow_gaps: bool) -> None:
        self._shelf, self._settings = shelf, settings
        self._begun, self._allow_gaps = begun, allow_gaps
        self._amiss = _Complaints()
        self._plain = False

    def run(self, lock: RepositoryLock) -> SealOutcome:
        """Check, and publish."""
        states = self._states()
        base = self._base()
        council = Council.of(states, allow_minority=self._settings.allow_minority)
        if not self._amiss.errors:
            self._check_settled(council)
        if not states or self._amiss.errors or base is None:
            return self._refused(self._report())
        self._plain = self._settings.has_plain_keys(states[0].ident.api_version)
        plan, cover = self._plan(council, base)
        gathered = gather(self._shelf, council, plan, self._plain)
        report = self._report(council, plan, cover, gathered)
        self._check_done(council, gathered)
        if not self._allow_gaps:
            self._amiss.errors += errors_of(cover.uncovered)
        if self._amiss.errors:
            return self._refused(report)
        return SealOutcome(self._publish(report, gathered, council, lock), ())

    def _states(self) -> list[State]:
        """All states; what is wrong with any is told."""
        found: list[State] = []
        store_ids = self._shelf.store_ids("state")
        if not store_ids:
            self._amiss.add("no part of it has recorded anything yet")
        for store_id in store_ids:
            try:
                state = self._shelf.read_state(store_id)
            except CorruptionError as e:
                self._amiss.add(f"{e}; run that part again", "corruption")
                self._amiss.remedies[store_id] = self._first(store_id)
                continue
            if state is None:
                continue
            if problem := self._problem(state, found):
                self._amiss.add(f"store {store_id}: {problem}")
                self._amiss.remedies[store_id] = self._again(state)
            found.append(state)
        return found

    def _problem(self, state: State, before: list[State]) -> str:
        """Why a state does not fit; empty if it does."""
        settings = self._settings
        if state.settings != settings.digest:
            return "its part was taken with other options or for another window"
        if state.ident.cluster_id != settings.cluster_id:
            return f"it is of cluster {state.ident.cluster_id}, not {settings.cluster_id}"
        if before and state.ident.api_version != before[0].ident.api_version:
            return "its API version is another than that of the others"
        # Two clocks: the machine's, and that of the storage, which may tell times by the second.
        pinned_ms = min(state.pinned_ms, self._shelf.recorded_ms(state.store_id) + 1000)
        if not is_over(settings.end_ts, pinned_ms, is_live=state.is_live):
            return (
                "its part was taken before --end-ts was safely past, so that writes may be missing"
            )
        return ""

    def _check_settled(self, council: Council) -> None:
        for store_id in council.unsettled:
            state = council.states[council.number_of(store_id)]
            self._amiss.add(
                f"store {store_id}: by what others have recorded since, more of its log counts "
                "than its part has applied"
            )
            self._amiss.remedies[store_id] = self._again(state)

    def _base(self) -> Base | None:
        """What an incremental backup builds on, if that is still what it would."""
        settings = self._settings
        if not settings.base:
            return Base(settings.start_ts, "", "")
        subject = Subject(0, settings.cluster_id, settings.window, settings.mode)
        try:
            base = find_base(self._shelf.storage, subject, settings.end_ts)
        except UsageError as e:
            self._amiss.add(str(e))
            return None
        if (base.name, base.start_ts) != (settings.base, settings.start_ts):
            self._amiss.add(
                f"it builds on {settings.base}, but now {base.note}; take the parts again under "
                "another --name"
            )
            return None
        return base

    def _plan(self, council: Council, base: Base) -> tuple[Plan, Cover]:
        settings, chosen = self._settings, council.regions
        keys = settings.window.start_key, settings.window.end_key
        regions = Regions(chosen.region_map, chosen.skipped, chosen)
        plan = plan_regions(regions, keys, None, is_raw=self._plain)
        if settings.kind == "incr":
            plan = split_by(plan, base.whole, self._plain)
        cover = cover_of(plan, settings.window, settings.start_ts, self._plain)
        return plan, cover

    def _check_done(self, council: Council, gathered: Gathered) -> None:
        """Say which ranges are refused, and which are not done, and who is to do them."""
        missing = council.missing()
        for brange, why in gathered.refused:
            message = why.message
            if council.choices[brange.region.id].lacking:
                message = (
                    f"{council.choices[brange.region.id].lacking}: what is acknowledged cannot be "
                    "known; take those stores' parts, too"
                )
            self._add(
                brange.region.id, (brange.raw_start_key, brange.raw_end_key), why.kind, message
            )
            for store_id in missing:
                self._amiss.remedies[store_id] = self._first(store_id)
        names = [file.name for file in gathered.result.files]
        if len(set(names)) < len(names):
            self._amiss.add("two ranges name the same file; take the parts under another --name")
        reports: dict[int, Report | None] = {}
        for brange in gathered.left:
            state = council.states[brange.view]
            if state.store_id not in reports:
                reports[state.store_id] = self._shelf.read_report(state.store_id)
            keys = brange.raw_start_key, brange.raw_end_key
            kind, message = _why_not_done(reports[state.store_id], brange.region.id)
            text = f"the replica on store {state.store_id} counts, whose part has not done it"
            if kind == KeyIsLockedError.kind:
                message += _LOCK_ADVICE
            self._add(brange.region.id, keys, kind, f"{text}{message and f': {message}'}")
            self._amiss.remedies[state.store_id] = self._again(state)

    def _add(self, region_id: int, keys: tuple[bytes, bytes], kind: str, message: str) -> None:
        self._amiss.errors.append(RangeError(region_id, *keys, kind, message))

    def _again(self, state: State) -> str:
        return run_again(state, self._settings.all, self._shelf.storage.url, self._shelf.name)

    def _first(self, store_id: int) -> str:
        return run_first(store_id, self._settings.all, self._shelf.storage.url, self._shelf.name)

    def _report(
        self,
        council: Council | None = None,
        plan: Plan | None = None,
        cover: Cover | None = None,
        gathered: Gathered | None = None,
    ) -> Report:
        """The report as it would be if nothing were amiss."""
        settings = self._settings
        report = Report(
            name=self._shelf.name,
            status="ok",
            mode=settings.mode,
            start_ts=settings.start_ts,
            end_ts=settings.end_ts,
            cluster_id=settings.cluster_id,
            storage=self._shelf.storage.url,
            codec=settings.codec,
            started_at=self._begun,
            base=settings.base,
        )
        if council is None or plan is None or cover is None or gathered is None:
            return report
        planned = {brange.region.id for brange in plan.ranges}
        report = dataclasses.replace(
            report,
            ranges=RangeCounts(
                *(gathered.total, gathered.done, gathered.total - gathered.done),
                len(plan.skipped) + len(gathered.unchanged),
            ),
            covered=cover.covered,
            uncovered=cover.uncovered,
            replicas=chosen_notes(plan, council.choices, council.states),
            minority=tuple(each for each in council.regions.minority if each in planned),
            skipped=(*plan.skipped, *map(self._unchanged, gathered.unchanged)),
            gaps=tuple(
                KeyRange(
                    to_raw_key(gap.start_key, self._plain),
                    to_raw_key(gap.end_key, self._plain),
                )
                for gap in plan.gaps
            ),
            parts=gathered.notes,
        )
        return with_figures(report, gathered.result)

    def _unchanged(self, brange: BackupRange) -> Skipped:
        return Skipped(brange.region.id, f"{UNCHANGED} {format_ts(self._settings.start_ts)}")

    def _refused(self, report: Report) -> SealOutcome:
        status = "partial" if report.ranges.done else "failed"
        report = dataclasses.replace(
            report,
            status=status,
            errors=tuple(self._amiss.errors),
            seconds=round(time.time() - self._begun, 3),
        )
        remedies = self._amiss.remedies
        return SealOutcome(report, tuple(remedies[store_id] for store_id in sorted(remedies)))

    def _publish(
        self, report: Report, gathered: Gathered, council: Council, lock: RepositoryLock
    ) -> Report:
        settings, files = self._settings, tuple(gathered.result.files)
        window, family = settings.window, settings.family
        raw_ranges = (RawRange(window.start_key, window.end_key, family),) if family else ()
        meta = BackupMeta(
            cluster_id=settings.cluster_id,
            cluster_version="",
            files=files,
            start_version=settings.start_ts,
            end_version=settings.end_ts,
            is_raw_kv=settings.mode == "raw",
            raw_ranges=raw_ranges,
            api_version=council.states[0].ident.api_version,
            backup_size=sum(file.size for file in files),
            br_version=f"bkctl {__version__}",
        )

        def check() -> None:
            lock.check()
            if self._shelf.store_ids("state") != [state.store_id for state in council.states]:
                raise StorageError(
                    f"{self._shelf.backup_dir.where}: another store has taken part meanwhile; "
                    "nothing is published, seal it again"
                )

        report = self._shelf.backup_dir.publish(meta, report, check)
        with contextlib.suppress(StorageError):  # the backup counts already
            self._shelf.clear(file.name for file in files)
        return report


def _why_not_done(report: Report | None, region_id: int) -> tuple[str, str]:
    """What a part's last run said of a region: an error's kind and text."""
    for error in report.errors if report is not None else ():
        if error.region_id == region_id and error.kind in KINDS:
            return error.kind, error.message
    return "other", ""
