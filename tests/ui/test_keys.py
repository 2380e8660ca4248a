import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.commands.options import KeyFormat, parse_key
from bkctl.ui.keys import describe_key, escape_key, shorten_middle

SIGN_BIT = 1 << 63


def number(value: int) -> bytes:
    return (value + SIGN_BIT).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("raw_key", "text"),
    [
        (b"t" + number(100), "t100"),
        (b"t" + number(100) + b"_r", "t100_r"),
        (b"t" + number(100) + b"_r" + number(500), "t100_r500"),
        (b"t" + number(100) + b"_r" + number(-3), "t100_r-3"),
        (b"t" + number(100) + b"_r" + number(500) + b"\0", "t100_r500_00"),
        (b"t" + number(100) + b"_r" + b"\x01ab", "t100_r_016162"),
        (b"t" + number(100) + b"_i" + number(2), "t100_i2"),
        (b"t" + number(100) + b"_i" + number(2) + b"\x03\x80", "t100_i2_0380"),
        (b"t" + number(100) + b"_i\x80", "t100_i_80"),
    ],
)
def test_keys_of_tidb_are_named(raw_key: bytes, text: str) -> None:
    assert describe_key(raw_key) == text


@pytest.mark.parametrize(
    "raw_key", [b"test_something_else", b"t" + number(-5), b"t" + number(100) + b"zzz", b"t100"]
)
def test_other_keys_that_begin_with_t_are_text(raw_key: bytes) -> None:
    assert describe_key(raw_key) == escape_key(raw_key)


def test_unprintable_bytes_are_escaped() -> None:
    assert describe_key(b"a b\\\n\x00\xff") == "a b\\\\\\n\\x00\\xff"


def test_a_missing_bound_has_its_word() -> None:
    assert describe_key(b"", "(end)") == "(end)"


@given(st.binary(max_size=40))
def test_escaped_text_is_printable_and_can_be_given_back(raw_key: bytes) -> None:
    text = escape_key(raw_key)
    assert text.isascii()
    assert text.isprintable()
    assert parse_key(text, KeyFormat.ESCAPED) == raw_key


@given(st.binary(max_size=60))
def test_every_key_is_described_in_one_printable_line(raw_key: bytes) -> None:
    assert describe_key(raw_key, "-").isprintable()


@given(st.text(max_size=40), st.integers(2, 50))
def test_shortening_keeps_both_ends(text: str, width: int) -> None:
    short = shorten_middle(text, width)
    assert len(short) == min(len(text), width)
    if short != text:
        head, tail = short.split("…")[0], short.rsplit("…", 1)[-1]
        assert text.startswith(head)
        assert text.endswith(tail)


def test_shortening_without_a_limit_changes_nothing() -> None:
    assert shorten_middle("abcdef", 0) == "abcdef"
    assert shorten_middle("abcdef", 5) == "ab…ef"
