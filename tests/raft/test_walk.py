"""Where a file of the log ends, and which of its ends are damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError
from bkctl.raft import search, walk
from bkctl.raft.log_file import LogFile, PlainFile, parse_name
from bkctl.raft.walk import Walk
from tests.raft.writer import Batch, FileWriter

HEADER_V1, HEADER_V2 = 61, 69


def make(number: int) -> Batch:
    return Batch().entries(number, 1, [b"entry %d" % number] * 3).put(number, b"R", b"state")


def file_of(folder: Path, number: int = 3, batches: int = 5, version: int = 2) -> FileWriter:
    file = FileWriter(folder, number, version=version)
    for region_id in range(1, batches + 1):
        file.add(make(region_id), compress=region_id % 2 == 0)
    return file


def open_log(path: Path) -> LogFile:
    file_id = parse_name(path.name)
    assert file_id is not None
    return LogFile(file_id, path, PlainFile(path), path.stat().st_size)


def regions(path: Path, *, newest: bool = True, point_in_time: bool = False) -> list[int]:
    """The regions whose batches are read, in order."""
    file = open_log(path)
    try:
        found = Walk(file, is_newest=newest, point_in_time=point_in_time)
        return [batch.items[0].region_id for batch in found]
    finally:
        file.reader.close()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("newest", [True, False])
def test_all_batches_are_read(tmp_path: Path, version: int, newest: bool) -> None:
    path = file_of(tmp_path, version=version).write()
    assert regions(path, newest=newest) == [1, 2, 3, 4, 5]


def test_a_header_alone_is_an_empty_file(tmp_path: Path) -> None:
    assert regions(FileWriter(tmp_path, 1).write(), newest=False) == []


@pytest.mark.parametrize("alignment", [16, 512, 4096])
def test_padding_to_an_alignment_is_passed_over(tmp_path: Path, alignment: int) -> None:
    file = FileWriter(tmp_path, 1, alignment=alignment)
    for region_id in range(1, 9):
        file.add(make(region_id))
    assert regions(file.write(), newest=False) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_batches_need_not_be_where_the_alignment_says(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    file.content[HEADER_V1:HEADER_V2] = (16).to_bytes(8, "big")
    assert regions(file.write()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 15, 16, 17, 5000])
def test_space_set_aside_is_no_damage_in_the_newest_file(tmp_path: Path, size: int) -> None:
    path = file_of(tmp_path).write(bytes(size))
    assert regions(path) == [1, 2, 3, 4, 5]
    with pytest.raises(CorruptionError, match=rf"{path.name}: damaged at offset \d+"):
        regions(path, newest=False)


def test_a_torn_end_is_the_end_wherever_it_is_cut(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    end = len(file.content)
    path = file.write()
    for cut in range(file.places[-1], end):
        os.truncate(path, cut)
        assert regions(path) == [1, 2, 3, 4]
        if cut > file.places[-1]:
            with pytest.raises(CorruptionError, match=f"damaged at offset {file.places[-1]}"):
                regions(path, newest=False)


def test_what_an_earlier_use_left_does_not_count(tmp_path: Path) -> None:
    old = file_of(tmp_path, number=2, batches=40)
    for batches in range(1, 12):
        new = file_of(tmp_path, number=8, batches=batches)
        path = new.write(bytes(old.content[len(new.content) :]))
        assert regions(path) == list(range(1, batches + 1))


def test_where_a_torn_end_begins_is_told(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    for left, torn_at in ((b"", None), (bytes(9), None), (b"x", len(file.content))):
        found = Walk(open_log(file.write(left)), is_newest=True)
        assert len([*found]) == 5
        assert found.torn_at == torn_at


@pytest.mark.parametrize("version", [1, 2])
def test_a_broken_batch_before_sound_ones_is_damage(tmp_path: Path, version: int) -> None:
    file = file_of(tmp_path, version=version)
    content = bytes(file.content)
    for place in range(file.places[0], file.places[-1]):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        file.path.write_bytes(bytes(damaged) + bytes(100))
        first = max(at for at in file.places if at <= place)
        with pytest.raises(CorruptionError, match=rf"offset {first}: .*point-in-time"):
            regions(file.path)
        kept = file.places.index(first)
        assert regions(file.path, point_in_time=True) == list(range(1, kept + 1))
        with pytest.raises(CorruptionError, match=f"damaged at offset {first}"):
            regions(file.path, newest=False, point_in_time=True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_header_never_hides_batches(tmp_path: Path, version: int) -> None:
    file = file_of(tmp_path, version=version)
    content = bytes(file.content)
    for place in range(file.places[0]):
        for flip in (0x01, 0x02, 0x03, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= flip
            file.path.write_bytes(damaged)
            if version == 2 and place >= HEADER_V1 and flip != 0x03:
                # The alignment is another: batches are found all the same.
                assert regions(file.path) == [1, 2, 3, 4, 5]
            else:
                with pytest.raises(CorruptionError, match=rf"{file.path.name}: damaged at"):
                    regions(file.path)


def test_a_new_file_without_its_header_is_empty(tmp_path: Path) -> None:
    whole = bytes(FileWriter(tmp_path, 1).content)
    path = tmp_path / "0000000000000004.raftlog"
    for size in range(HEADER_V2):
        for zeros in (0, 1, 5000):
            path.write_bytes(whole[:size] + bytes(zeros))
            assert regions(path) == []
    path.write_bytes(whole[:30])
    with pytest.raises(CorruptionError, match="header"):
        regions(path, newest=False)


@pytest.mark.parametrize("left", [b"x", bytes(100) + b"x"])
def test_anything_else_for_a_header_is_damage(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "0000000000000004.raftlog"
    path.write_bytes(left)
    with pytest.raises(CorruptionError, match=r"offset 0: it does not begin"):
        regions(path)
    assert regions(path, point_in_time=True) == []


def test_a_sound_batch_that_makes_no_sense_is_damage(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    batch = Batch()
    batch.items.append(b"\x05\x07\x00")
    path = file.add(batch).write()
    with pytest.raises(CorruptionError, match="fits its checksums makes no sense"):
        regions(path)
    assert regions(path, point_in_time=True) == [1, 2, 3, 4, 5]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_window(size: int) -> None:
        monkeypatch.setattr(walk, "_WINDOW", size)
        monkeypatch.setattr(walk, "_ZEROS", bytes(size))
        monkeypatch.setattr(search, "_CHUNK", size)
        monkeypatch.setattr(search, "_STREAM", size)

    return set_window


@pytest.mark.parametrize("size", [16, 17, 40, 64, 100, 129])
def test_batches_across_windows_and_larger_ones_are_read(
    tmp_path: Path, small_windows: Callable[[int], None], size: int
) -> None:
    small_windows(size)
    file = file_of(tmp_path)
    path = file.write(bytes(300))
    assert regions(path) == [1, 2, 3, 4, 5]
    for place in range(file.places[1], len(file.content)):
        damaged = bytearray(file.content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        if place >= file.places[-1]:
            assert regions(path) == [1, 2, 3, 4]
        else:
            with pytest.raises(CorruptionError, match="damaged at offset"):
                regions(path)


def batches_of_all_sizes() -> list[Batch]:
    many = Batch()
    for region_id in range(1, 200):
        many.put(region_id, b"R", b"x" * (region_id % 60)).compact(region_id, 1 << region_id % 60)
    ends = Batch().entries(1 << 60, 1 << 60, [b"x" * 100] * 900).entries(2, 5, [b"", b"y"])
    long = Batch().put(3, b"k" * 700, b"v" * 5000).entries(4, 1, []).delete(4, b"k" * 2000)
    return [many, ends, long.clean(1), Batch().clean(1), Batch().compact(1, 1), make(7)]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("signature", [0, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_a_sound_batch_of_any_kind_is_found(
    tmp_path: Path, number: int, signature: int, compress: bool
) -> None:
    sound = batches_of_all_sizes()[number].encode(signature, compress=compress)
    old = [batch.encode(2) for batch in batches_of_all_sizes()]
    file = file_of(tmp_path)
    path = file.write(b"\xff" * 20 + b"".join(old) + sound + bytes(100))
    place = len(file.content) + 20 + sum(map(len, old))
    assert search.find_batch(open_log(path), len(file.content)) == place


def test_a_sound_batch_is_found_anywhere_behind_a_broken_one(
    tmp_path: Path, small_windows: Callable[[int], None]
) -> None:
    small_windows(64)
    file = file_of(tmp_path)
    sound = make(9).encode(file.signature)
    for gap in range(200):
        path = file.write(b"\xff" * 20 + bytes(gap) + sound)
        with pytest.raises(CorruptionError, match=f"follow .at {len(file.content) + 20 + gap}"):
            regions(path)


def seeming_batches(items_of: Callable[[int], bytes]) -> bytes:
    """Headers of batches that reach to the end, each followed by what seems to be its items."""
    made = b""
    for left in range(5000 * 32, 0, -32):
        header = (left << 8).to_bytes(8, "big") + (16).to_bytes(8, "big")
        made += header + items_of(left - 20).ljust(16, b"\xff")
    return made


def one_value(size: int) -> bytes:
    """The begin of items that are one value of so many bytes in all."""
    length = size - 9
    number = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    return b"\x01\x05\x03\x01\x01R" + number


def test_endless_seeming_batches_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a checksum of all that follows."""
    monkeypatch.setattr(search, "_SPARE_WORK", 0)
    file = file_of(tmp_path)
    path = file.write(b"\xff" * 16 + seeming_batches(one_value))
    with pytest.raises(CorruptionError, match="damaged"):
        regions(path)


@pytest.mark.parametrize(
    "items",
    [
        "00 05 02 01",  # no items
        "7f 05 02 01",  # more of them than there is room for, near the end
        "01 05 04",  # an unknown item
        "01 05 02 03",  # an unknown command
        "01 05 02 01",  # and bytes behind it
        "01 05 01 02 07 05 04",  # an entry that ends before it begins
        "01 ffffffffffffffffffff",  # no number
        "01 05 03 01 01 52 ffffff7f",  # a value of more than there is
    ],
)
def test_what_only_has_seeming_headers_is_left_of_an_earlier_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: str
) -> None:
    monkeypatch.setattr(search, "_SPARE_WORK", 0)
    monkeypatch.setattr(search, "_LOOK", 0)
    file = file_of(tmp_path)
    path = file.write(b"\xff" * 16 + seeming_batches(lambda _: bytes.fromhex(items)))
    assert regions(path) == [1, 2, 3, 4, 5]


def test_a_file_that_grows_is_read_up_to_where_it_was(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    path = file.write(bytes(5000))
    log = open_log(path)
    until = Walk(log, is_newest=True).written_until()
    assert until == len(file.content)
    for region_id in (6, 7):
        file.add(make(region_id))
    path.write_bytes(bytes(file.content) + bytes(4000))
    found = Walk(log, is_newest=True, until=until)
    assert [batch.items[0].region_id for batch in found] == [1, 2, 3, 4, 5]
    assert found.torn_at is None


def test_a_batch_that_was_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    """The reader saw half of it, and then one behind it: it is whole by then."""
    file = file_of(tmp_path)
    half = len(file.content) - 20
    content = bytes(file.add(make(6)).content)

    class Growing(PlainFile):
        def read_at(self, offset: int, size: int) -> bytes:
            data = super().read_at(offset, size)
            if size > HEADER_V2:
                path.write_bytes(content)
            return data

    path = file.path
    path.write_bytes(content[:half] + bytes(len(content) - half))
    log = open_log(path)
    log.reader.close()
    log = replace(log, reader=Growing(path))
    assert [batch.items[0].region_id for batch in Walk(log, is_newest=True)] == [1, 2, 3, 4, 5, 6]


def test_a_file_that_is_closed_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    path = file_of(tmp_path).write(bytes(5000))
    log = open_log(path)
    os.truncate(path, path.stat().st_size - 5000)
    assert len([*Walk(log, is_newest=True)]) == 5
