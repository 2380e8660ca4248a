"""Checking records by columns gives what checking them one by one does, in any batches."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.backup_entries import (
    DefaultChecker,
    EntryChecker,
    RawChecker,
    References,
    WriteChecker,
    long_value_keys,
)
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import versioned_key

BOUNDS = EntryBounds(b"b", b"y", 10, 100)
Record = tuple[bytes, bytes]


def entry(
    raw_key: bytes, commit_ts: int, kind: bytes, start_ts: int, value: bytes | None
) -> Record:
    short = b"" if value is None else b"v" + bytes([len(value)]) + value
    return versioned_key(raw_key, commit_ts), kind + encode_uvarint(start_ts) + short


raw_keys = st.binary(max_size=12) | st.sampled_from([b"b", b"c", b"x", b"y", b"m" * 8])
entries = st.builds(
    entry,
    raw_keys,
    st.integers(5, 110),
    st.sampled_from([b"P", b"P", b"P", b"D", b"L", b"R", b"?"]),
    st.integers(0, 110),
    st.none() | st.binary(max_size=4),
)


def outcome(checker: EntryChecker, records: Sequence[Record], size: int) -> tuple[object, ...]:
    problems = []
    for start in range(0, len(records), size):
        batch = records[start : start + size]
        found = checker.check([key for key, _ in batch], [value for _, value in batch])
        problems += [(start + problem.row, problem.what) for problem in found]
    counted = checker.accounting
    return problems, counted.total_kvs, counted.total_bytes, counted.crc64xor


@given(st.lists(entries, min_size=1, max_size=40), st.integers(1, 40))
def test_batches_of_any_size_come_to_the_same(records: list[Record], size: int) -> None:
    records = sorted(dict(records).items())
    one_by_one = WriteChecker(BOUNDS)
    batched = WriteChecker(BOUNDS)
    assert outcome(batched, records, size) == outcome(one_by_one, records, 1)
    assert batched.references.agree(one_by_one.references)


@given(st.dictionaries(raw_keys, st.binary(max_size=4), min_size=1), st.integers(1, 20))
def test_so_do_values_and_raw_pairs(pairs: dict[bytes, bytes], size: int) -> None:
    values = sorted((versioned_key(key, 20), value) for key, value in pairs.items())
    default = DefaultChecker(BOUNDS), DefaultChecker(BOUNDS)
    assert outcome(default[0], values, size) == outcome(default[1], values, 1)
    raw = sorted((b"z" + key, value) for key, value in pairs.items())
    bounds = EntryBounds(b"b", b"y", 0, 0, is_raw=True)
    assert outcome(RawChecker(bounds), raw, size) == outcome(RawChecker(bounds), raw, 1)


def test_references_of_both_families_agree_exactly_where_they_fit() -> None:
    writes = [entry(b"k%d" % i, 50, b"P", 20 + i, None if i % 2 else b"v") for i in range(9)]
    values = [(versioned_key(b"k%d" % i, 20 + i), b"long") for i in range(9) if i % 2]
    write, default = WriteChecker(BOUNDS), DefaultChecker(BOUNDS)
    assert outcome(write, writes, 4)[0] == outcome(default, values, 3)[0] == []
    assert write.references.agree(default.references)
    default.references.add([versioned_key(b"l", 20)])
    assert not write.references.agree(default.references)
    assert References().agree(References())
    assert long_value_keys(*zip(*writes, strict=True)) == [key for key, _ in values]


def test_a_value_from_after_the_backup_is_refused() -> None:
    checker = DefaultChecker(BOUNDS)
    [problem] = checker.check([versioned_key(b"k", 101)], [b"v"])
    assert problem.what == "the record of key 6B has start_ts 101, after 100"


def test_records_that_cannot_be_read_refer_to_nothing() -> None:
    assert long_value_keys([versioned_key(b"k", 1)] * 3, [b"", b"X\x05", b"D\x05"]) == []
