"""Takes one store's part of a backup that several machines take together.

1. pin      the store
2. join     the backup: its name and settings are those of all parts
3. elect    with what the other parts have recorded (`bkctl.fleet.election`)
4. run      the ranges of regions whose replica here counts; what earlier runs finished stays
5. tell     what is left to others

Nothing is published: `bkctl.fleet.seal` does that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec import structs

from bkctl.archive.checkpoint import FinishedRange
from bkctl.archive.report import Report
from bkctl.backup.backup import sum_up
from bkctl.backup.cover import Cover, cover_of, split_by
from bkctl.backup.execute import run_plan
from bkctl.backup.job import Claimed, Crew, Job, ReadPlan
from bkctl.backup.opening import open_request
from bkctl.backup.parts import finished_span, whole_of
from bkctl.backup.planning import Regions, plan_regions, reads_of
from bkctl.backup.request import BackupRequest
from bkctl.backup.resume import whole_of_records
from bkctl.backup.standings import chosen_notes
from bkctl.backup.wait import LOCKED, Patience, pause_for
from bkctl.backup.workers import backup_workers
from bkctl.codec.tso import format_ts, physical_ms
from bkctl.errors import CancelledError, UsageError
from bkctl.fleet.council import Council
from bkctl.fleet.election import Waiting
from bkctl.fleet.joining import Joining
from bkctl.fleet.shelf import Shelf, records_of
from bkctl.fleet.state import State
from bkctl.folders import refuse_work_dir_in
from bkctl.pool.events import Listener
from bkctl.regions.plan import BackupRange, Plan
from bkctl.storage.base import Storage
from bkctl.storage.counted import counted_storage
from bkctl.store.raft_log_mode import RaftLogMode

_LOCK_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What came of a part: the report of its own ranges, and what is left, for people.

    `is_settled` is whether of all regions of the store it is known, for good, which replica counts.
    """

    report: Report
    left: tuple[str, ...]
    is_settled: bool


def take_part(
    request: BackupRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    patience: Patience | None = None,
) -> PartOutcome:
    """Take a store's part of the backup that `request` describes, with its `jobs` workers.

    With `patience`, wait for the states of others; with `request.wait_locks`, ranges that fail on
    locks are tried again from the store as it is then. Raises what `take_backup` raises.
    """
    check_request(request)
    locks, waiting = request.wait_locks, Waiting(patience, is_cancelled)
    request = dataclasses.replace(request, wait_locks=None)
    deadline = None if locks is None else locks.clock() + locks.seconds
    while True:
        outcome = _take(request, listener, is_cancelled, notify, waiting)
        is_locked = any(error.kind == LOCKED for error in outcome.report.errors)
        if locks is None or deadline is None or not is_locked or is_cancelled():
            return outcome
        if (left := deadline - locks.clock()) <= 0:
            return outcome
        pause_for(min(left, _LOCK_PAUSE), locks, is_cancelled)
        if is_cancelled():
            raise CancelledError(0)


def check_request(request: BackupRequest) -> None:
    """Raise UsageError for what cannot be asked of a part."""
    if request.others:
        raise UsageError("--part takes one store's part; give one --db, and run it for each store")
    if not request.chooses:
        raise UsageError(
            "--part goes by the stores' own records of their regions; give --region-map store"
        )
    if request.resume:
        raise UsageError("--part goes on from where it was by itself; leave --resume out")
    if request.source.raft_log is not RaftLogMode.COMMITTED:
        raise UsageError(
            "--part needs the raft log, and applies it as far as the fleet decides; leave "
            "--raft-log out"
        )
    if request.store_id is not None:
        raise UsageError("--part goes by the store's own id; leave --store-id out")
    check_past(request.end_ts, time.time() * 1000)


def check_past(end_ts: int, now_ms: float) -> None:
    """Raise UsageError unless nothing can be committed up to a timestamp any more."""
    if physical_ms(end_ts) > now_ms:
        raise UsageError(
            f"--end-ts {end_ts} ({format_ts(end_ts)}) has not come yet by this machine's clock: "
            "what is written until then would be missing; run --part after it"
        )


def _take(
    request: BackupRequest,
    listener: Listener,
    is_cancelled: Callable[[], bool],
    notify: Callable[[str], None],
    waiting: Waiting,
) -> PartOutcome:
    begun = time.time()
    if request.cipher is not None:
        refuse_work_dir_in(request.storage.path, request.source.work_dir)
    with (
        backup_workers(request.jobs) as workers,
        _opened(request, listener) as storage,
        contextlib.ExitStack() as held,
    ):
        joining = Joining(request, storage, begun, waiting, notify, held)
        executor = workers.electing(joining)
        with open_request(request, executor, is_cancelled, notify) as stores:
            part = joining.settled(stores.ident.api_version)
            store_id, shelf = part.state.store_id, part.shelf
            council = part.council
            job = Job(
                *(part.request, stores, store_id, storage, shelf.name, part.base, begun),
                records=records_of(store_id),
                home=council.home_of(store_id) if council.is_dead else None,
            )
            read = _plan(job, part.council, part.state)
            claimed = Claimed(shelf.backup_dir, _keep(shelf, job, read, council, part.state))
            _record_unchanged(shelf, job, read.plan)
            result = run_plan(job, read, claimed, Crew(executor, listener, is_cancelled))
            report = sum_up(job, read, claimed, result)
        shelf.write_report(store_id, report)
    left = tuple(_what_is_left(part.council, part.state))
    return PartOutcome(report, left, part.council.is_settled_for(store_id))


@contextlib.contextmanager
def _opened(request: BackupRequest, listener: Listener) -> Iterator[Storage]:
    with counted_storage(request.storage, listener.storage_used) as storage:
        if storage.discards:
            raise UsageError(f"{storage.url}: keeps nothing, so parts cannot meet there")
        yield storage


def _plan(job: Job, council: Council, state: State) -> ReadPlan:
    """What this store is to read: the ranges of regions whose replica here counts."""
    request, stores = job.request, job.stores
    chosen = council.regions
    window = request.start_key, request.end_key
    regions = Regions(chosen.region_map, chosen.skipped, chosen)
    whole = plan_regions(regions, window, None, is_raw=request.has_plain_keys)
    number = council.number_of(state.store_id)
    # What is presumed of transactions holds as long as the same replicas count.
    mark = (council.mark,) if request.resolve_locks and council.is_dead else ()
    own = Plan(
        tuple(
            structs.replace(brange, view=0, as_of=(*state.as_of(brange.region.id), *mark))
            for brange in whole.ranges
            if chosen.numbers.get(brange.region.id) == number
            and brange.region.id not in chosen.refused
        ),
        (),
        (),
    )
    replicas = chosen_notes(own, council.choices, council.states)
    planned = {brange.region.id for brange in own.ranges}
    minority = tuple(each for each in chosen.minority if each in planned)
    if request.kind == "incr":
        own = split_by(own, job.base.whole, request.has_plain_keys)
    own, reads = reads_of(own, request, stores, job.store_id)
    cover = _own_cover(own, request)
    return ReadPlan(own, reads, cover, replicas=replicas, minority=minority)


def _own_cover(plan: Plan, request: BackupRequest) -> Cover:
    from bkctl.archive.report import KeyRange

    keys = KeyRange(request.start_key, request.end_key)
    # What other parts cover is theirs to say.
    covered = cover_of(plan, keys, request.start_ts, request.has_plain_keys).covered
    return Cover(covered, ())


def _keep(
    shelf: Shelf, job: Job, read: ReadPlan, council: Council, state: State
) -> list[FinishedRange]:
    """What need not be done again: of the same state of its replica, and whole."""
    records: list[FinishedRange] = []
    end = b""
    for record in shelf.records(job.store_id):
        span = finished_span(record, job.request.has_plain_keys)
        whole = whole_of(span, read.plan.ranges)
        if whole is None or span[0] < end:
            continue
        if council.accepts(record, state, whole.region.id):
            records.append(record)
            end = span[1]
    kept = whole_of_records(shelf.backup_dir, records)
    shelf.keep(job.store_id, kept)
    return kept


def _record_unchanged(shelf: Shelf, job: Job, plan: Plan) -> None:
    shelf.write_unchanged(job.store_id, map(_unchanged, plan.unchanged))


def _unchanged(brange: BackupRange) -> FinishedRange:
    region = brange.region
    keys = brange.raw_start_key, brange.raw_end_key
    return FinishedRange(region.id, region.epoch.version, *keys, (), (), brange.as_of)


def _what_is_left(council: Council, state: State) -> Iterator[str]:
    """Say what other parts have to do before the backup can be sealed."""
    chosen, own = council.regions, council.number_of(state.store_id)
    elsewhere: dict[int, int] = {}
    for region in chosen.region_map.regions:
        number = chosen.numbers.get(region.id, own)
        if number != own and region.id not in chosen.refused:
            elsewhere[number] = elsewhere.get(number, 0) + 1
    for number, count in sorted(elsewhere.items()):
        noun = "region" if count == 1 else "regions"
        yield f"of {count:,} {noun} the replica on store {council.states[number].store_id} counts"
    for store_id in council.unsettled:
        yield f"store {store_id} has to run again: more of its log is decided now"
    missing = council.missing()
    if missing and chosen.refused:
        stores = ", ".join(map(str, missing))
        count = len(chosen.refused)
        noun = "region is" if count == 1 else "regions are"
        yield (
            f"{count:,} {noun} not decided: fewer than a majority of voters have recorded their "
            f"states; nothing is recorded of store {stores}"
        )
