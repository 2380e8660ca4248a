from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.sst.checksums import ChecksumType
from bkctl.sst.format import FOOTER_SIZE, BlockHandle, decode_handle, parse_footer
from tests.sst.table_builder import LEGACY_MAGIC, MAGIC, varints

# The footer of a file of 1,066 bytes that RocksDB 10.4.2 wrote in format 6 with xxh3.
FORMAT_6 = bytes.fromhex(
    "04 3e007a00 5fb75211 a3b90b67 36000000" + "00" * 24 + "06000000 f7cff485b741e288"
)


def footer(handles: bytes, version: int = 5, checksum: int = 1) -> bytes:
    return bytes([checksum]) + handles.ljust(40, b"\0") + struct.pack("<I", version) + MAGIC


def test_formats_1_to_5_hold_two_handles() -> None:
    for version in range(1, 6):
        parsed = parse_footer(footer(varints(700, 50, 600, 95), version), 1000)
        assert parsed.format_version == version
        assert parsed.offset == 1000 - FOOTER_SIZE
        assert parsed.checksum_type is ChecksumType.CRC32C
        assert parsed.metaindex == BlockHandle(700, 50)
        assert parsed.index == BlockHandle(600, 95)
        assert parsed.flaws == ()


def test_the_legacy_magic_number_means_format_0_and_crc32c() -> None:
    tail = b"x" * 5 + varints(700, 50, 600, 95).ljust(40, b"\0") + LEGACY_MAGIC
    parsed = parse_footer(tail, 1000)
    assert (parsed.format_version, parsed.offset) == (0, 952)
    assert parsed.checksum_type is ChecksumType.CRC32C
    assert parsed.index == BlockHandle(600, 95)


def test_format_6_holds_a_checksum_and_the_size_of_the_metaindex() -> None:
    parsed = parse_footer(FORMAT_6, 1066)
    assert parsed.format_version == 6
    assert parsed.metaindex == BlockHandle(1013 - 5 - 54, 54)
    assert parsed.index is None
    assert parsed.base_context == 0x670BB9A3


def test_every_bit_of_a_format_6_footer_is_covered() -> None:
    for bit in range(8 * len(FORMAT_6)):
        flipped = bytearray(FORMAT_6)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            flaws = parse_footer(bytes(flipped), 1066).flaws
        except CorruptionError:
            continue
        # Only where it now claims to be of an older format.
        assert flaws


def test_a_format_6_footer_is_bound_to_its_place() -> None:
    with pytest.raises(CorruptionError, match="checksum"):
        parse_footer(FORMAT_6, 1067)


def test_padding_and_overlong_varints_are_flaws_of_a_readable_footer() -> None:
    handles = varints(700, 50, 600, 95)
    assert parse_footer(footer(handles.ljust(39, b"\0") + b"\1"), 1000).flaws
    overlong = handles[:-1] + bytes([handles[-1] | 0x80, 0])
    parsed = parse_footer(footer(overlong), 1000)
    assert parsed.index == BlockHandle(600, 95)
    assert len(parsed.flaws) == 1


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        MAGIC,
        b"\0" * 10 + MAGIC,
        b"\0" * 30 + LEGACY_MAGIC,
        footer(varints(700, 50, 600, 95), 0),
        footer(varints(700, 50, 600, 95), 7),
        footer(varints(700, 50, 600, 95), 5, 9),
        footer(varints(700, 243, 600, 95)),
        footer(varints(700, 50, 1 << 63, 95)),
        footer(b"\xff" * 40),
        footer(varints(700, 50, 600, 95))[:-1] + b"\0",
    ],
)
def test_what_is_no_footer_is_corruption(tail: bytes) -> None:
    with pytest.raises(CorruptionError):
        parse_footer(tail, 1000 if len(tail) == FOOTER_SIZE else len(tail))


@given(st.binary(min_size=53, max_size=53), st.integers(0, 8), st.integers(53, 1 << 62))
def test_random_footers_give_handles_inside_the_file_or_corruption(
    raw: bytes, version: int, size: int
) -> None:
    for tail in (raw[:-8] + LEGACY_MAGIC, raw[:-12] + struct.pack("<I", version) + MAGIC):
        try:
            parsed = parse_footer(tail, size)
        except CorruptionError:
            continue
        assert parsed.metaindex.end <= parsed.offset
        assert parsed.index is None or parsed.index.end <= parsed.offset


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_handles_are_two_varints(offset: int, size: int) -> None:
    encoded = varints(offset, size)
    assert decode_handle(b"x" + encoded, 1) == (BlockHandle(offset, size), 1 + len(encoded))
