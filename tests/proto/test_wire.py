"""Messages gone through field by field: what protobuf reads, and nothing of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.stream import ByteStream, read_bytes
from bkctl.errors import CorruptionError
from bkctl.proto import backup_pb2, wire

FILES = st.lists(st.text(max_size=30), max_size=5)


def walked(data: bytes, piece: int = 1 << 20) -> bytes:
    """The same message, put together again of its fields."""
    stream = ByteStream(read_bytes(data), 0, len(data), piece_size=piece)
    again = b""
    for field in wire.fields(stream, len(data)):
        again += field.encoded + (stream.take(field.size) if field.is_bytes else b"")
    return again


@given(FILES, st.integers(0, (1 << 64) - 1), st.booleans(), st.integers(1, 20))
def test_fields_are_those_of_the_message(
    names: list[str], end_version: int, is_raw: bool, piece: int
) -> None:
    message = backup_pb2.BackupMeta(end_version=end_version, is_raw_kv=is_raw)
    for name in names:
        message.files.add(name=name)
    data = message.SerializeToString()
    assert walked(data, piece) == data


def test_fields_that_nobody_takes_are_passed_over() -> None:
    message = backup_pb2.BackupMeta(end_version=7, files=[backup_pb2.File(name="a" * 5000)])
    data = message.SerializeToString()
    stream = ByteStream(read_bytes(data), 0, len(data), piece_size=16)
    assert [field.number for field in wire.fields(stream, len(data))] == [4, 6]
    assert stream.position == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x22\x05abcd",  # longer than the message
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x08",  # no value
        b"\x09\x01",  # eight bytes, cut
        b"\x0d\x01",
        b"\x0b\x0c",  # a group
        b"\x00\x01",  # number 0
        b"\x0f",  # no such kind
        b"\x80" * 11,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        walked(data)
