"""Write records read by columns are what they are one by one, down to the first damaged one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.memcomparable import encode
from bkctl.codec.strings import ByteStrings
from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.mvcc.batch import DamagedRecordError, Keys, Records, with_timestamps
from bkctl.mvcc.keys import MAX_TS, encode_ts, versioned_key
from bkctl.mvcc.write import WriteRecord, parse_write

timestamps = st.one_of(
    st.sampled_from([0, 1, 127, 128, 1 << 56, 1 << 63, MAX_TS]),
    st.integers(0, MAX_TS),
    st.integers(430_000_000_000_000_000, 460_000_000_000_000_000),
)
short_values = st.one_of(st.binary(max_size=8), st.sampled_from([254, 255]).map(bytes))
fields = st.one_of(
    short_values.map(lambda value: b"v" + bytes([len(value)]) + value),
    st.just(b"R"),
    timestamps.map(lambda ts: b"F" + ts.to_bytes(8, "big")),
    st.tuples(timestamps, timestamps).map(
        lambda last: b"l" + last[0].to_bytes(8, "big") + encode_uvarint(last[1])
    ),
    timestamps.map(lambda source: b"S" + encode_uvarint(source)),
    st.binary(min_size=1, max_size=3),
)
sound = st.builds(
    lambda kind, start_ts, optional: kind + encode_uvarint(start_ts) + b"".join(optional),
    st.sampled_from([b"P", b"P", b"D", b"L", b"R"]),
    timestamps,
    st.lists(fields, max_size=4),
)
cut = st.builds(lambda record, count: record[: len(record) - count], sound, st.integers(0, 12))
changed = st.builds(
    lambda record, at, byte: record[: at % len(record)] + byte + record[at % len(record) + 1 :],
    sound,
    st.integers(0, 40),
    st.binary(min_size=1, max_size=1),
)
garbage = st.builds(
    lambda kind, tail: kind + tail, st.sampled_from([b"P", b"D", b"?"]), st.binary()
)


def parsed(record: bytes) -> WriteRecord | str:
    try:
        return parse_write(record)
    except CorruptionError as e:
        return str(e)


def assert_reads_alike(values: list[bytes]) -> None:
    expected = list(map(parsed, values))
    bad = [i for i, record in enumerate(expected) if isinstance(record, str)]
    strings = ByteStrings.of(values)
    if bad:
        with pytest.raises(DamagedRecordError) as caught:
            Records.read(strings)
        # Types are looked at before all else.
        assert caught.value.row in bad
        assert str(caught.value) == expected[caught.value.row]
        return
    records = Records.read(strings)
    start_ts = records.start_ts(np.arange(len(values))).tolist()
    shorts = zip(records.short_starts.tolist(), records.short_lengths.tolist(), strict=True)
    for i, (at, length) in enumerate(shorts):
        record = expected[i]
        assert isinstance(record, WriteRecord)
        assert records.types[i] == record.write_type
        assert start_ts[i] == record.start_ts
        assert int(records.fences[i]) == (record.gc_fence or 0)
        found = None if length < 0 else records.data[at : at + length].tobytes()
        assert found == record.short_value


@given(st.lists(sound, min_size=1, max_size=20))
def test_records_with_any_fields_are_read_alike(values: list[bytes]) -> None:
    assert_reads_alike(values)


@given(st.lists(sound | cut | changed | garbage, min_size=1, max_size=12))
def test_damaged_records_are_found_alike(values: list[bytes]) -> None:
    assert_reads_alike(values)


@given(sound)
def test_a_record_cut_anywhere_is_read_alike(record: bytes) -> None:
    for end in {*range(min(len(record), 40)), *range(max(0, len(record) - 40), len(record))}:
        assert_reads_alike([record[:end]])
        assert_reads_alike([record[:end], record])


@given(st.lists(st.tuples(st.binary(max_size=20), timestamps), min_size=1, max_size=20))
def test_keys_give_their_timestamps_and_where_a_new_one_begins(
    versions: list[tuple[bytes, int]],
) -> None:
    versions.sort(key=lambda version: (encode(version[0]), -version[1]))
    keys = ByteStrings.of([versioned_key(*version) for version in versions])
    read = Keys.read(keys, b"z" + encode(b""))
    assert read.commit_ts.tolist() == [ts for _, ts in versions]
    before = [b"", *(key for key, _ in versions)]
    assert read.is_new.tolist() == [a != b for (a, _), b in zip(versions, before, strict=False)]
    others = np.arange(len(versions), dtype=np.uint64)
    assert with_timestamps(keys, others).tolist() == [
        versioned_key(key, 0)[:-8] + encode_ts(i) for i, (key, _) in enumerate(versions)
    ]


@pytest.mark.parametrize("short", [b"", b"z", b"z" + bytes(16)])
def test_a_key_without_room_for_a_timestamp_is_corruption(short: bytes) -> None:
    with pytest.raises(CorruptionError, match="no versioned key"):
        Keys.read(ByteStrings.of([short, versioned_key(b"k", 1)]), b"")
