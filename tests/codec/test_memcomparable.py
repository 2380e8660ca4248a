import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.memcomparable import decode, encode
from bkctl.errors import CorruptionError

VECTORS = [
    ("", "0000000000000000F7"),
    ("00", "0000000000000000F8"),
    ("010203", "0102030000000000FA"),
    ("01020300", "0102030000000000FB"),
    ("0000000000000000", "0000000000000000FF0000000000000000F7"),
    ("010203040506070809", "0102030405060708FF0900000000000000F8"),
]


@pytest.mark.parametrize(("raw", "encoded"), VECTORS)
def test_published_vectors_hold_both_ways(raw: str, encoded: str) -> None:
    assert encode(bytes.fromhex(raw)).hex().upper() == encoded
    assert decode(bytes.fromhex(encoded)).hex() == raw


@given(st.binary(max_size=40))
def test_decode_undoes_encode(raw_key: bytes) -> None:
    assert decode(encode(raw_key)) == raw_key


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=9))
def test_order_is_kept_whatever_follows(one: bytes, other: bytes, suffix: bytes) -> None:
    if one < other:
        assert encode(one) + suffix < encode(other)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "no last group"),
        ("0102030405060708FF", "no last group"),
        ("01020304", "a cut group"),
        ("0102030405060708FF0102", "a cut group"),
        ("0000000000000000F6", "a bad marker"),
        ("000000000000000000", "a bad marker"),
        ("0102030000000001FA", "padding that is not zero"),
        ("0000000000000001F7", "padding that is not zero"),
        ("0102030000000000FA00", "bytes behind its end"),
        ("0102030000000000FA0102030000000000FA", "bytes behind its end"),
    ],
)
def test_what_is_not_one_whole_encoding_is_refused(encoded: str, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        decode(bytes.fromhex(encoded))


@given(st.binary(max_size=40))
def test_whatever_decodes_is_the_only_encoding_of_its_key(encoded_key: bytes) -> None:
    try:
        raw_key = decode(encoded_key)
    except CorruptionError:
        return
    assert encode(raw_key) == encoded_key
