"""Files of a backup: what is sound passes, and what a backup may not hold is told with its key."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkctl.errors import CancelledError
from bkctl.mvcc.keys import encode_ts, versioned_key
from bkctl.storage.local import LocalStorage
from bkctl.verify.file import HashingReader, PairCheck, pairs_of
from tests.archive.made_backups import MadeBackup, Record, check_files, existing, put, write_record
from tests.backup.helpers import backup, files_of
from tests.model import crc64
from tests.oracles import read_oracle, require_shared

LONG = b"x" * 300


@pytest.fixture
def made(tmp_path: Path) -> MadeBackup:
    return MadeBackup(tmp_path)


@pytest.fixture
def raw(tmp_path: Path) -> MadeBackup:
    return MadeBackup(tmp_path, is_raw_kv=True)


def told(made: MadeBackup, **options: Any) -> list[str]:
    return [str(finding) for finding in made.check(**options)]


def test_a_sound_pair_has_nothing_wrong(made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10), put(b"b", 10, None), put(b"c", 100, b"")])
    made.add("default", [(versioned_key(b"b", 5), LONG)])
    assert told(made) == []


def test_many_records_of_all_lengths_are_counted_as_one_by_one(made: MadeBackup) -> None:
    keys = sorted({bytes([i % 7]) * (i % 40) + i.to_bytes(2, "big") for i in range(5000)})
    made.add("write", [put(key, 10 + i % 90, bytes(i % 250)) for i, key in enumerate(keys)])
    assert told(made) == []


def test_imported_data_has_equal_timestamps_and_is_sound(made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10, start_ts=10)])
    assert told(made) == []


def test_records_with_fields_of_newer_stores_are_sound(made: MadeBackup) -> None:
    later_fence = b"F" + (101).to_bytes(8, "big")
    values = [write_record(b"P", 5, b"v") + tail for tail in (b"R", later_fence, b"?1234")]
    made.add("write", [(versioned_key(b"%d" % i, 10), value) for i, value in enumerate(values)])
    assert told(made) == []


def test_an_incremental_backup_has_deletes(tmp_path: Path) -> None:
    made = MadeBackup(tmp_path, start_version=9)
    made.add("write", [DELETE])
    assert told(made) == []
    made.add("write", [put(b"l", 9)], start_key=b"l")
    assert "has commit_ts 9, outside (9, 100]" in told(made)[0]


DELETE = (versioned_key(b"k", 10), write_record(b"D", 5))
WRONG_RECORDS: list[tuple[str, list[tuple[bytes, bytes]], str]] = [
    ("after end_ts", [put(b"k", 101)], "has commit_ts 101, outside (0, 100]"),
    ("a Lock", [(versioned_key(b"k", 10), write_record(b"L", 5))], "neither Put nor Delete"),
    ("a Delete", [DELETE], "is a Delete, which only an incremental backup has"),
    ("two versions", [put(b"k", 20), put(b"k", 10)], "is a second version of its key"),
    ("start_ts", [put(b"k", 10, start_ts=11)], "has start_ts 11 after commit_ts 10"),
    ("no z", [(b"y" + versioned_key(b"k", 10)[1:], b"P\x05")], "lies outside its file's range"),
    ("padding", [(b"zk" + b"\0" * 6 + b"\1\xf8" + encode_ts(10), b"P\x05v\x01v")], "memcomparable"),
    ("too short", [(b"zk", b"P\x05")], "is no versioned key"),
    ("empty", [(versioned_key(b"k", 10), b"")], "an empty write record"),
    ("cut", [(versioned_key(b"k", 10), b"P\x05v\x09v")], "write record is cut short"),
    (
        "fenced",
        [(versioned_key(b"k", 10), b"P\x05v\x01vF" + (50).to_bytes(8, "big"))],
        "was collected already at 50",
    ),
]


CRC = crc64(b"av") ^ crc64(b"bv")
UNCOUNTED = {"total_kvs": 0, "total_bytes": 0, "crc64xor": 0}


@pytest.mark.parametrize(
    ("records", "what"),
    [case[1:] for case in WRONG_RECORDS],
    ids=[case[0] for case in WRONG_RECORDS],
)
def test_a_record_that_no_snapshot_holds_is_told_with_its_place(
    records: list[Record], what: str, made: MadeBackup
) -> None:
    sound = [put(b"%05d" % i, 10) for i in range(3000)]
    file = made.add("write", sorted([*sound, *records]), **UNCOUNTED)
    found = made.check()
    assert len(found) == 1
    assert what in found[0].what
    assert found[0].file == file.name
    assert found[0].offset is not None


def test_each_wrong_record_is_told_once_at_its_block(made: MadeBackup) -> None:
    late = {7, 1500, 1501, 2999}
    value = bytes(200)
    made.add(
        "write",
        [put(b"%05d" % i, 101 if i in late else 10, value) for i in range(3000)],
        **UNCOUNTED,
    )
    found = made.check()
    assert [finding.what[: len("the record of key 3030303037 ")] for finding in found] == [
        f"the record of key {(b'%05d' % i).hex().upper()} " for i in sorted(late)
    ]
    offsets = [finding.offset or 0 for finding in found]
    assert offsets == sorted(offsets)
    assert offsets[0] == 0 < offsets[1] < offsets[3]


def test_a_file_of_nothing_but_wrong_records_ends_in_a_bounded_list(made: MadeBackup) -> None:
    made.add("write", [put(b"%05d" % i, 101) for i in range(5000)], **UNCOUNTED)
    assert len(made.check()) == 1000


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"start_key": b"b"}, "the record of key 61 lies outside its file's range"),
        ({"end_key": b"c"}, "the record of key 63 lies outside its file's range"),
    ],
)
@pytest.mark.parametrize("is_raw", [False, True])
def test_keys_outside_the_files_range_are_found(
    claims: dict[str, bytes], what: str, is_raw: bool, tmp_path: Path
) -> None:
    made = MadeBackup(tmp_path, is_raw_kv=is_raw)
    keys = (b"a", b"b", b"bb", b"c")
    records = [(b"z" + key, b"v") for key in keys] if is_raw else [put(key, 10) for key in keys]
    made.add("default" if is_raw else "write", records, **claims)
    [finding] = made.check()
    assert finding.what == what


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"total_kvs": 3, "total_bytes": 4, "crc64xor": 0}, "counts 2 records, backupmeta says 3"),
        ({"total_bytes": 5}, "counts 4 plain bytes, backupmeta says 5"),
        ({"crc64xor": 1}, f"has crc64xor {CRC:016x}, backupmeta says 0000000000000001"),
    ],
)
def test_counts_are_those_that_are_claimed(
    claims: dict[str, int], what: str, made: MadeBackup
) -> None:
    made.add("write", [put(b"a", 10), put(b"b", 10)], **claims)
    assert what in [finding.what for finding in made.check()]


def test_a_checksum_that_br_did_not_record_is_no_damage(raw: MadeBackup) -> None:
    records = [(b"zk%02d" % i, b"v") for i in range(100)]
    raw.add("default", records, crc64xor=0)
    assert told(raw) == []
    raw.files[0] = replace(raw.files[0], crc64xor=1)
    assert "crc64xor" in told(raw)[0]


def test_a_long_value_that_is_missing_is_named(made: MadeBackup) -> None:
    made.add("write", [put(key, 10, None) for key in (b"a", b"b", b"c")])
    file = made.add("default", [(versioned_key(key, 5), LONG) for key in (b"a", b"c")])
    assert told(made) == [
        f"{made.files[0].name}: the value of key 62 at start_ts 5 is missing from {file.name}"
    ]


def test_a_long_value_that_nothing_refers_to_is_named(made: MadeBackup) -> None:
    write = made.add("write", [put(b"b", 10, None), put(b"c", 10)])
    file = made.add(
        "default", [(versioned_key(key, ts), LONG) for key, ts in ((b"a", 5), (b"b", 6))]
    )
    assert told(made) == [
        f"{file.name}: the value of key 61 at start_ts 5 is referred to by no record of "
        f"{write.name}",
        f"{file.name}: the value of key 62 at start_ts 6 is referred to by no record of "
        f"{write.name}",
        f"{write.name}: the value of key 62 at start_ts 5 is missing from {file.name}",
    ]


def test_values_without_any_file_are_missing_from_the_backup(made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10, None)])
    made.add("default", [(versioned_key(b"n", 5), LONG)], start_key=b"m")
    assert told(made) == [
        f"{made.files[0].name}: the value of key 61 at start_ts 5 is missing from the backup",
        f"{made.files[1].name}: the value of key 6E at start_ts 5 is referred to by no record of "
        "the backup",
    ]


@pytest.mark.parametrize("damaged", [0, 1])
def test_what_a_damaged_block_held_is_not_missed_elsewhere(damaged: int, made: MadeBackup) -> None:
    keys = [b"%05d" % i for i in range(2000)]
    lost = keys[1900]
    made.add("write", [put(key, 10, None) for key in keys if damaged or key != lost])
    made.add(
        "default",
        [
            (versioned_key(key, 5), random.Random(key).randbytes(300))
            for key in keys
            if not damaged or key != lost
        ],
    )
    path = made.folder / made.files[damaged].name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    found = [str(finding) for finding in made.check()]
    assert [text for text in found if lost.hex() in text.lower()] == found[2:]
    assert len(found) == 3
    assert "checksum is" in found[0]
    assert "SHA-256" in found[1]


def test_an_encrypted_file_is_told_and_the_others_are_checked(made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10, None)], cipher_iv=b"0" * 16)
    made.add("default", [(versioned_key(b"a", 6), LONG)], total_kvs=7, total_bytes=0, crc64xor=0)
    found = told(made)
    assert any(text.endswith("cannot be checked without its key") for text in found)
    assert any("counts 1 records, backupmeta says 7" in text for text in found)
    assert not any("is missing" in text for text in found)


@pytest.mark.parametrize("deep", [False, True])
def test_other_bytes_than_those_that_were_written_are_found(deep: bool, made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10)], sha256=b"x" * 32)
    made.add("write", [put(b"m", 10)], sha256=b"", start_key=b"m")
    made.add("write", [put(b"n", 10)], name="gone.sst", start_key=b"n")
    (made.folder / "gone.sst").unlink()
    assert told(made, deep=deep) == [
        f"{made.files[0].name}: its SHA-256 is not the one in backupmeta",
        f"{made.files[1].name}: backupmeta has no SHA-256 of it",
        "gone.sst: is missing",
    ]


def test_a_family_that_no_transactional_backup_has_is_told(made: MadeBackup) -> None:
    made.add("lock", [put(b"a", 10)])
    assert "column family 'lock' is none of a transactional backup" in told(made)[0]


def test_two_files_of_a_family_over_one_range_are_both_checked(made: MadeBackup) -> None:
    for _ in range(2):
        made.add("write", [put(b"a", 10, None)])
        made.add("default", [(versioned_key(b"a", 5), LONG)])
    assert [len(pair) for pair in pairs_of(made.files, is_raw=False)] == [2, 2]
    assert told(made) == []


def test_a_check_can_be_broken_off(made: MadeBackup) -> None:
    made.add("write", [put(b"%05d" % i, 10) for i in range(5000)])
    seen = 0

    def stop(kvs: int, plain_bytes: int) -> None:
        nonlocal seen
        seen += kvs
        raise CancelledError(2)

    with pytest.raises(CancelledError):
        PairCheck(made.backup_dir, made.files, is_raw=False, deep=True, advance=stop).run()
    assert 1024 <= seen < 2048


def test_the_real_backup_of_a_cluster_is_whole() -> None:
    shared = require_shared()
    files = list(files_of(shared, "br-raw-v5.2.1"))
    backup_dir = existing(shared, "br-raw-v5.2.1")
    assert check_files(backup_dir, files, is_raw=True) == []


@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_every_oracles_backup_is_whole(name: str, tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    for line in read_oracle(stores / f"{name}.oracle"):
        repository = tmp_path / f"{line.start_ts}-{line.end_ts}"
        backup(
            stores / name,
            repository,
            start_ts=line.start_ts,
            end_ts=line.end_ts,
            name="b",
            sst_max_size=100_000,
        )
        files = list(files_of(repository, "b"))
        assert check_files(existing(repository, "b"), files) == []


def test_a_bit_flipped_anywhere_in_a_file_is_found_by_its_content_alone(tmp_path: Path) -> None:
    store = require_shared() / "stores" / "mvcc-long"
    backup(store, tmp_path, end_ts=440000000001000000, name="b", sst_max_size=50_000)
    backup_dir = existing(tmp_path, "b")
    pairs = sorted(
        pairs_of(files_of(tmp_path, "b"), is_raw=False),
        key=lambda pair: sum(file.size for file in pair),
    )
    pair = list(next(pair for pair in pairs if len(pair) == 2))
    rng = random.Random(11)
    for _ in range(150):
        file = rng.choice(pair)
        with flipped(tmp_path / "b" / file.name, rng):
            found = check_files(backup_dir, pair)
            assert any(f.file == file.name and "SHA-256" in f.what for f in found)
            assert any(f.file == file.name and "SHA-256" not in f.what for f in found)
            assert check_files(backup_dir, pair, deep=False) != []
    assert check_files(backup_dir, pair) == []


@contextlib.contextmanager
def flipped(path: Path, rng: random.Random) -> Iterator[None]:
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(content)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reads=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)), max_size=20))
def test_a_hash_on_the_way_is_the_files_in_whatever_order_it_is_read(
    reads: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = random.Random(3).randbytes(5000)
    storage = LocalStorage(tmp_path)
    storage.write("x", content)
    with storage.open("x") as reader:
        hashing = HashingReader(reader)
        for offset, length in reads:
            assert hashing.read_at(offset, length) == content[offset : offset + length]
        assert hashing.digest() == hashlib.sha256(content).digest()
