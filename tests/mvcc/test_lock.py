"""Locks: their fields, and which of them block a snapshot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.varint import encode_uvarint, encode_zigzag
from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import MAX_TS
from bkctl.mvcc.lock import parse_lock


def lock(
    kind: bytes = b"P", primary: bytes = b"pk", start_ts: int = 100, rest: bytes = b""
) -> bytes:
    ttl = encode_uvarint(3000)
    return kind + encode_zigzag(len(primary)) + primary + encode_uvarint(start_ts) + ttl + rest


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def test_all_fields_are_read_or_passed_over() -> None:
    rest = (
        b"v\x03abc"
        + b"f" + u64(7)
        + b"t" + u64(2)
        + b"c" + u64(120)
        + b"a\x02" + encode_zigzag(1) + b"x" + encode_zigzag(0)
        + b"r\x01" + u64(3)
        + b"l" + u64(5) + b"\x01"
        + b"s\x01" + b"F" + b"g" + u64(9)
    )  # fmt: skip
    parsed = parse_lock(lock(rest=rest))
    assert (parsed.primary, parsed.start_ts, parsed.ttl) == (b"pk", 100, 3000)
    assert (parsed.short_value, parsed.min_commit_ts) == (b"abc", 120)
    assert parsed.use_async_commit


@pytest.mark.parametrize(
    ("value", "end_ts", "blocked"),
    [
        (lock(), 100, True),
        (lock(), 99, False),
        (lock(b"D"), 100, True),
        (lock(b"L"), 100, False),
        (lock(b"S"), 100, False),
        (b"H whatever", 100, False),
        (lock(rest=b"c" + u64(101)), 100, False),
        (lock(rest=b"c" + u64(100)), 100, True),
        (lock(primary=b"key"), MAX_TS, False),
        (lock(primary=b"other"), MAX_TS, True),
        (lock(primary=b"key", rest=b"a\x00"), MAX_TS, True),
    ],
)
def test_which_locks_block_a_snapshot(value: bytes, end_ts: int, blocked: bool) -> None:
    assert parse_lock(value).blocks(b"key", end_ts) is blocked


@pytest.mark.parametrize(
    "value", [b"", b"X", b"P", b"P\x03a", lock()[:-1], lock(rest=b"v\x05a"), lock(rest=b"c\0")]
)
def test_cut_locks_are_corruption(value: bytes) -> None:
    with pytest.raises(CorruptionError):
        parse_lock(value)


def test_a_lock_may_end_before_its_ttl() -> None:
    assert (lock()[-2:], parse_lock(lock()[:-2]).ttl) == (encode_uvarint(3000), 0)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_corruption(value: bytes) -> None:
    try:
        parse_lock(value)
    except CorruptionError:
        return
