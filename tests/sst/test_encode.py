"""Blocks made of columns are read back as the records they were made of."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import IngestExternalFileOptions, Options, Rdict

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError, StorageError
from bkctl.sst.blocks import data_entries, entries_end
from bkctl.sst.encode import encode_blocks, encode_index
from bkctl.sst.format import BLOCK_TRAILER_SIZE, BlockHandle
from bkctl.sst.index import IndexShape, index_entries
from bkctl.sst.reader import FileReader, SstReader
from bkctl.sst.verify import verify_sst
from bkctl.sst.writer import Compression, SstWriter
from tests.oracles import require_tool

keys = st.one_of(
    st.binary(max_size=4),
    st.builds(lambda count, tail: b"row" * count + tail, st.integers(0, 60), st.binary(max_size=3)),
    st.integers(0, 300).map(lambda n: b"k%08d" % n),
    st.integers(0, 5).map(bytes),
)
values = st.binary(max_size=5) | st.sampled_from([127, 128, 300, 16_383, 16_384, 70_000]).map(bytes)


@given(st.sets(keys, min_size=1, max_size=60), st.data())
def test_an_index_leads_to_the_blocks(last_keys: set[bytes], data: st.DataObject) -> None:
    size = st.integers(0, 1 << 40)
    sizes = data.draw(st.lists(size, min_size=len(last_keys), max_size=len(last_keys)))
    offsets = [sum(sizes[:i]) + i * BLOCK_TRAILER_SIZE for i in range(len(sizes))]
    strings = ByteStrings.of(sorted(last_keys))
    block = encode_index(strings, np.array(offsets), np.array(sizes))
    found = index_entries(block, IndexShape(0, user_keys=True, delta_values=True))
    assert [(entry.separator, entry.handle) for entry in found] == [
        (key, BlockHandle(*place))
        for key, place in zip(sorted(last_keys), zip(offsets, sizes, strict=True), strict=True)
    ]


@given(st.dictionaries(keys, values, min_size=1, max_size=60), st.integers(1, 3000))
def test_blocks_hold_the_records(content: dict[bytes, bytes], block_size: int) -> None:
    records = sorted(content.items())
    blocks = encode_blocks(
        ByteStrings.of([key for key, _ in records]),
        ByteStrings.of([value for _, value in records]),
        block_size,
    )
    found = []
    for i, last in enumerate(blocks.last_rows.tolist()):
        block = blocks.data[blocks.bounds[i] : blocks.bounds[i + 1]].tobytes()
        entries_end(block)
        found += list(zip(*data_entries(block), strict=True))
        assert len(found) == last + 1
    assert found == records


@given(st.lists(keys, min_size=2, max_size=9))
def test_keys_that_do_not_ascend_are_refused(content: list[bytes]) -> None:
    strings = ByteStrings.of(content)
    if all(a < b for a, b in itertools.pairwise(content)):
        encode_blocks(strings, strings, 100)
    else:
        with pytest.raises(CorruptionError, match="out of order"):
            encode_blocks(strings, strings, 100)


def ordered_records(count: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"zrow%08d" % (i * 7) + b"x" * (i % 5), b"%d/" % (i * 2654435761) + bytes(i % 400))
        for i in range(count)
    ]


def write(
    path: Path, records: list[tuple[bytes, bytes]], step: int, compression: Compression
) -> None:
    writer = SstWriter(path, compression)
    for start in range(0, len(records), step):
        part = records[start : start + step]
        writer.write([key for key, _ in part], [value for _, value in part])
    finished = writer.finish()
    content = path.read_bytes()
    assert (finished.size, finished.sha256) == (len(content), hashlib.sha256(content).digest())


LEVELS = [("zstd", None), ("zstd", 9), ("lz4", None), ("lz4", 9), ("snappy", None), ("none", None)]


@pytest.mark.parametrize(("codec", "level"), LEVELS)
def test_a_file_is_sound_and_rocksdb_takes_it_in(
    codec: str, level: int | None, tmp_path: Path
) -> None:
    records = ordered_records(20_000)
    path = tmp_path / "a.sst"
    write(path, records, 777, Compression(codec, level))
    with FileReader(path) as reader:
        assert verify_sst(reader, "a.sst", lambda *_: None) == []
        sst = SstReader(reader, "a.sst")
        assert list(sst.entries()) == records
        properties = sst.properties
    assert (properties.num_entries, properties.format_version) == (20_000, 5)
    assert properties.raw_key_size == sum(len(key) + 8 for key, _ in records)
    assert properties.raw_value_size == sum(len(value) for _, value in records)
    db = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    db[records[5][0]] = b"older"
    db.ingest_external_file([str(path)], IngestExternalFileOptions())
    assert list(db.items()) == records
    db.close()


def test_rocksdb_of_older_days_finds_the_file_sound(tmp_path: Path) -> None:
    sst_dump = require_tool("sst_dump")
    path = tmp_path / "a.sst"
    write(path, ordered_records(20_000), 5000, Compression("zstd"))
    told = subprocess.run(
        [sst_dump, f"--file={path}", "--command=verify"], capture_output=True, text=True, check=True
    )
    assert "The file is ok" in told.stdout


@settings(max_examples=20)
@given(st.integers(1, 3000), st.integers(1, 4000))
def test_the_steps_it_is_written_in_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, count: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("sst") / "a.sst"
    records = ordered_records(count)
    write(path, records, step, Compression("none"))
    with FileReader(path) as reader:
        assert list(SstReader(reader, "a.sst").entries()) == records


def test_keys_out_of_order_name_the_file(tmp_path: Path) -> None:
    writer = SstWriter(tmp_path / "a.sst", Compression())
    writer.write([b"b"], [b""])
    with pytest.raises(CorruptionError, match=r"a\.sst: keys are out of order at 61"):
        writer.write([b"a"], [b""])
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_keys_out_of_order_within_a_batch_are_found_at_the_end(tmp_path: Path) -> None:
    writer = SstWriter(tmp_path / "a.sst", Compression())
    writer.write([b"b", b"a", b"c"], [b"", b"", b""])
    with pytest.raises(CorruptionError, match=r"a\.sst: keys are out of order at 61"):
        writer.finish()
    writer.abandon()


def test_a_full_disk_is_a_storage_error() -> None:
    writer = SstWriter(Path("/dev/full"), Compression("none"))
    with pytest.raises(StorageError, match="No space left"):
        writer.write([b"k"], [bytes(2 << 20)])
