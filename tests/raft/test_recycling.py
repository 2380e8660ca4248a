"""A raft log is read while its store goes on, and writes old files over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError
from bkctl.raft.engine import PinnedRaftEngine
from bkctl.raft.log_file import PlainFile
from tests.raft.logs import add, indexes, make_log
from tests.raft.writer import Batch, FileWriter


def recycle(folder: Path, old: int, new: int) -> None:
    """Make the newest file of an old one, and write a batch over what it held."""
    path = folder / f"{old:016}.raftlog"
    path.rename(folder / f"{new:016}.raftlog")
    file = FileWriter(folder, new)
    with (folder / f"{new:016}.raftlog").open("r+b") as out:
        out.write(file.add(add(Batch(), 4, 10 * new, 5)).content)


class During:
    """Opens files; has `act` done after so many reads of the file of a number."""

    def __init__(self, number: int, reads: int, act: Callable[[], None]) -> None:
        self.number, self.reads, self.act = number, reads, act

    def __call__(self, path: Path) -> PlainFile:
        during = self

        class Reader(PlainFile):
            def read_at(self, offset: int, size: int) -> bytes:
                read = super().read_at(offset, size)
                if path.name == f"{during.number:016}.raftlog":
                    during.reads -= 1
                    if during.reads == 0:
                        during.act()
                return read

        return Reader(path)


def test_a_file_recycled_before_it_is_read_has_the_log_pinned_anew(tmp_path: Path) -> None:
    make_log(tmp_path)
    rewrite = FileWriter(tmp_path, 1, "rewrite")
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path) as pinned:
        # What the store does: rewrite what is still wanted of it, then use it again.
        batch = Batch()
        for region_id in (1, 2, 3):
            add(batch, region_id, 10, 10, last=49)
        rewrite.add(batch).write()
        recycle(tmp_path, 1, 5)
        log = pinned.read({})
        assert log.region_ids() == [1, 2, 3, 4]
        for region_id in (1, 2, 3):
            assert indexes(log, region_id, 10, 50) == [*range(10, 50)]
        assert indexes(log, 4, 50, 55) == [*range(50, 55)]


def test_a_file_recycled_before_it_is_copied_has_the_log_pinned_anew(tmp_path: Path) -> None:
    make_log(tmp_path)
    # The header is read, then all batches at once; what comes after that is copying.
    opening = During(1, 2, lambda: recycle(tmp_path, 1, 5))
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path, open_file=opening) as pinned:
        log = pinned.read({})
        assert opening.reads <= 0
        assert (log.first_index(1), log.first_index(4)) == (20, 50)
        assert indexes(log, 1, 20, 50) == [*range(20, 50)]


def test_the_newest_file_recycled_before_it_is_read_is_not_taken_for_torn(tmp_path: Path) -> None:
    make_log(tmp_path)
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path) as pinned:
        FileWriter(tmp_path, 5).add(add(Batch(), 1, 50, 5)).write()
        for number in range(1, 4):
            (tmp_path / f"{number:016}.raftlog").unlink()
        rewrite = FileWriter(tmp_path, 1, "rewrite")
        batch = Batch()
        for region_id in (1, 2, 3):
            add(batch, region_id, 10, 40)
        rewrite.add(batch).write()
        recycle(tmp_path, 4, 6)
        log = pinned.read({})
        assert (log.first_index(1), log.last_index(1)) == (10, 54)
        assert (log.first_index(2), log.last_index(2)) == (10, 49)
        assert log.last_index(4) == 64


def test_a_store_that_recycles_faster_than_it_is_read_is_given_up(tmp_path: Path) -> None:
    make_log(tmp_path)
    numbers = iter(range(5, 1000))

    class Reader(PlainFile):
        def read_at(self, offset: int, size: int) -> bytes:
            read = super().read_at(offset, size)
            if pinned_once and offset == 0:
                newest = next(numbers)
                recycle(tmp_path, newest - 4, newest)
            return read

    pinned_once = False
    with PinnedRaftEngine([tmp_path], open_file=Reader) as pinned:
        pinned_once = True
        with pytest.raises(SourceError, match="over 20 times"):
            pinned.read({})


def test_a_copied_log_outlives_the_files(tmp_path: Path) -> None:
    make_log(tmp_path)
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path) as pinned:
        log = pinned.read({})
        for path in tmp_path.glob("*.raftlog"):
            path.write_bytes(b"\xff" * path.stat().st_size)
        for region_id in (1, 2, 3):
            assert indexes(log, region_id, 10, 50) == [*range(10, 50)]


def test_only_what_is_wanted_is_copied(tmp_path: Path) -> None:
    make_log(tmp_path)
    with PinnedRaftEngine([tmp_path], copy_to=tmp_path) as pinned:
        log = pinned.read({1: 46, 2: 49, 3: 100})
        assert pinned._copy is not None
        whole = sum(path.stat().st_size for path in tmp_path.glob("*.raftlog"))
        assert pinned._copy.size < whole / 5
        assert indexes(log, 1, 46, 50) == [46, 47, 48, 49]
        assert [log.last_index(region_id) for region_id in (1, 2, 3)] == [49, 49, 49]
        assert log.term_of(3, 49) == 5


def test_a_file_written_over_that_was_not_copied_is_told(tmp_path: Path) -> None:
    make_log(tmp_path)
    with PinnedRaftEngine([tmp_path]) as pinned:
        log = pinned.read({})
        recycle(tmp_path, 1, 5)
        with pytest.raises(CorruptionError, match="though it was sound when the log was opened"):
            log.term_of(1, 10)
        assert indexes(log, 1, 20, 50) == [*range(20, 50)]
