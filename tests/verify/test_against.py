"""Comparing with a store: what a backup lacks, has too much or has otherwise is named by key."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.meta import BackupFile
from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.keys import versioned_key
from bkctl.store.database import Database
from bkctl.verify.against import (
    Comparison,
    Difference,
    Segment,
    Snapshot,
    compare_segment,
    segments_of,
)
from bkctl.verify.differences import NOT_EQUAL, NOT_IN_BACKUP, NOT_IN_STORE
from examples.tikv_store import TikvStore
from tests.archive.made_backups import MadeBackup, Record, put

LONG = b"x" * 300
TXN = Snapshot(0, 100, is_raw=False)


def compare(
    store: TikvStore, made: MadeBackup, snapshot: Snapshot = TXN, segment: Segment | None = None
) -> Comparison:
    store.close()
    with opened(store.path) as database:
        return compare_segment(
            segment or Segment(b"", b"", tuple(made.files)),
            made.backup_dir,
            database,
            snapshot,
            lambda kvs, plain_bytes: None,
        )


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    database = Database(path, path)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
def store(tmp_path: Path) -> TikvStore:
    return TikvStore(tmp_path / "store")


@pytest.fixture
def made(tmp_path: Path) -> MadeBackup:
    return MadeBackup(tmp_path)


def commit(store: TikvStore, raw_key: bytes, value: bytes = b"v", at: int = 10) -> None:
    store.must_prewrite_put(raw_key, value, raw_key, at - 5)
    store.must_commit(raw_key, at - 5, at)


def test_a_backup_of_what_the_store_has_does_not_differ(store: TikvStore, made: MadeBackup) -> None:
    commit(store, b"a")
    commit(store, b"b", LONG)
    commit(store, b"c", at=110)  # later than the backup
    made.add("write", [put(b"a", 10), put(b"b", 10, None)])
    made.add("default", [(versioned_key(b"b", 5), LONG)])
    assert compare(store, made) == Comparison(0, ())


def test_each_way_to_differ_is_told_once_by_key(store: TikvStore, made: MadeBackup) -> None:
    for raw_key, value in ((b"a", b"v"), (b"c", b"old"), (b"d", b"v"), (b"e", LONG), (b"f", LONG)):
        commit(store, raw_key, value)
    made.add(
        "write",
        [
            put(b"b", 10),
            put(b"c", 10, b"new"),
            put(b"d", 11, start_ts=6),
            put(b"e", 10, None),
            put(b"f", 10, None),
            put(b"g", 10, None),
        ],
    )
    made.add("default", [(versioned_key(key, 5), b"y" * 300) for key in (b"e", b"g", b"h")])
    assert compare(store, made) == Comparison(
        8,
        (
            Difference(b"a", NOT_IN_BACKUP),
            Difference(b"b", NOT_IN_STORE),
            Difference(b"c", NOT_EQUAL),
            Difference(b"d", NOT_EQUAL),
            Difference(b"e", NOT_EQUAL),
            Difference(b"f", NOT_IN_BACKUP),
            Difference(b"g", NOT_IN_STORE),
            Difference(b"h", NOT_IN_STORE),
        ),
    )


def test_a_record_that_was_marked_since_is_the_same(store: TikvStore, made: MadeBackup) -> None:
    fence = b"F" + (0).to_bytes(8, "big")
    store.write_record(b"a", 10, b"P" + encode_uvarint(5) + b"v\x01v" + b"R" + fence)
    made.add("write", [put(b"a", 10)])
    assert compare(store, made).total == 0


def test_ten_keys_are_named_and_all_are_counted(store: TikvStore, made: MadeBackup) -> None:
    with store.batched():
        for i in range(2500):
            commit(store, b"%05d" % i)
    made.add("write", [put(b"%05d" % i, 10) for i in range(0, 5000, 2)])
    found = compare(store, made)
    assert found.total == 1250 + 1250
    assert [difference.raw_key for difference in found.first] == [
        b"%05d" % i for i in range(1, 20, 2)
    ]


def test_a_range_without_a_file_is_compared_too(store: TikvStore, made: MadeBackup) -> None:
    for raw_key in (b"a", b"b", b"c"):
        commit(store, raw_key)
    found = compare(store, made, segment=Segment(b"b", b"c", ()))
    assert found.first == (Difference(b"b", NOT_IN_BACKUP),)


def test_only_the_segments_part_of_a_file_is_compared(store: TikvStore, made: MadeBackup) -> None:
    commit(store, b"b")
    made.add("write", [put(key, 10) for key in (b"a", b"b", b"c")])
    assert compare(store, made, segment=Segment(b"b", b"c", tuple(made.files))).total == 0


def test_raw_pairs_are_compared_by_family(store: TikvStore, tmp_path: Path) -> None:
    made = MadeBackup(tmp_path, is_raw_kv=True)
    for raw_key, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3")):
        store.put_raw(raw_key, value)
    store.put_raw(b"x", b"other family", "write")
    made.add("default", [(b"za", b"1"), (b"zb", b"3"), (b"zd", b"4")])
    raw = Snapshot(0, 0, is_raw=True)
    assert compare(store, made, raw) == Comparison(
        3,
        (
            Difference(b"b", NOT_EQUAL),
            Difference(b"c", NOT_IN_BACKUP),
            Difference(b"d", NOT_IN_STORE),
        ),
    )


def test_a_damaged_file_is_a_finding_not_a_difference(store: TikvStore, made: MadeBackup) -> None:
    commit(store, b"a")
    file = made.add("write", [put(b"a", 10)])
    path = made.folder / file.name
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    [finding] = compare(store, made).findings
    assert (finding.file, finding.offset) == (file.name, 0)
    path.unlink()
    [finding] = compare(store, made).findings
    assert finding.what == "is missing"


def test_an_encrypted_file_cannot_be_compared(store: TikvStore, made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10)], cipher_iv=b"0" * 16)
    [finding] = compare(store, made).findings
    assert finding.what == "is encrypted, and cannot be compared without its key"


def file_of(start_key: bytes, end_key: bytes, cf: str) -> BackupFile:
    name = f"{start_key!r}-{end_key!r}-{cf}"
    return BackupFile(name, b"", start_key, end_key, 0, 0, 0, 0, 0, cf, 0)


def test_segments_are_cut_where_ranges_or_files_begin_and_end() -> None:
    low = file_of(b"b", b"d", "write")
    values = file_of(b"b", b"d", "default")
    high = file_of(b"x", b"", "write")
    other = file_of(b"", b"", "lock")
    assert segments_of(
        [(b"a", b"c"), (b"e", b"f")], [high, low, values, other], ("write", "default")
    ) == [
        Segment(b"a", b"b", ()),
        Segment(b"b", b"c", (low, values)),
        Segment(b"c", b"d", (low, values)),
        Segment(b"e", b"f", ()),
        Segment(b"x", b"", (high,)),
    ]
    assert segments_of([], [], ("write",)) == []
    assert segments_of([(b"", b"")], [], ("write",)) == [Segment(b"", b"", ())]


bounds = st.binary(max_size=2)


@given(st.lists(st.tuples(bounds, bounds)), st.binary(max_size=3))
def test_a_key_is_in_one_segment_exactly_if_some_range_has_it(
    ranges: list[tuple[bytes, bytes]], raw_key: bytes
) -> None:
    ranges = [(start, end) for start, end in ranges if not end or start < end]
    found = [
        segment
        for segment in segments_of(ranges, [], ("write",))
        if segment.start_key <= raw_key and (not segment.end_key or raw_key < segment.end_key)
    ]
    is_in = any(start <= raw_key and (not end or raw_key < end) for start, end in ranges)
    assert len(found) == is_in


@pytest.mark.parametrize("seed", range(6))
def test_differences_are_those_of_the_two_sets_of_pairs(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)

    def side() -> dict[bytes, bytes]:
        keys = [b"%04d" % rng.randrange(3000) for _ in range(rng.choice((0, 10, 4000)))]
        return {key: rng.choice((b"v", b"w", LONG, LONG + b"y")) for key in sorted(keys)}

    ours, theirs = side(), side()
    store, made = TikvStore(tmp_path / "store"), MadeBackup(tmp_path)
    with store.batched():
        for key, value in ours.items():
            commit(store, key, value)
    writes: list[Record] = [
        put(key, 10, None if len(value) > 255 else value) for key, value in sorted(theirs.items())
    ]
    longs = [(versioned_key(k, 5), v) for k, v in sorted(theirs.items()) if len(v) > 255]
    for cf, records in (("write", writes), ("default", longs)):
        if records:
            made.add(cf, records)
    expected = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    found = compare(store, made)
    assert found.total == len(expected)
    assert [difference.raw_key for difference in found.first] == expected[:10]
