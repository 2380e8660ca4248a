"""Of many that create one name at a time, exactly one wins."""

from __future__ import annotations

import os
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest

from bkctl.storage.base import AlreadyExistsError
from bkctl.storage.local import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "deep" / "root")


def root_of(storage: LocalStorage) -> Path:
    return Path(storage.url.removeprefix("local://"))


def all_files(storage: LocalStorage) -> set[str]:
    root = root_of(storage)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_of_many_threads_that_create_exactly_one_wins(storage: LocalStorage) -> None:
    contenders = 8
    barrier = threading.Barrier(contenders)
    won: list[bytes] = []

    def contend(content: bytes) -> None:
        barrier.wait()
        try:
            storage.create("a/lock", content)
        except AlreadyExistsError:
            return
        won.append(content)

    threads = [
        threading.Thread(target=contend, args=(bytes([i]) * 999,)) for i in range(contenders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("a/lock") == won[0]
    assert all_files(storage) == {"a/lock"}


def create_in_process(arguments: tuple[Path, int]) -> int:
    root, rounds = arguments
    storage = LocalStorage(root)
    wins = 0
    for number in range(rounds):
        try:
            storage.create(f"lock-{number}", str(os.getpid()).encode())
        except AlreadyExistsError:
            continue
        wins += 1
    return wins


def test_of_two_processes_that_create_exactly_one_wins_each_name(tmp_path: Path) -> None:
    rounds = 50
    with get_context("spawn").Pool(2) as pool:
        wins = pool.map(create_in_process, [(tmp_path / "root", rounds)] * 2, chunksize=1)
    assert sum(wins) == rounds
