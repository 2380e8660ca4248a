import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec.varint import decode_uvarint, decode_zigzag, encode_uvarint, encode_zigzag
from bkctl.errors import CorruptionError

MAX_U64 = (1 << 64) - 1


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (MAX_U64, "ffffffffffffffffff01"),
    ],
)
def test_known_encodings(number: int, encoded: str) -> None:
    assert encode_uvarint(number).hex() == encoded
    assert decode_uvarint(bytes.fromhex(encoded), 0) == (number, len(encoded) // 2)


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, "00"), (-1, "01"), (1, "02"), (-2, "03"), (-(1 << 63), "ffffffffffffffffff01")],
)
def test_known_zigzag_encodings(number: int, encoded: str) -> None:
    assert encode_zigzag(number).hex() == encoded
    assert decode_zigzag(bytes.fromhex(encoded), 0) == (number, len(encoded) // 2)


@given(st.integers(0, MAX_U64), st.binary(max_size=3), st.binary(max_size=3))
def test_decoding_starts_and_ends_where_the_number_does(
    number: int, before: bytes, behind: bytes
) -> None:
    encoded = encode_uvarint(number)
    buf = before + encoded + behind
    assert decode_uvarint(buf, len(before)) == (number, len(before) + len(encoded))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_zigzag_round_trip(number: int) -> None:
    encoded = encode_zigzag(number)
    assert decode_zigzag(encoded, 0) == (number, len(encoded))


@pytest.mark.parametrize("encoded", ["", "80", "ffff", "ffffffffffffffffff"])
def test_a_cut_varint_is_refused(encoded: str) -> None:
    with pytest.raises(CorruptionError, match="cut short"):
        decode_uvarint(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("encoded", ["ffffffffffffffffff02", "8080808080808080808001"])
def test_more_than_64_bits_are_refused(encoded: str) -> None:
    with pytest.raises(CorruptionError, match="longer than 64 bits"):
        decode_uvarint(bytes.fromhex(encoded), 0)
