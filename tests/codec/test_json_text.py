"""JSON that anyone may have written: read as `json` reads it, and never more than it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.json_text import RawList, loads, read_members
from bkctl.codec.stream import ByteStream

SCALARS = st.none() | st.booleans() | st.integers(0, 1 << 64) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def members(data: bytes, list_bytes: int = 1 << 20, piece: int = 1 << 20) -> dict[str, Any]:
    """The members of an object that comes in pieces, lists as lists."""

    def read_at(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    stream = ByteStream(read_at, 0, len(data), piece_size=piece)
    return {
        name: list(value.values()) if isinstance(value, RawList) else value
        for name, value in read_members(stream, list_bytes)
    }


@given(st.dictionaries(st.text(max_size=9), VALUES), st.sampled_from([None, 2]), st.integers(1, 9))
def test_an_object_is_what_json_reads(
    document: dict[str, Any], indent: int | None, piece: int
) -> None:
    for ascii_only in (True, False):
        data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
        assert members(data, piece=piece) == document


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', '{"a":}', '{"a" 1}',
        '{"a":[1}', '{"a":[1,]}', '{"a":[,1]}', '{"a":[1 2]}', '{"a":1} x', "{1:2}", '{"a":"}',
        '{"a":{"b":1,}}', '{"a":[{"b"]}', '{"a":tru}', '{"a":]', '{"a":[{]}]}',
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        members(text.encode())


@given(st.binary(max_size=40))
def test_bytes_are_taken_or_refused_as_json_does(data: bytes) -> None:
    data = b'{"a":' + data + b"}"
    try:
        expected = json.loads(data)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            members(data)
    else:
        assert isinstance(members(data), dict)
        assert set(expected) == set(members(data))


def test_long_lists_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bkctl.codec.json_text.MAX_ENTRIES", 100)
    data = b'{"long": [%s, 7], "short": [1, 2, 3], "n": 1}' % b", ".join([b"{}"] * 500)
    assert members(data, 100) == {"long": [], "short": [1, 2, 3], "n": 1}
    with pytest.raises(ValueError, match="more than 100 entries"):
        members(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' + "[" * 100_000,
        '{"a":' + '{"a":' * 100_000,
        '{"a":' + "9" * 10_000 + "}",
        '{"a":"' + "x" * (3 << 20),
        '{"a":"' + "x" * (3 << 20) + '"}',
        '{"a":{"b":[' + "1," * 200_000 + "1]}}",
        "{" + ",".join(f'"{n}":1' for n in range(2000)) + "}",
    ],
    ids=["lists", "objects", "digits", "open text", "text", "values", "members"],
)
def test_what_is_too_deep_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        members(text.encode())


def test_a_document_has_as_many_values_as_it_may() -> None:
    assert loads(b"[1, 2, 3]", 3) == [1, 2, 3]
    with pytest.raises(ValueError, match="4 values, more than the 3"):
        loads(b"[1, 2, 3, 4]", 3)
    with pytest.raises(ValueError, match="nested"):
        loads(b"[" * 90_000)
