"""What a run makes of lost jobs, and what a second view of a store has to be like."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bkctl.archive.names import MAX_WRITER, backup_file_name
from bkctl.backup.run import BackupRun, FairShares, RunResult
from bkctl.backup.task import BackupTask, RangeDone, RangeStarted
from bkctl.cluster.choice import Choice, Replica
from bkctl.errors import CancelledError, CorruptionError, SourceError
from bkctl.executor.messages import Parcel, Refused
from bkctl.executor.remote import RemoteSource, difference
from bkctl.pool.events import SilentListener
from bkctl.pool.pool import Again, Emitted, JobDone, JobLost, PoolEvent
from bkctl.raft.standing import Completeness, Standing
from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region, RegionEpoch
from bkctl.repository.contents import parse_origin
from bkctl.store.ident import StoreIdent


class Losing:
    """An Executor that loses the first jobs: each with its first range begun."""

    busy = True
    free = 1

    def __init__(self, losses: list[Again]) -> None:
        self._losses = deque(losses)
        self._jobs: deque[Any] = deque()
        self.tried: list[list[int]] = []
        self.views: list[set[int]] = []

    def submit(self, job: Any) -> None:
        self.busy = True
        self._jobs.append(job)
        self.tried.append([number for number, _ in job.ranges])
        self.views.append({brange.view for _, brange in job.ranges})

    def cancel(self) -> None:
        raise AssertionError

    def wait(self, timeout: float | None = None) -> list[PoolEvent]:
        self.busy = len(self._jobs) > 1
        job = self._jobs.popleft()
        events: list[PoolEvent] = []
        if self._losses:
            number = job.ranges[0][0]
            events.append(Emitted(0, job, RangeStarted(number)))
            return [*events, JobLost(0, job, "gone", self._losses.popleft())]
        for number, _ in job.ranges:
            events += [
                Emitted(0, job, RangeStarted(number)),
                Emitted(0, job, RangeDone(number, ())),
            ]
        return [*events, JobDone(0, job)]

    def jobs_in(self, view: int) -> int:
        return 1

    def room_in(self, view: int) -> int:
        return 1 if not self._jobs else 0


def run(losses: list[Again], views: list[int]) -> tuple[RunResult, Losing]:
    epoch = RegionEpoch(1, 1)
    ranges = [
        BackupRange(Region(n, b"", b"", epoch), bytes([n]), bytes([n + 1]), is_raw=True, view=view)
        for n, view in enumerate(views, 1)
    ]
    executor = Losing(losses)
    executor.busy = False
    given = cast(Any, executor)
    task = cast(BackupTask, None)
    shares = FairShares(ranges, given)
    return BackupRun(given, task, shares, SilentListener(), batch_size=8).run(), executor


def test_what_a_lost_machine_had_begun_is_tried_again() -> None:
    result, executor = run([Again.ALL], [0, 0])
    assert (result.done, result.failures, result.has_losses) == (2, [], True)
    assert executor.tried[0] in executor.tried[1:]


def test_what_a_worker_died_of_is_not() -> None:
    result, _ = run([Again.UNBEGUN], [0, 0])
    assert (result.done, len(result.failures)) == (1, 1)
    assert "the worker process died: gone" in result.failures[0].message


def test_nothing_is_tried_again_where_nobody_is_left() -> None:
    result, executor = run([Again.NOTHING, Again.NOTHING], [0, 0])
    assert (result.done, {failure.message for failure in result.failures}) == (0, {"gone"})
    assert len(executor.tried) == 2


def test_nor_for_ever() -> None:
    result, executor = run([Again.ALL] * 50, [0])
    assert (result.done, len(result.failures), len(executor.tried)) == (0, 1, 3)


def test_a_batch_is_of_one_store() -> None:
    result, executor = run([], [0, 0, 1, 1, 1, 2])
    assert result.done == 6
    assert all(len(views) == 1 for views in executor.views)


STANDING = Standing(
    region_id=8,
    state="normal",
    role="voter",
    conf_ver=3,
    version=5,
    start_key=b"a",
    end_key=b"b",
    voters=(1, 2, 3),
    outgoing=(),
    applied=10,
    applied_to=12,
    commit=11,
    last_index=12,
    last_term=6,
    term=6,
    entries=2,
    size=100,
    completeness=Completeness.UNKNOWN,
    trouble="",
)
CHOICE = Choice(8, STANDING, Replica(0, STANDING), (0,), "", "")


def view(*standings: Standing, **more: Any) -> RemoteSource:
    fields = {"ident": StoreIdent(7, 4), "has_log": True, "is_live": False, **more}
    return cast(RemoteSource, SimpleNamespace(standings=standings, **fields))


def test_a_second_view_at_the_same_standing_will_do() -> None:
    other = replace(STANDING, region_id=9)
    # What it had applied itself, and of what it was told that others have it, may differ.
    own = replace(STANDING, applied=12, commit=12, entries=0, size=0)
    assert difference(view(own), view(STANDING, other), [CHOICE]) == ""


@pytest.mark.parametrize(
    "field", ["state", "version", "conf_ver", "last_term", "last_index", "applied_to", "trouble"]
)
def test_one_at_another_standing_will_not(field: str) -> None:
    value = getattr(STANDING, field)
    moved: Any = value + 1 if isinstance(value, int) else "other"
    own = view(replace(STANDING, **{field: moved}))
    assert "region 8" in difference(own, view(STANDING), [CHOICE])
    live = view(replace(STANDING, **{field: moved}), is_live=True)
    assert "it is running, and has moved on" in difference(live, view(STANDING), [CHOICE])


def test_nor_one_that_lacks_the_region_or_is_another_store() -> None:
    assert difference(view(), view(STANDING), [CHOICE])
    assert difference(view(STANDING, ident=StoreIdent(7, 5)), view(STANDING), [CHOICE])
    assert difference(view(STANDING), view(STANDING, has_log=False), [CHOICE])


def test_names_of_two_writers_differ_and_are_names_of_tikv() -> None:
    names = [backup_file_name(4, 8, 5, b"k", 1795520357123, "write", n) for n in (0, 1, MAX_WRITER)]
    assert len(set(names)) == 3
    for name in names:
        origin = parse_origin(name)
        assert origin is not None
        assert (origin.store_id, origin.region_id, origin.cf) == (4, 8, "write")


def test_parcels_show_nothing_of_what_is_in_them() -> None:
    parcel = Parcel({"key": "hidden"})
    assert parcel.open() == {"key": "hidden"}
    assert "hidden" not in repr(parcel)


def test_errors_come_back_as_what_they_were() -> None:
    class OwnError(CorruptionError):
        pass

    again = Refused.of(OwnError("bad")).as_error("store 4 on b: ")
    assert type(again) is CorruptionError
    assert str(again) == "store 4 on b: bad"
    assert type(Refused.of(SourceError("x")).as_error()) is SourceError
    assert Refused.of(CancelledError(2)).as_error().exit_code == 1
    assert Refused("Path", "x").as_error().exit_code == 1
