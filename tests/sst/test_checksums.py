from __future__ import annotations

import pytest
import xxhash

from bkctl.sst.checksums import ChecksumType, context_modifier, stored_checksum


def test_crc32c_is_stored_masked() -> None:
    # CRC-32C("123456789") is E3069283 (the check value of its catalogue entry).
    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert stored_checksum(ChecksumType.CRC32C, b"123456789") == masked


def test_xx_hashes_of_nothing_are_their_published_values() -> None:
    assert stored_checksum(ChecksumType.XXHASH, b"") == 0x02CC5D05
    assert stored_checksum(ChecksumType.XXHASH64, b"") == 0x51D8E999  # of EF46DB3751D8E999


def test_xxh3_hashes_all_but_the_last_byte_and_mixes_that_in() -> None:
    plain = xxhash.xxh3_64_intdigest(b"block") & 0xFFFFFFFF
    assert stored_checksum(ChecksumType.XXH3, b"block\0") == plain
    assert stored_checksum(ChecksumType.XXH3, b"block\1") == plain ^ 0x6B9083D9
    assert stored_checksum(ChecksumType.XXH3, b"") == 0


def test_no_checksum_is_zero() -> None:
    assert stored_checksum(ChecksumType.NONE, b"anything") == 0


@pytest.mark.parametrize("checksum_type", list(ChecksumType))
def test_a_view_gives_what_the_bytes_give(checksum_type: ChecksumType) -> None:
    content = bytes(range(256))
    view = memoryview(content + b"more")[:-4]
    assert stored_checksum(checksum_type, view) == stored_checksum(checksum_type, content)


def test_the_context_modifier_folds_both_halves_of_the_offset() -> None:
    assert context_modifier(0, 12345) == 0
    assert context_modifier(0xFF, 0) == 0xFF
    assert context_modifier(0xF0, 0x0F) == 0xFF
    assert context_modifier(1, (2 << 32) + 4) == 1 ^ 6
    assert context_modifier(1, (1 << 32) + 0xFFFFFFFF) == 1
