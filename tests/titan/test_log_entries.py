"""Blob indexes in write batches are found among all kinds of entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.titan.log_entries import with_marked_indexes
from tests.titan.blob_writer import index, string, varint

HEAD = bytes(8) + (5).to_bytes(4, "little")
strings = st.binary(max_size=200).map(string)
families = st.integers(0, 300).map(varint)
others = st.one_of(
    st.tuples(st.sampled_from([b"\0", b"\3", b"\7"]), strings),
    st.tuples(st.sampled_from([b"\4", b"\x08"]), families, strings),
    st.tuples(st.sampled_from([b"\1", b"\2", b"\x0f"]), strings, strings),
    st.tuples(st.sampled_from([b"\5", b"\6", b"\x0e"]), families, strings, strings),
    st.just((b"\x0d",)),
).map(b"".join)
moved = st.one_of(
    st.tuples(st.just(b"\x11"), strings),
    st.tuples(st.just(b"\x10"), families, strings),
).map(b"".join)
INDEX = index(7, 1000, 5000)


@given(st.lists(st.one_of(others, moved.map(lambda head: (head,)))))
def test_types_of_blob_indexes_are_set_to_0(entries: list[bytes | tuple[bytes]]) -> None:
    given_ = [e if isinstance(e, bytes) else e[0] + string(INDEX) for e in entries]
    expected = [e if isinstance(e, bytes) else e[0] + string(b"\0" + INDEX[1:]) for e in entries]
    has_any = any(isinstance(e, tuple) for e in entries)
    found = with_marked_indexes(HEAD + b"".join(given_))
    assert found == (HEAD + b"".join(expected) if has_any else None)


@pytest.mark.parametrize("kind", [0, 2, 255])
def test_an_index_of_another_type_is_refused(kind: int) -> None:
    batch = HEAD + b"\x11" + string(b"key") + string(bytes([kind]) + INDEX[1:])
    with pytest.raises(CorruptionError, match=f"of the unknown type {kind}"):
        with_marked_indexes(batch)


@pytest.mark.parametrize("tail", [b"\x63", b"\1\x05ab", b"\x11\x01k\x09\1\1", b"\x11\x80"])
def test_what_cannot_be_parsed_is_left_to_rocksdb(tail: bytes) -> None:
    whole = HEAD + b"\1" + string(b"\x11") + string(b"v")
    assert with_marked_indexes(whole + tail) is None
