"""Columns of byte strings do what lists of them do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.strings import ByteStrings, gather

awkward = st.sampled_from([b"", b"\0", b"a", b"a\0", b"a\0\0", b"\xff", b"ab"])
lists = st.one_of(
    st.lists(awkward | st.binary(max_size=12), max_size=12),
    st.integers(0, 5).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), max_size=12)),
)


def column_of(strings: list[bytes], *, strided: bool) -> ByteStrings:
    """The strings one behind the other, or at equal distances."""
    if not strided:
        return ByteStrings.of(strings)
    stride = max(map(len, strings), default=0) + 2
    data = b"".join(string.ljust(stride, b"\xee") for string in strings)
    lengths = np.array([len(string) for string in strings], np.int64)
    starts = np.arange(len(strings)) * stride
    return ByteStrings(np.frombuffer(data, np.uint8), starts, lengths, stride=stride)


@given(lists, st.booleans(), st.data())
def test_strings_come_back_as_they_were(
    strings: list[bytes], strided: bool, data: st.DataObject
) -> None:
    column = column_of(strings, strided=strided)
    assert len(column) == len(strings)
    assert column.tolist() == strings
    assert [column[i] for i in range(len(strings))] == strings
    start = data.draw(st.integers(0, len(strings)))
    assert column.slice(start, len(strings)).tolist() == strings[start:]
    index = data.draw(st.lists(st.sampled_from(range(len(strings))))) if strings else []
    taken = column.take(np.array(index, np.int64))
    assert taken.tolist() == [strings[i] for i in index]
    assert [row.tobytes() for row in taken.padded()] == [
        strings[i].ljust(max((len(strings[i]) for i in index), default=0), b"\0") for i in index
    ]


@given(lists, st.booleans())
def test_neighbours_compare_as_bytes_do(strings: list[bytes], strided: bool) -> None:
    column = column_of(strings, strided=strided)
    pairs = list(itertools.pairwise(strings))
    assert column.ascends().tolist() == [a < b for a, b in pairs]
    assert column.differs().tolist() == [a != b for a, b in pairs]
    for before in (None, b"", b"a"):
        expected = [a != b for a, b in zip([before, *strings], strings, strict=False)]
        assert column.differs_from_previous(before).tolist() == expected


@given(st.lists(st.binary(min_size=4, max_size=9), max_size=9), st.booleans())
def test_heads_and_tails(strings: list[bytes], strided: bool) -> None:
    column = column_of(strings, strided=strided)
    inner = [string[1:-3] for string in strings]
    assert column.trimmed(1, 3).tolist() == inner
    differs = [a != b for a, b in itertools.pairwise(inner)]
    assert column.trimmed(1, 3).differs().tolist() == differs
    assert [row.tobytes() for row in column.last(4)] == [string[-4:] for string in strings]


def test_nothing_is_read_past_the_end() -> None:
    data = np.arange(10, dtype=np.uint8)
    assert gather(data, np.array([0, 6]), 4).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    for offset, size in ((7, 4), (0, 11)):
        with pytest.raises(IndexError):
            gather(data, np.array([offset]), size)
