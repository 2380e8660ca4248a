"""Blob files: every form is read, and whatever is not sound is told by file and offset."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.titan.blob_file import MAX_RECORD_SIZE, BlobFile
from bkctl.titan.blob_index import BlobIndexes
from bkctl.titan.blobs import Blobs
from bkctl.titan.stored import StoredValues
from tests.sst.table_builder import BytesReader
from tests.titan.blob_writer import LZ4, NONE, SNAPPY, ZSTD, BlobFileWriter, crc, index, varint

PAIRS = [(b"k%03d" % i, b"%d" % i * (i * 5 % 700)) for i in range(90)]
FORMS = [
    {"version": version, "codec": codec, "block_size": block_size, "dictionary": dictionary}
    for version in (1, 2, 3)
    for codec in (NONE, SNAPPY, LZ4, ZSTD)
    for dictionary in (None, b"", b"0123456789" * 40)
    for block_size in (0, 4096)
    if (dictionary is None or version > 1) and (block_size == 0 or version > 2)
]


def places(indexes: list[bytes]) -> list[tuple[int, int]]:
    parsed = BlobIndexes.parse(ByteStrings.of(indexes))
    return list(zip(parsed.offsets.tolist(), parsed.sizes.tolist(), strict=True))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_records_come_back(form: dict[str, object]) -> None:
    writer = BlobFileWriter(7, **form)  # type: ignore[arg-type]
    found = places([writer.add(key, value) for key, value in PAIRS])
    reader = BytesReader(writer.finish())
    file = BlobFile(reader, "7.blob")
    reader.reads.clear()
    offsets, sizes = zip(*found, strict=True)
    records = file.read(offsets, sizes)
    assert len(reader.reads) == 1
    for (key, value), offset, record in zip(PAIRS, offsets, records, strict=True):
        assert file.value(offset, record, key) == value


def sound(codec: int = NONE) -> tuple[bytearray, list[tuple[int, int]]]:
    writer = BlobFileWriter(7, codec=codec, dictionary=b"0123456789" * 40)
    found = places([writer.add(key, value) for key, value in PAIRS])
    return bytearray(writer.finish()), found


def flip(at: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at] ^= 1

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flip(0), "not a blob file"),
        (flip(5), "blob file version 259"),
        (flip(8), "header and footer disagree"),
        (flip(9), "flags 0x101"),
        (flip(-1), "footer's checksum"),
        (flip(-5), "magic number"),
        (flip(-20), "footer's checksum"),
        (lambda content: content.__delitem__(slice(30, None)), "30 bytes are too few"),
        (lambda content: content.__delitem__(slice(-9, None)), "magic number"),
    ],
)
def test_a_damaged_frame_is_told(change: Callable[[bytearray], None], told: str) -> None:
    content, _ = sound()
    change(content)
    with pytest.raises(CorruptionError, match=rf"^7\.blob: at offset \d+: .*{told}"):
        BlobFile(BytesReader(bytes(content)), "7.blob")


@pytest.mark.parametrize("codec", [NONE, LZ4, ZSTD, SNAPPY])
def test_no_changed_byte_of_a_record_goes_unseen(codec: int) -> None:
    content, found = sound(codec)
    offset, size = found[40]
    for at in range(offset, offset + size):
        content[at] ^= 0x10
        file = BlobFile(BytesReader(bytes(content)), "7.blob")
        with pytest.raises(CorruptionError, match=rf"7\.blob: at offset {offset}: the record"):
            file.read([offset], [size])
        content[at] ^= 0x10


def test_a_record_is_read_only_for_its_key_and_place() -> None:
    content, found = sound()
    file = BlobFile(BytesReader(bytes(content)), "7.blob")
    offset, size = found[3]
    (record,) = file.read([offset], [size])
    with pytest.raises(CorruptionError, match=f"at offset {offset}: the record is not that of key"):
        file.value(offset, record, b"k004")
    for changed_offset, changed_size in (
        (offset, size - 1),
        (offset, size + 1),
        (offset + 1, size),
        (offset, 0),
        (offset, 8),
        (offset, 9),
        (0, size),
        (len(content) - size, size),
        (1 << 50, 10),
        (offset, 1 << 55),
    ):
        with pytest.raises(CorruptionError, match=r"^7\.blob: at offset \d+: .*record"):
            file.read([changed_offset], [changed_size])


def packed(plain: bytes) -> bytes:
    stream: bytes = lz4.block.compress(plain, store_size=False)
    return stream


def claims(codec: int) -> bytes:
    """A payload that says it has 8 GiB."""
    if codec == ZSTD:
        return varint(8 << 30) + zstandard.ZstdCompressor().compress(bytes(1 << 20))
    if codec == LZ4:
        return varint(8 << 30) + packed(bytes(1 << 20))
    return varint(8 << 30) + bytes(100)


def more_than_it_says(codec: int) -> bytes:
    """A payload that has more than it says."""
    if codec == ZSTD:
        return varint(20) + zstandard.ZstdCompressor().compress(bytes(512 << 20))
    return varint(20) + packed(bytes(64 << 20))


@pytest.mark.parametrize(
    "payload",
    [
        *((codec, claims(codec)) for codec in (ZSTD, LZ4, SNAPPY)),
        *((codec, more_than_it_says(codec)) for codec in (ZSTD, LZ4)),
        (99, b"x"),
        (ZSTD, b""),
        (NONE, b""),
        (NONE, b"\x03k"),
        (NONE, b"\x01k\x50vvv"),
        (NONE, b"\x01k\x01vvv"),
    ],
    ids=lambda payload: f"{payload[0]}-{len(payload[1])}",
)
def test_what_a_payload_claims_takes_no_memory(payload: tuple[int, bytes], tmp_path: Path) -> None:
    writer = BlobFileWriter(7)
    indexes = [writer.add_stored(b"k", *payload)] * 50
    (tmp_path / "000007.blob").write_bytes(writer.finish())
    blobs = Blobs(tmp_path, Path("titandb"))
    stored = StoredValues(ByteStrings.of(indexes), ByteStrings.of(indexes).lengths > 0)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError, match=r"^titandb/000007\.blob: at offset 20: .+") as e:
            blobs.resolve(ByteStrings.of([b"k"] * 50), stored)
        assert "\n" not in str(e.value)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(payload[1]) + (4 << 20)
    finally:
        tracemalloc.stop()
        blobs.close()


def test_an_index_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    size = 3 << 30
    writer = BlobFileWriter(7)
    with (tmp_path / "000007.blob").open("wb") as out:
        out.write(writer.content)
        out.write(struct.pack("<IIB", crc(b""), size - 9, 0))
        out.seek(20 + size)  # a hole
        end = BlobFileWriter(7)
        out.write(end.finish()[20:])
    blobs = Blobs(tmp_path, Path("titandb"))
    for claimed in (size, MAX_RECORD_SIZE + 1, (1 << 55) - 1):
        indexes = ByteStrings.of([index(7, 20, claimed)] * 3000)
        tracemalloc.start()
        with pytest.raises(CorruptionError, match=r"^titandb/000007\.blob: at offset 20: a record"):
            blobs.resolve(ByteStrings.of([b"k"] * 3000), StoredValues(indexes, indexes.lengths > 0))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
    blobs.close()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x01",
        b"\x02\x07\x14\x10",
        index(7, 20, 30) + b"\0",
        index(7, 20, 30)[:-1],
        b"\x01" + b"\xff" * 9 + b"\x01" + b"\x14\x10",
        b"\x01" + b"\xff" * 30,
    ],
    ids=bytes.hex,
)
def test_what_is_no_blob_index_is_told(damaged: bytes, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, Path("store/titandb"))
    for indexes in ([damaged], [index(7, 20, 30), damaged], [damaged, index(7, 20, 30)]):
        stored = ByteStrings.of(indexes)
        is_blob = stored.lengths >= 0
        with pytest.raises(CorruptionError, match=r"^store: .* in or behind key 6B"):
            blobs.resolve(ByteStrings.of([b"k"] * len(indexes)), StoredValues(stored, is_blob))


def test_values_are_given_by_some_mib_in_their_order(tmp_path: Path) -> None:
    writers = [BlobFileWriter(number, codec=ZSTD) for number in (2, 4)]
    pairs = [(b"k%04d" % i, bytes([i % 256]) * (i * 37 % 9000)) for i in range(900)]
    strings, is_blob = [], []
    for i in range(len(pairs) - 1, -1, -1):  # files in another order than keys
        key, value = pairs[i]
        is_blob.append(i % 3 > 0)
        strings.append(writers[i % 2].add(key, value) if is_blob[-1] else value)
    for writer in writers:
        (tmp_path / f"{writer.number:06}.blob").write_bytes(writer.finish())
    keys = ByteStrings.of([key for key, _ in pairs])
    stored = StoredValues(
        ByteStrings.of(strings[::-1]), ByteStrings.of([b"x" * b for b in is_blob[::-1]]).lengths > 0
    )
    blobs = Blobs(tmp_path, tmp_path)
    found: list[bytes] = []
    while len(found) < len(pairs):
        start = len(found)
        rest = keys.slice(start, len(pairs)), stored.slice(start, len(pairs))
        more = blobs.resolve(*rest, limit=20_000).tolist()
        assert sum(map(len, more)) <= 2 * 20_000
        assert more
        found += more
    assert found == [value for _, value in pairs]
    blobs.close()
