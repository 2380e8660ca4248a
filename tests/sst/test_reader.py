from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    ChecksumType,
    DataBlockIndexType,
    DBCompressionType,
    Options,
    Rdict,
)

from bkctl.errors import CorruptionError
from bkctl.sst.reader import FileReader, SstReader
from bkctl.sst.verify import verify_sst
from tests.sst.rocks import SHARED, records, write_sst
from tests.sst.table_builder import BytesReader, TableBuilder, internal

Tune = Callable[[BlockBasedOptions, Options], None]
CODECS = ["none", "snappy", "zlib", "bz2", "lz4", "lz4hc", "zstd"]


def read_all(path: Path) -> list[tuple[bytes, bytes]]:
    """All records by blocks, having checked that reading by records and verifying agree."""
    with FileReader(path) as reader:
        sst = SstReader(reader, path.name)
        by_block = [
            pair
            for _, keys, values in sst.block_entries()
            for pair in zip(keys, values, strict=True)
        ]
        assert list(sst.entries()) == by_block
        assert sst.properties.num_entries == len(by_block)
        assert verify_sst(reader, path.name) == []
        return by_block


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("checksum", ["no_checksum", "crc32c", "xxhash", "xxhash64", "xxh3"])
def test_every_format_and_checksum_is_read(tmp_path: Path, version: int, checksum: str) -> None:
    content = records(500)
    path = write_sst(
        tmp_path / "a.sst",
        content,
        version=version,
        checksum=getattr(ChecksumType, checksum)(),
        compression=DBCompressionType.zstd(),
    )
    assert read_all(path) == content
    with FileReader(path) as reader:
        assert SstReader(reader, "a").footer.format_version == version


@pytest.mark.parametrize("version", [1, 2, 5, 6])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(tmp_path: Path, version: int, codec: str) -> None:
    content = records(2000)
    compression = getattr(DBCompressionType, codec)()
    path = write_sst(tmp_path / "a.sst", content, version=version, compression=compression)
    assert read_all(path) == content


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
def test_dictionaries_are_read(tmp_path: Path, codec: str) -> None:
    def tune(table: BlockBasedOptions, options: Options) -> None:
        options.set_compression_options(-14, 32767, 0, 4096)

    content = records(3000)
    compression = getattr(DBCompressionType, codec)()
    path = write_sst(tmp_path / "a.sst", content, compression=compression, tune=tune)
    with FileReader(path) as reader:
        assert "rocksdb.compression_dict" in SstReader(reader, "a").meta_blocks
    assert read_all(path) == content


@pytest.mark.parametrize("block_size", [64, 512, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("interval", [1, 2, 16, 1000])
def test_every_block_size_and_restart_interval_is_read(
    tmp_path: Path, block_size: int, interval: int
) -> None:
    def tune(table: BlockBasedOptions, options: Options) -> None:
        table.set_block_restart_interval(interval)
        table.set_index_block_restart_interval(interval)

    content = records(1500)
    path = write_sst(tmp_path / "a.sst", content, block_size=block_size, tune=tune)
    assert read_all(path) == content


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("filtered", [False, True])
def test_two_level_indexes_and_partitioned_filters_are_read(
    tmp_path: Path, version: int, filtered: bool
) -> None:
    def tune(table: BlockBasedOptions, options: Options) -> None:
        table.set_index_type(BlockBasedIndexType.two_level_index_search())
        table.set_metadata_block_size(256)
        if filtered:
            table.set_bloom_filter(10, False)
            table.set_partition_filters(True)

    content = records(3000)
    path = write_sst(tmp_path / "a.sst", content, version=version, block_size=512, tune=tune)
    with FileReader(path) as reader:
        sst = SstReader(reader, "a")
        assert len(list(sst.index_partitions(sst.properties.index))) > 3
        assert filtered == any(name.startswith("partitionedfilter") for name in sst.meta_blocks)
        assert next(sst.entries(content[2000][0])) == content[2000]
    assert read_all(path) == content


def test_a_two_level_index_is_only_followed_where_it_is_needed(tmp_path: Path) -> None:
    def tune(table: BlockBasedOptions, options: Options) -> None:
        table.set_index_type(BlockBasedIndexType.two_level_index_search())
        table.set_metadata_block_size(256)

    content = records(20_000)
    path = write_sst(tmp_path / "a.sst", content, block_size=512, tune=tune)
    source = BytesReader(path.read_bytes())
    assert next(SstReader(source, "a").entries(content[15_000][0])) == content[15_000]
    assert len(source.reads) <= 4


def test_hash_indexes_are_passed_over(tmp_path: Path) -> None:
    def tune(table: BlockBasedOptions, options: Options) -> None:
        table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
        table.set_data_block_hash_ratio(0.75)
        table.set_bloom_filter(10, False)

    content = records(2000)
    assert read_all(write_sst(tmp_path / "a.sst", content, tune=tune)) == content


def test_long_keys_and_values_are_read(tmp_path: Path) -> None:
    content = [
        (b"", b""),
        (b"a" * 127, b"v" * 127),
        (b"a" * 128, b"v" * 128),
        (b"a" * 300, b"v" * 16_383),
        (b"a" * 20_000, b"v" * 16_384),
        (b"a" * 20_000 + b"b", b"v" * (5 << 20)),
    ]
    assert read_all(write_sst(tmp_path / "a.sst", content)) == content


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("codec", [0, 2, 3, 4])
def test_the_oldest_formats_are_read(tmp_path: Path, version: int, codec: int) -> None:
    path = tmp_path / "a.sst"
    content = records(300)
    parts = [content[:100], content[100:101], content[101:]]
    blocks = [[(internal(key), value) for key, value in part] for part in parts]
    path.write_bytes(TableBuilder(version, codec).build(blocks))
    assert read_all(path) == content


def test_an_index_with_first_keys_is_read(tmp_path: Path) -> None:
    content = records(300)
    blocks = [[(internal(k), v) for k, v in part] for part in (content[:150], content[150:])]
    path = tmp_path / "a.sst"
    path.write_bytes(TableBuilder(index_type=3).build(blocks))
    assert read_all(path) == content


def test_properties_of_a_large_file_take_one_small_read(tmp_path: Path) -> None:
    path = write_sst(tmp_path / "a.sst", records(60_000, 80))
    source = BytesReader(path.read_bytes())
    assert source.size > 1 << 20
    sst = SstReader(source, "a")
    assert sst.properties.num_entries == 60_000
    assert source.reads == [(source.size - (64 << 10), 64 << 10)]


def test_entries_begin_at_the_first_key_not_below_the_start(tmp_path: Path) -> None:
    content = records(2000)
    with FileReader(write_sst(tmp_path / "a.sst", content, block_size=512)) as reader:
        sst = SstReader(reader, "a")
        for start in (0, 1, 777, 1998, 1999):
            key = content[start][0]
            assert list(sst.entries(key)) == content[start:]
            assert list(sst.entries(key + b"\0")) == content[start + 1 :]
        assert list(sst.entries(b"")) == content
        assert list(sst.entries(b"zz")) == []


def test_blocks_lie_in_file_order_and_read_alone(tmp_path: Path) -> None:
    path = write_sst(tmp_path / "a.sst", records(2000), compression=DBCompressionType.lz4())
    with FileReader(path) as reader:
        sst = SstReader(reader, "a")
        handles = list(sst.blocks())
        assert len(handles) == sst.properties.num_data_blocks
        assert [h.offset for h in handles] == [0, *[h.end for h in handles[:-1]]]
        assert handles[-1].end == sst.properties.data_size
        assert b"zrow00000000" in sst.read_block(handles[0])


def live_store(path: Path) -> Path:
    """An SST file of a store: two versions, a deletion, a range deletion."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_disable_auto_compactions(True)
    db = Rdict(str(path), options)
    db[b"a"] = b"1"
    kept = db.snapshot()
    db[b"a"] = b"2"
    del db[b"b"]
    db.delete_range(b"m", b"n")
    db.flush()
    del kept
    db.close()
    return next(path.glob("*.sst"))


def test_what_is_no_value_is_refused_unless_kinds_are_asked_for(tmp_path: Path) -> None:
    with FileReader(live_store(tmp_path / "db")) as reader:
        sst = SstReader(reader, "live.sst")
        with pytest.raises(CorruptionError, match=r"live\.sst: at offset \d+: .*range deletions"):
            next(sst.block_entries())
        with pytest.raises(CorruptionError, match="range deletions"):
            next(sst.entries())
        trailers: list[int] = []
        [(_, keys, values)] = sst.block_entries(trailers)
        assert keys == [b"a", b"a", b"b"]
        assert values == [b"2", b"1", b""]
        assert [trailer & 0xFF for trailer in trailers] == [1, 1, 0]
        assert trailers[0] > trailers[1] >> 8 > 0
        assert any("range deletions" in d.what for d in verify_sst(reader, "live.sst"))


def test_trailers_are_those_of_the_block_just_yielded() -> None:
    blocks = [[(internal(b"a", 1, 5), b"")], [(internal(b"b", 0, 4), b"")]]
    trailers: list[int] = []
    seen = []
    for _ in SstReader(BytesReader(TableBuilder().build(blocks)), "a").block_entries(trailers):
        seen.append(list(trailers))
    assert seen == [[5 << 8 | 1], [4 << 8]]


def test_keys_in_another_order_are_refused() -> None:
    comparator = {"rocksdb.comparator": b"rocksdb.ReverseBytewiseComparator"}
    data = TableBuilder().build([[(internal(b"a"), b"")]], comparator)
    with pytest.raises(CorruptionError, match="ReverseBytewise"):
        next(SstReader(BytesReader(data), "a").block_entries())


def test_a_written_sequence_number_is_accepted_only_from_a_store(tmp_path: Path) -> None:
    data = bytearray(write_sst(tmp_path / "a.sst", records(10)).read_bytes())
    sst = SstReader(BytesReader(bytes(data)), "a")
    handle = sst.meta_blocks["rocksdb.properties"]
    # The value is the only run of eight zero bytes with its own name's length before it.
    block = data[handle.offset : handle.offset + handle.size]
    place = handle.offset + block.index(b"global_seqno" + bytes(8)) + len(b"global_seqno")
    data[place : place + 8] = struct.pack("<Q", 4711)
    with pytest.raises(CorruptionError, match="checksum"):
        _ = SstReader(BytesReader(bytes(data)), "a").properties
    properties = SstReader(BytesReader(bytes(data)), "a", ingested=True).properties
    assert properties.global_seqno == 4711
    assert properties.num_entries == 10
    data[handle.offset + 3] ^= 1
    with pytest.raises(CorruptionError):
        _ = SstReader(BytesReader(bytes(data)), "a", ingested=True).properties


def test_errors_name_the_file_and_the_offset(tmp_path: Path) -> None:
    path = write_sst(tmp_path / "a.sst", records(2000))
    data = bytearray(path.read_bytes())
    handle = list(SstReader(BytesReader(bytes(data)), "a").blocks())[3]
    data[handle.offset + 7] ^= 4
    with pytest.raises(
        CorruptionError, match=rf"^in/b\.sst: at offset {handle.offset}: .*checksum"
    ):
        list(SstReader(BytesReader(bytes(data)), "in/b.sst").block_entries())
    with pytest.raises(CorruptionError, match=r"^in/b\.sst: at offset 0: not an SST file"):
        SstReader(BytesReader(b"hello"), "in/b.sst")


def dump_records(path: Path) -> list[tuple[bytes, bytes]]:
    """The records as RocksDB's own sst_dump prints them."""
    tool = shutil.which("sst_dump")
    if tool is None:
        pytest.skip("sst_dump is not installed")
    out = subprocess.run(
        [tool, f"--file={path}", "--command=scan", "--output_hex"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [
        (bytes.fromhex(key), bytes.fromhex(value))
        for key, value in re.findall(r"^'([0-9A-F]*)' seq:0, type:1 => ([0-9A-F]*)$", out, re.M)
    ]


@pytest.mark.parametrize("version", [2, 5])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_rocksdbs_own_tool_sees_the_same_records(tmp_path: Path, version: int, codec: str) -> None:
    compression = getattr(DBCompressionType, codec)()
    path = write_sst(tmp_path / "a.sst", records(400), version=version, compression=compression)
    assert dump_records(path) == read_all(path)


def test_a_file_of_rocksdbs_own_tool_is_read(tmp_path: Path) -> None:
    tool = shutil.which("ldb")
    if tool is None:
        pytest.skip("ldb is not installed")
    put = [tool, f"--db={tmp_path}/db", "--create_if_missing", "batchput", "a", "1", "b", "2"]
    subprocess.run(put, capture_output=True, check=True)
    subprocess.run([tool, f"--db={tmp_path}/db", "compact"], capture_output=True, check=True)
    assert read_all(next((tmp_path / "db").glob("*.sst"))) == [(b"a", b"1"), (b"b", b"2")]


def test_a_real_backups_files_are_read() -> None:
    files = sorted((SHARED / "br-raw-v5.2.1").glob("*.sst"))
    if not files:
        pytest.skip("the real backup is not at hand")
    content = [pair for path in files for pair in read_all(path)]
    assert len(content) == 1000
    assert all(key.startswith(b"z") and value == b"A" * 64 for key, value in content)
    assert sum(len(key) - 1 + len(value) for key, value in content) == 85_000


def test_a_stores_files_are_read() -> None:
    files = sorted((SHARED / "stores").glob("*/*.sst"))
    if not files:
        pytest.skip("the sample stores are not at hand")
    for path in files:
        assert read_all(path)
        with FileReader(path) as reader:
            properties = SstReader(reader, path.name).properties
        if properties.column_family_name == "write":
            oldest, newest = properties.user_u64("tikv.min_ts"), properties.user_u64("tikv.max_ts")
            assert oldest is not None
            assert newest is not None
            assert 0 < oldest <= newest
