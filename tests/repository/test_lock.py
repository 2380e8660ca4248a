"""The repository's lock: one holder, dead ones replaced, lost ones noticed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bkctl.errors import RepositoryLockedError, StorageError
from bkctl.repository.holder import Holder, Life, parse_holder, this_process
from bkctl.repository.lock import LockLostError, RepositoryLock, Timing, repository_lock
from bkctl.storage.base import Storage
from bkctl.storage.local import LocalStorage
from bkctl.storage.noop import NoopStorage
from tests.storage.servers import Clock

NAME = "bkctl.lock"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository")


def elsewhere(**fields: object) -> Holder:
    """A holder on another host."""
    holder = dataclasses.replace(
        this_process("backup", 1.7e9), host="other", pid=77, boot_id="another", token="theirs"
    )
    return dataclasses.replace(holder, **fields)  # type: ignore[arg-type]


def dead_here() -> Holder:
    """A holder on this host whose pid has been given to another process since."""
    here = this_process("backup", 1.7e9)
    return dataclasses.replace(here, process_started=here.process_started + 1, token="dead")


def make_old(storage: LocalStorage, age: float = 1e6) -> None:
    path = Path(storage.url.removeprefix("local://")) / NAME
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


def lock_on(
    storage: Storage, clock: Clock | None = None, said: list[str] | None = None
) -> RepositoryLock:
    timing = Timing() if clock is None else Timing(monotonic=clock, sleep=clock.sleep)
    return RepositoryLock(storage, "test", timing, ([] if said is None else said).append)


def held_by(storage: Storage) -> Holder:
    return parse_holder(storage.read(NAME))


def test_within_the_block_it_is_held_and_afterwards_gone(storage: LocalStorage) -> None:
    with repository_lock(storage, "backup"):
        holder = held_by(storage)
        assert (holder.command, holder.pid) == ("backup", os.getpid())
        with (
            pytest.raises(
                RepositoryLockedError,
                match=rf"bkctl backup on host .*, pid {os.getpid()}, "
                r"since 20.*Z, last heartbeat 20.*Z",
            ),
            repository_lock(storage, "prune"),
        ):
            raise AssertionError("two at once")
        assert held_by(storage) == holder
    assert list(storage.list()) == []
    with pytest.raises(ZeroDivisionError), repository_lock(storage, "backup"):
        raise ZeroDivisionError
    assert list(storage.list()) == []
    assert RepositoryLockedError.exit_code == 6


def test_a_storage_that_keeps_nothing_needs_no_lock() -> None:
    with repository_lock(NoopStorage(), "backup") as lock:
        lock.check()


def test_the_heart_beats_until_the_end(storage: LocalStorage) -> None:
    with repository_lock(storage, "backup", timing=Timing(heartbeat=0.001)):
        while held_by(storage).heartbeat < 3:
            os.sched_yield()
    assert storage.stat(NAME) is None


def test_a_holder_elsewhere_that_was_seen_lately_is_left_alone(storage: LocalStorage) -> None:
    storage.create(NAME, elsewhere().encode())
    clock = Clock()
    with pytest.raises(RepositoryLockedError, match="on host other, pid 77, since 2023-11-14"):
        lock_on(storage, clock).acquire()
    assert not clock.slept


@pytest.mark.parametrize("age", [1e6, -1e6])
def test_a_holder_elsewhere_is_dead_when_its_heart_stood_still_long_enough(
    storage: LocalStorage, age: float
) -> None:
    storage.create(NAME, elsewhere().encode())
    make_old(storage, age)
    clock, said = Clock(), list[str]()
    lock = lock_on(storage, clock, said)
    lock.acquire()
    assert 120 <= sum(clock.slept) <= 130
    assert held_by(storage).command == "test"
    assert ["looks left behind" in said[0], "took over" in said[1]] == [True, True]
    lock.release()
    assert storage.stat(NAME) is None


def test_an_old_lock_whose_heart_beats_after_all_is_left_alone(storage: LocalStorage) -> None:
    """The clocks of two hosts may differ by days."""
    storage.create(NAME, elsewhere().encode())
    make_old(storage)
    clock = Clock()

    def beat_once(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.slept) == 4:
            storage.write(NAME, elsewhere(heartbeat=1).encode())
            make_old(storage)

    timing = Timing(monotonic=clock, sleep=beat_once)
    with pytest.raises(RepositoryLockedError, match="other"):
        RepositoryLock(storage, "test", timing, print).acquire()
    assert len(clock.slept) == 4
    assert held_by(storage).heartbeat == 1


def test_a_lock_that_is_let_go_while_it_is_watched_is_taken(storage: LocalStorage) -> None:
    storage.create(NAME, elsewhere().encode())
    make_old(storage)
    timing = Timing(monotonic=Clock(), sleep=lambda seconds: storage.delete(NAME))
    RepositoryLock(storage, "test", timing, print).acquire()
    assert held_by(storage).command == "test"


def test_a_dead_process_of_this_host_is_replaced_at_once(storage: LocalStorage) -> None:
    storage.create(NAME, dead_here().encode())
    clock = Clock()
    lock_on(storage, clock).acquire()
    assert not clock.slept
    assert held_by(storage).token != "dead"


def test_of_many_that_find_a_dead_holder_exactly_one_takes_over(storage: LocalStorage) -> None:
    for _ in range(10):
        storage.write(NAME, dead_here().encode())
        barrier = threading.Barrier(4)
        won: list[RepositoryLock] = []
        refused: list[RepositoryLockedError] = []

        def contend(
            barrier: threading.Barrier = barrier,
            won: list[RepositoryLock] = won,
            refused: list[RepositoryLockedError] = refused,
        ) -> None:
            lock = lock_on(storage)
            barrier.wait()
            try:
                lock.acquire()
                won.append(lock)
            except RepositoryLockedError as e:
                refused.append(e)

        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, 3)
        won[0].check()


@pytest.mark.parametrize("later", [0, 60])
@pytest.mark.parametrize("theirs", [elsewhere().encode(), b"", None])
def test_a_lost_lock_is_noticed_and_the_new_one_left_alone(
    storage: LocalStorage, theirs: bytes | None, later: int
) -> None:
    clock = Clock()
    with repository_lock(storage, "backup", timing=Timing(monotonic=clock)) as lock:
        lock.check()
        storage.delete(NAME)
        if theirs is not None:
            storage.create(NAME, theirs)
        clock.now += later
        for _ in range(2):
            with pytest.raises(LockLostError, match=r"this run's lock (was taken over by|is gone)"):
                lock.check()
    assert (storage.read(NAME) if theirs is not None else storage.stat(NAME)) == theirs


class Unanswering(LocalStorage):
    """Does what it is told and says that it failed, if asked to."""

    fails = False

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        super().exchange(name, old, new)
        if self.fails:
            raise StorageError("no answer")


def test_a_check_renews_what_was_not_renewed_lately(storage: LocalStorage) -> None:
    clock = Clock()
    with repository_lock(storage, "backup", timing=Timing(monotonic=clock)) as lock:
        beats = []
        for seconds in (0, 10, 15, 1, 100):
            clock.now += seconds
            lock.check()
            beats.append(held_by(storage).heartbeat)
        assert beats == [0, 0, 1, 1, 2]


def test_a_heartbeat_without_an_answer_does_not_lose_the_lock(tmp_path: Path) -> None:
    storage = Unanswering(tmp_path)
    lock = lock_on(storage)
    lock.acquire()
    storage.fails = True
    with pytest.raises(StorageError, match="no answer"):
        lock.renew()
    storage.fails = False
    lock.renew()
    lock.check()
    lock.release()
    assert storage.stat(NAME) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"[" * 5000, b'{"pid": "x", "host": "a\\nb", "process_started": -1}'],
)
def test_a_lock_that_cannot_be_read_is_held_by_someone_unknown(
    storage: LocalStorage, content: bytes
) -> None:
    storage.create(NAME, content)
    clock = Clock()
    with pytest.raises(RepositoryLockedError, match="a run of unknown host"):
        lock_on(storage, clock).acquire()
    make_old(storage)
    lock_on(storage, clock).acquire()


def test_what_can_be_told_of_a_process() -> None:
    here = this_process("x", 0.0)
    assert here.life() is Life.ALIVE
    assert parse_holder(here.encode()) == here
    for other in ({"host": "x"}, {"boot_id": "x"}, {"pid_namespace": "x"}, {"process_started": 0}):
        assert dataclasses.replace(here, **other).life() is Life.UNKNOWN
    for pid in (0, 1 << 40):
        assert dataclasses.replace(here, pid=pid).life() is Life.UNKNOWN
    assert dataclasses.replace(here, pid=1).life() is Life.GONE
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    its = dataclasses.replace(here, pid=child.pid, process_started=int(started))
    assert its.life() is Life.ALIVE
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        os.sched_yield()
    assert its.life() is Life.GONE
    child.communicate()
    assert its.life() is Life.GONE


def test_the_content_is_plain_json(storage: LocalStorage) -> None:
    with repository_lock(storage, "backup"):
        fields = json.loads(storage.read(NAME))
    assert {"host", "pid", "started_at", "command", "token", "heartbeat"} <= fields.keys()
