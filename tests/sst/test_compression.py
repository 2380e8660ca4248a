from __future__ import annotations

import bz2
import zlib

import lz4.block
import pytest
import snappy
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.sst import compression
from bkctl.sst.compression import Decompressor
from tests.sst.table_builder import pack, varints

PLAIN = b"some text, some text, some more text; " * 40
LIMIT = 1 << 20
CODECS = [compression.SNAPPY, 2, 3, 4, 5, 7]


def compressed(codec: int, plain: bytes = PLAIN, declared: int | None = None) -> bytes:
    size = varints(len(plain) if declared is None else declared)
    if codec == compression.SNAPPY:
        raw = bytes(snappy.compress(plain))
        return raw if declared is None else size + raw[len(varints(len(plain))) :]
    if codec == compression.ZSTD:
        return size + zstandard.ZstdCompressor().compress(plain)
    return size + pack(codec, plain, 1)[8 if codec in (4, 5) else 0 :]


@pytest.mark.parametrize("codec", CODECS)
def test_a_payload_comes_back_plain(codec: int) -> None:
    assert Decompressor(2).decompress(codec, compressed(codec), LIMIT) == PLAIN
    assert Decompressor(2).decompress(codec, memoryview(compressed(codec)), LIMIT) == PLAIN


@pytest.mark.parametrize("codec", [0, 2, 3, 4, 5])
def test_old_formats_without_a_declared_size_come_back_plain(codec: int) -> None:
    assert Decompressor(1).decompress(codec, pack(codec, PLAIN, 1), LIMIT) == PLAIN


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [len(PLAIN) - 1, len(PLAIN) + 1, 0])
def test_a_false_declared_size_is_corruption(codec: int, size: int) -> None:
    with pytest.raises(CorruptionError):
        Decompressor(2).decompress(codec, compressed(codec, declared=size), LIMIT)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_a_declared_size_over_the_limit_is_refused_before_memory_is_taken(
    codec: int, size: int
) -> None:
    with pytest.raises(CorruptionError, match="over the limit"):
        Decompressor(2).decompress(codec, compressed(codec, declared=size), LIMIT)


@pytest.mark.parametrize("codec", [2, 3])
def test_a_stream_of_unsaid_size_ends_at_the_limit(codec: int) -> None:
    bomb = pack(codec, bytes(LIMIT + 1), 1)
    with pytest.raises(CorruptionError, match="more than"):
        Decompressor(1).decompress(codec, bomb, LIMIT)
    assert Decompressor(1).decompress(codec, bomb, LIMIT + 1) == bytes(LIMIT + 1)


def test_a_zstd_frame_that_declares_more_than_its_block_is_refused() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(LIMIT * 4))
    with pytest.raises(CorruptionError, match="its frame"):
        Decompressor(5).decompress(compression.ZSTD, varints(100) + frame, LIMIT)


def test_a_zstd_frame_of_unsaid_size_is_read_within_the_declared_one() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN)
    payload = varints(len(PLAIN)) + frame
    assert Decompressor(5).decompress(compression.ZSTD, payload, LIMIT) == PLAIN
    with pytest.raises(CorruptionError):
        Decompressor(5).decompress(compression.ZSTD, varints(10) + frame, LIMIT)


@pytest.mark.parametrize("codec", [2, 3, 7])
def test_bytes_behind_a_stream_are_corruption(codec: int) -> None:
    with pytest.raises(CorruptionError):
        Decompressor(2).decompress(codec, compressed(codec) + b"more", LIMIT)


def test_xpress_and_unknown_codecs_are_refused_by_name() -> None:
    with pytest.raises(CorruptionError, match="xpress"):
        Decompressor(5).decompress(compression.XPRESS, b"", LIMIT)
    with pytest.raises(CorruptionError, match="0x2a"):
        Decompressor(5).decompress(42, b"", LIMIT)


def test_dictionaries_are_used() -> None:
    dictionary = b"words that many blocks have in common, such as these; " * 20
    plain = b"these; words that many blocks have in common, and others"
    trained = zstandard.ZstdCompressionDict(dictionary)
    zstd = zstandard.ZstdCompressor(dict_data=trained).compress(plain)
    stream = zlib.compressobj(wbits=-14, zdict=dictionary)
    payloads = {
        compression.ZSTD: zstd,
        compression.ZLIB: stream.compress(plain) + stream.flush(),
        compression.LZ4: lz4.block.compress(plain, store_size=False, dict=dictionary),
    }
    codec = Decompressor(5, dictionary)
    for kind, payload in payloads.items():
        assert codec.decompress(kind, varints(len(plain)) + payload, LIMIT) == plain


@given(st.sampled_from([0, *CODECS, 6, 0x40, 99]), st.integers(0, 6), st.binary(max_size=200))
def test_random_payloads_give_a_block_or_corruption(
    codec: int, version: int, payload: bytes
) -> None:
    try:
        assert len(Decompressor(version).decompress(codec, payload, LIMIT)) <= LIMIT
    except CorruptionError:
        return


@given(st.sampled_from(CODECS), st.data())
def test_mutated_payloads_give_a_block_or_corruption(codec: int, data: st.DataObject) -> None:
    payload = bytearray(compressed(codec))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(Decompressor(2).decompress(codec, bytes(payload), LIMIT)) <= LIMIT
    except CorruptionError:
        return


def test_bzip2_streams_are_those_of_the_standard_library() -> None:
    payload = varints(len(PLAIN)) + bz2.compress(PLAIN)
    assert Decompressor(5).decompress(compression.BZIP2, payload, LIMIT) == PLAIN
