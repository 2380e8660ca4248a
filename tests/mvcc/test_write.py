"""Write records, by the published vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.mvcc.write import DELETE, LOCK, PUT, ROLLBACK, parse_write


def test_a_put_with_a_short_value() -> None:
    record = parse_write(bytes.fromhex("50057603616263"))
    assert (record.write_type, record.start_ts, record.short_value) == (PUT, 5, b"abc")
    assert record.short_value_at == 4


def test_a_delete() -> None:
    record = parse_write(bytes.fromhex("44AC02"))
    assert (record.write_type, record.start_ts, record.short_value) == (DELETE, 300, None)


def test_a_protected_rollback() -> None:
    record = parse_write(bytes.fromhex("5202760170"))
    assert (record.write_type, record.start_ts, record.short_value) == (ROLLBACK, 2, b"p")


def test_an_overlapped_put_with_an_empty_fence() -> None:
    record = parse_write(bytes.fromhex("50015246") + bytes(8))
    assert record.has_overlapped_rollback
    assert record.gc_fence == 0
    assert not record.collected_at(1 << 60)


@pytest.mark.parametrize(
    ("fence", "end_ts", "gone"), [(10, 9, False), (10, 10, True), (0, 9, False)]
)
def test_a_fence_hides_a_version_from_readers_at_or_after_it(
    fence: int, end_ts: int, gone: bool
) -> None:
    assert parse_write(b"P\x01RF" + fence.to_bytes(8, "big")).collected_at(end_ts) is gone


def test_newer_fields_are_passed_over() -> None:
    value = b"L\x07l" + bytes(7) + b"\x05" + b"\x03" + b"S\x02" + b"\x99unknown"
    record = parse_write(value)
    assert (record.write_type, record.start_ts) == (LOCK, 7)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"X\x01",
        b"P",
        b"P\x80",
        b"P\x01v",
        b"P\x01v\x05abc",
        b"P\x01F\0\0",
        b"P\x01l\0",
        b"P\x01S",
    ],
)
def test_cut_records_are_corruption(value: bytes) -> None:
    with pytest.raises(CorruptionError):
        parse_write(value)


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_corruption(value: bytes) -> None:
    try:
        parse_write(value)
    except CorruptionError:
        return


@given(st.sampled_from(b"PD"), st.integers(0, 2**64 - 1), st.binary(max_size=255))
def test_what_is_written_is_read(kind: int, start_ts: int, short: bytes) -> None:
    record = parse_write(
        bytes([kind]) + encode_uvarint(start_ts) + b"v" + bytes([len(short)]) + short
    )
    assert (record.write_type, record.start_ts, record.short_value) == (kind, start_ts, short)
