"""Accounting by columns equals accounting record by record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.crc64 import Crc64Xor, crc64
from bkctl.codec.memcomparable import encode
from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting

CHECK = 0x995DC9BBDF1939FA


def plain_crc64(data: bytes) -> int:
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xC96C5795D7870F42 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


def test_the_check_value() -> None:
    assert crc64(b"123456789") == plain_crc64(b"123456789") == CHECK


@given(st.lists(st.binary(max_size=40)))
def test_the_xor_of_checksums_without_a_checksum_each(messages: list[bytes]) -> None:
    total = Crc64Xor()
    expected = 0
    for message in messages:
        total.add(message)
        expected ^= plain_crc64(message)
    assert total.digest() == expected


@given(st.integers(0, 20), st.integers(0, 30), st.integers(1, 20), st.randoms())
def test_rows_count_as_their_records_do(key_size: int, value_size: int, count: int, random) -> None:  # type: ignore[no-untyped-def]
    keys = [encode(random.randbytes(key_size)) for _ in range(count)]
    values = [random.randbytes(value_size) for _ in range(count)]
    rows, singly = Accounting(), Accounting()
    rows.add_entries(ByteStrings.of(keys), ByteStrings.of(values))
    for key, value in zip(keys, values, strict=True):
        singly.add_one(key, value)
    assert (rows.total_kvs, rows.total_bytes, rows.crc64xor) == (
        singly.total_kvs,
        singly.total_bytes,
        singly.crc64xor,
    )


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=30))
def test_raw_records_count_without_their_prefix(records: list[tuple[bytes, bytes]]) -> None:
    accounting = Accounting()
    if records:
        keys = ByteStrings.of([b"z" + key for key, _ in records])
        accounting.add_raw(keys, ByteStrings.of([value for _, value in records]))
    expected = 0
    for key, value in records:
        expected ^= plain_crc64(key + value)
    assert accounting.crc64xor == expected
    assert accounting.total_bytes == sum(len(key) + len(value) for key, value in records)


@pytest.mark.parametrize("at", [8, 17, 16])
def test_a_damaged_marker_or_padding_is_corruption(at: int) -> None:
    keys = [bytearray(encode(b"k%08d" % i)) for i in range(10)]
    keys[3][at] ^= 0x15 if at != 16 else 0xFF
    with pytest.raises(CorruptionError):
        Accounting().add_entries(ByteStrings.of(list(map(bytes, keys))), ByteStrings.of([b""] * 10))


entries = st.tuples(
    st.binary(max_size=26) | st.integers(0, 26).map(bytes),
    st.binary(max_size=20) | st.integers(0, 70).map(lambda n: b"v" * (n * n)),
)


@given(st.lists(entries, max_size=60))
def test_entries_of_any_lengths_count_as_one_by_one(records: list[tuple[bytes, bytes]]) -> None:
    columns, singly = Accounting(), Accounting()
    keys = [encode(key) for key, _ in records]
    columns.add_entries(ByteStrings.of(keys), ByteStrings.of([value for _, value in records]))
    for key, (_, value) in zip(keys, records, strict=True):
        singly.add_one(key, value)
    assert (columns.total_kvs, columns.total_bytes, columns.crc64xor) == (
        singly.total_kvs,
        singly.total_bytes,
        singly.crc64xor,
    )


@given(st.lists(st.binary(max_size=20).map(encode), min_size=1, max_size=9), st.data())
def test_a_key_that_cannot_be_decoded_is_corruption(keys: list[bytes], data: st.DataObject) -> None:
    """One byte of one key is changed: it counts as it decodes, or not at all."""
    row = data.draw(st.integers(0, len(keys) - 1))
    changed = bytearray(keys[row])
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    keys[row] = bytes(changed)
    singly, columns = Accounting(), Accounting()
    strings = ByteStrings.of(keys)
    try:
        for key in keys:
            singly.add_one(key, b"")
    except CorruptionError:
        with pytest.raises(CorruptionError):
            columns.add_entries(strings, ByteStrings.of([b""] * len(keys)))
    else:
        columns.add_entries(strings, ByteStrings.of([b""] * len(keys)))
        assert columns.crc64xor == singly.crc64xor
