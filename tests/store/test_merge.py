"""Merged runs are in the order of internal keys, whichever way their records were brought there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.strings import ByteStrings
from bkctl.sst.columns import Columns, decode_blocks
from bkctl.store.merge import merge
from tests.sst.table_builder import encode_block, internal

Record = tuple[bytes, int, bytes]
"""A user key, a sequence number, a value."""

# Zeros at their ends, and bytes that are negative where they are taken for signed ones.
widths = {
    "one width": st.lists(st.sampled_from([0, 1, 255]), min_size=4, max_size=4).map(bytes),
    "several": st.lists(st.sampled_from([0, 1, 255]), max_size=4).map(bytes),
}


def piece_of(records: list[Record]) -> Columns:
    ordered = sorted(records, key=lambda record: (record[0], -record[1]))
    return decode_blocks(
        [encode_block([(internal(key, 1, number), value) for key, number, value in ordered], 3)]
    )


def common(left: bytes, right: bytes) -> int:
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def assert_knows_what_is_common(strings: ByteStrings) -> None:
    pairs = list(pairwise(strings.tolist()))
    if strings.common is not None:
        assert strings.common[1:].tolist() == [common(*pair) for pair in pairs]
    assert strings.differs().tolist() == [a != b for a, b in pairs]


@pytest.mark.parametrize("kind", widths)
@given(data=st.data())
def test_merged_is_sorted(kind: str, data: st.DataObject) -> None:
    few = st.lists(widths[kind], min_size=1, max_size=6)
    many = st.lists(widths[kind], min_size=40, max_size=60, unique=data.draw(st.booleans()))
    keys = data.draw(st.tuples(many | few, few) | st.tuples(few, many, few))
    numbers = iter(data.draw(st.permutations(range(sum(map(len, keys))))))
    pieces = [
        [(key, n, b"%d" % n * (n % 3)) for key in piece for n in [next(numbers)]] for piece in keys
    ]
    records = [record for piece in pieces for record in piece]
    merged = merge([piece_of(piece) for piece in pieces])
    expected = sorted(records, key=lambda record: (record[0], -record[1]))
    assert merged.keys.tolist() == [key for key, _, _ in expected]
    assert [number >> 8 for number in merged.trailers.tolist()] == [n for _, n, _ in expected]
    assert merged.values.tolist() == [value for _, _, value in expected]
    assert_knows_what_is_common(merged.keys)
    rows = sorted(data.draw(st.sets(st.integers(0, len(records) - 1), min_size=1)))
    thinned = merged.keys.thinned(np.array(rows))
    assert thinned.tolist() == [expected[row][0] for row in rows]
    assert_knows_what_is_common(thinned)
