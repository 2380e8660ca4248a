from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    ChecksumType,
    DBCompressionType,
    Options,
)

from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.checksums import ChecksumType as StoredChecksum
from bkctl.sst.damage import Damage, DamageList
from bkctl.sst.reader import SstReader
from bkctl.sst.verify import verify_sst
from tests.sst.rocks import SHARED, records, write_sst
from tests.sst.table_builder import (
    BytesReader,
    TableBuilder,
    encode_block,
    internal,
    varints,
)

Tune = Callable[[BlockBasedOptions, Options], None]


def verify(data: bytes) -> list[Damage]:
    return verify_sst(BytesReader(data), "a.sst")


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def two_level(table: BlockBasedOptions, options: Options) -> None:
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_metadata_block_size(64)


def partitioned_filters(table: BlockBasedOptions, options: Options) -> None:
    two_level(table, options)
    table.set_bloom_filter(10, False)
    table.set_partition_filters(True)


def full_filter(table: BlockBasedOptions, options: Options) -> None:
    table.set_bloom_filter(10, False)


def plain(table: BlockBasedOptions, options: Options) -> None:
    pass


@pytest.mark.parametrize(
    ("version", "checksum", "codec", "count", "tune"),
    [
        (5, "crc32c", "zstd", 64, full_filter),
        (2, "crc32c", "lz4", 40, plain),
        (2, "xxhash", "none", 10, plain),
        (3, "xxhash64", "snappy", 20, two_level),
        (4, "xxh3", "none", 10, plain),
        (5, "xxh3", "zlib", 40, two_level),
        (6, "crc32c", "none", 20, partitioned_filters),
        (6, "xxh3", "zstd", 40, plain),
    ],
)
def test_every_flipped_bit_is_found(
    tmp_path: Path, version: int, checksum: str, codec: str, count: int, tune: Tune
) -> None:
    data = write_sst(
        tmp_path / "a.sst",
        records(count),
        version=version,
        checksum=getattr(ChecksumType, checksum)(),
        compression=getattr(DBCompressionType, codec)(),
        block_size=256,
        tune=tune,
    ).read_bytes()
    assert 1000 < len(data) < 3600
    assert verify(data) == []
    missed = [bit for bit in range(8 * len(data)) if not verify(flipped(data, bit))]
    assert missed == []


def test_every_flipped_bit_of_a_format_0_file_is_found() -> None:
    blocks = [[(internal(k), v) for k, v in part] for part in (records(9), records(19)[9:])]
    data = TableBuilder(0).build(blocks)
    assert verify(data) == []
    assert [bit for bit in range(8 * len(data)) if not verify(flipped(data, bit))] == []


def test_every_flipped_bit_of_a_real_backups_footer_is_found() -> None:
    files = sorted((SHARED / "br-raw-v5.2.1").glob("*.sst"))
    if not files:
        pytest.skip("the real backup is not at hand")
    data = files[0].read_bytes()
    for bit in range(8 * (len(data) - 53), 8 * len(data)):
        assert verify(flipped(data, bit)), bit


def test_the_one_bit_that_cannot_be_found_is_between_formats_4_and_5() -> None:
    # A file whose writer did not note its format, as RocksDB before 10 does not.
    shape = {
        "rocksdb.index.key.is.user.key": b"\1",
        "rocksdb.index.value.is.delta.encoded": b"\1",
    }
    builder = TableBuilder(5)
    content = [(internal(k), v) for k, v in records(20)]
    handle = builder.add(encode_block(content))
    size = len(builder.out)
    # One entry, at a restart: its value is written whole, only its length is left out.
    key = records(20)[-1][0]
    value = varints(handle.offset, handle.size)
    index = varints(0, len(key)) + key + value + bytes(4) + b"\1\0\0\0"
    data = builder.finish(index, builder.properties([content], size) | shape)
    assert verify(data) == []
    bits = range(8 * (len(data) - 12), 8 * (len(data) - 8))
    assert [bit for bit in bits if not verify(flipped(data, bit))] == [bits[0]]


def test_damage_is_told_for_every_block_and_sound_blocks_are_still_given(tmp_path: Path) -> None:
    content = records(4000)
    data = bytearray(write_sst(tmp_path / "a.sst", content).read_bytes())
    handles = list(SstReader(BytesReader(bytes(data)), "a").blocks())
    hurt = [handles[2], handles[5], handles[-1]]
    for handle in hurt:
        data[handle.offset + handle.size // 2] ^= 0x10
    seen: list[int] = []
    keys: list[bytes] = []

    def take(offset: int, block_keys: list[bytes], values: list[bytes]) -> None:
        seen.append(offset)
        keys.extend(block_keys)

    damages = verify_sst(BytesReader(bytes(data)), "a.sst", take)
    assert [d.offset for d in damages] == [h.offset for h in hurt]
    assert all(d.file == "a.sst" and "checksum" in d.what for d in damages)
    assert seen == [h.offset for h in handles if h not in hurt]
    assert set(keys) < {key for key, _ in content}


def test_data_is_still_checked_when_metaindex_or_properties_are_damaged(tmp_path: Path) -> None:
    data = write_sst(tmp_path / "a.sst", records(2000)).read_bytes()
    sst = SstReader(BytesReader(data), "a")
    first = next(sst.blocks())
    for place in (sst.footer.metaindex.offset, sst.meta_blocks["rocksdb.properties"].offset):
        count = 0

        def take(offset: int, keys: list[bytes], values: list[bytes]) -> None:
            nonlocal count
            count += len(keys)

        hurt = flipped(flipped(data, 8 * place), 8 * first.offset)
        damages = verify_sst(BytesReader(hurt), "a.sst", take)
        assert {d.offset for d in damages} == {place, first.offset}
        assert 1500 < count < 2000


def test_other_partitions_are_checked_when_one_is_damaged(tmp_path: Path) -> None:
    path = write_sst(tmp_path / "a.sst", records(2000), block_size=512, tune=two_level)
    data = path.read_bytes()
    sst = SstReader(BytesReader(data), "a")
    shape = sst.properties.index
    hurt = list(sst.index_partitions(shape))[3]
    lost = {e.handle.offset for e in sst.partition_entries(hurt, shape)}
    seen: set[int] = set()
    damages = verify_sst(
        BytesReader(flipped(data, 8 * hurt.offset)), "a.sst", lambda o, k, v: seen.add(o)
    )
    assert [d.offset for d in damages] == [hurt.offset]
    assert seen == {handle.offset for handle in sst.blocks()} - lost


def test_what_the_callback_finds_wrong_is_damage_of_its_block(tmp_path: Path) -> None:
    data = write_sst(tmp_path / "a.sst", records(10)).read_bytes()

    def refuse(offset: int, keys: list[bytes], values: list[bytes]) -> None:
        raise CorruptionError("not a record of this range")

    damages = verify_sst(BytesReader(data), "a.sst", refuse)
    assert damages == [Damage("a.sst", 0, "not a record of this range")]
    assert str(damages[0]) == "a.sst: at offset 0: not a record of this range"


SOUND = [(internal(key), value) for key, value in records(10)]


@pytest.mark.parametrize(
    ("blocks", "what"),
    [
        ([[SOUND[1], SOUND[0]]], "do not ascend"),
        ([[SOUND[0], SOUND[0]]], "do not ascend"),
        ([SOUND[5:], SOUND[:5]], "do not ascend"),
        ([SOUND[:5], SOUND[4:]], "not where the index says"),
        ([[(internal(b"a", 0), b"")]], "a deletion"),
        ([[(internal(b"a", 2), b"x")]], "a merge operand"),
        ([[(b"short", b"x")]], "too short"),
    ],
)
def test_records_that_make_no_backup_are_damage(
    blocks: list[list[tuple[bytes, bytes]]], what: str
) -> None:
    assert any(what in d.what for d in verify(TableBuilder().build(blocks)))


def test_an_empty_block_is_damage() -> None:
    builder = TableBuilder()
    handle = builder.add(encode_block([]))
    index = [(internal(b"a"), varints(handle.offset, handle.size))]
    damages = verify(builder.finish(index, builder.properties([[]], len(builder.out))))
    assert [d.what for d in damages] == ["the block holds no records"]


def test_a_wrong_first_key_in_the_index_is_damage() -> None:
    builder = TableBuilder(index_type=3)
    handle = builder.add(encode_block(SOUND))
    value = varints(handle.offset, handle.size, len(SOUND[1][0])) + SOUND[1][0]
    properties = builder.properties([SOUND], len(builder.out))
    damages = verify(builder.finish([(SOUND[-1][0], value)], properties))
    assert [d.what for d in damages] == ["the index names another first key"]


@pytest.mark.parametrize("name", ["num.entries", "num.data.blocks", "raw.key.size", "data.size"])
def test_properties_that_do_not_count_what_is_there_are_damage(name: str) -> None:
    changed = {f"rocksdb.{name}": encode_uvarint(7)}
    assert any(name in d.what for d in verify(TableBuilder().build([SOUND], changed)))


def test_bytes_of_no_block_are_damage() -> None:
    builder = TableBuilder(out=b"12345")
    assert any("skips from 0" in d.what for d in verify(builder.build([SOUND])))
    builder = TableBuilder()
    handle = builder.add(encode_block(SOUND))
    properties = builder.properties([SOUND], len(builder.out))
    builder.out += b"gap"
    index = [(SOUND[-1][0], varints(handle.offset, handle.size))]
    damages = verify(builder.finish(index, properties))
    assert [d.what for d in damages] == ["3 bytes belong to no block"]
    data = TableBuilder().build([SOUND])
    assert any("5 bytes belong" in d.what for d in verify(data[:-53] + b"12345" + data[-53:]))


def test_a_block_swapped_with_another_is_damage(tmp_path: Path) -> None:
    content = [(b"%04d" % n, b"v" * 50) for n in range(200)]
    for version in (2, 6):
        path = write_sst(tmp_path / f"{version}.sst", content, version=version, block_size=512)
        data = path.read_bytes()
        a, b, c = list(SstReader(BytesReader(data), "a").blocks())[1:4]
        assert a.size == b.size
        swapped = (
            data[: a.offset]
            + data[b.offset : c.offset]
            + data[a.offset : b.offset]
            + data[c.offset :]
        )
        assert verify(swapped)


def test_meta_blocks_are_checked() -> None:
    builder = TableBuilder()
    data = builder.build([SOUND], meta={"fullfilter.x": b"filter", "rocksdb.hashindex": b"h"})
    assert verify(data) == []
    place = data.index(b"filter")
    assert [d.offset for d in verify(flipped(data, 8 * place))] == [place]


def test_an_unknown_order_of_keys_and_range_deletions_are_damage() -> None:
    comparator = {"rocksdb.comparator": b"other"}
    assert any(
        "order of other" in d.what for d in verify(TableBuilder().build([SOUND], comparator))
    )
    meta = {"rocksdb.range_del": encode_block([])}
    assert any(
        "range deletions" in d.what for d in verify(TableBuilder().build([SOUND], meta=meta))
    )


def test_a_file_without_checksums_is_read_but_not_taken_for_one_with_them() -> None:
    data = TableBuilder(checksum=StoredChecksum.NONE).build([SOUND])
    assert verify(data) == []
    assert verify(flipped(data, 8 * (len(data) - 53)))


def test_damage_without_end_is_cut_off() -> None:
    damages = DamageList("a")
    for offset in range(DamageList.LIMIT + 5):
        damages.add(offset, "bad")
        damages.add(0, "bad")
    assert len(damages.all()) == DamageList.LIMIT + 1
    assert "more damage" in damages.all()[-1].what


def bomb() -> bytes:
    """A small file of blocks that unfold to 64 MiB each."""
    value = bytes((64 << 20) - 100)
    block = encode_block([(internal(b"a"), value)])
    payload = varints(len(block)) + zstandard.ZstdCompressor().compress(block)
    builder = TableBuilder()
    index = []
    for number in range(4):
        handle = builder.add(b"", 7, payload)
        index.append((internal(b"a%d" % number), varints(handle.offset, handle.size)))
    return builder.finish(index, builder.properties([], len(builder.out)))


def test_memory_stays_bounded_whatever_blocks_unfold_to() -> None:
    data = bomb()
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        assert verify_sst(BytesReader(data), "a.sst", lambda o, k, v: None)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def touch_everything(data: bytes) -> None:
    """Use every way into a file; only CorruptionError may come out."""
    damages = verify(data)
    try:
        sst = SstReader(BytesReader(data), "f", ingested=True)
        list(sst.entries(b"zrow00000050"))
        list(sst.block_entries([]))
        for handle in sst.blocks():
            sst.read_block(handle)
    except CorruptionError as e:
        assert str(e).startswith("f: at offset ")  # noqa: PT017 (what else the text says is free)
        assert "\n" not in str(e)  # noqa: PT017
    assert all(d.file == "a.sst" and "\n" not in d.what for d in damages)


SEEDS = [
    TableBuilder().build([SOUND[:5], SOUND[5:]]),
    TableBuilder(0, codec=4).build([SOUND[:5], SOUND[5:]]),
    TableBuilder(1, checksum=StoredChecksum.NONE).build([SOUND]),
    TableBuilder(5, codec=2, checksum=StoredChecksum.NONE).build([SOUND[:5], SOUND[5:]]),
    TableBuilder(2, checksum=StoredChecksum.NONE, index_type=3).build([SOUND[:5], SOUND[5:]]),
]


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_mutated_files_give_only_corruption(seed: bytes, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    touch_everything(bytes(mutated))


@settings(max_examples=100)
@given(st.sampled_from(SEEDS), st.data())
def test_cut_and_spliced_files_give_only_corruption(seed: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, len(seed)))
    touch_everything(seed[:start])
    touch_everything(seed[start:])
    touch_everything(seed[:start] + seed[end:])
    touch_everything(seed[:start] + data.draw(st.binary(max_size=40)) + seed[end:])


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(0, 53))
def test_random_bytes_give_only_corruption(noise: bytes, kept: int) -> None:
    touch_everything(noise)
    touch_everything(noise + SEEDS[0][len(SEEDS[0]) - kept :])
