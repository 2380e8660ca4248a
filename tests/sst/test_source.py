from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, StorageError
from bkctl.sst.source import CachedReader, FileReader
from tests.sst.table_builder import BytesReader

CONTENT = bytes(range(256)) * 4096 * 3  # 3 MiB


def test_a_local_file_is_read_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.sst"
    path.write_bytes(CONTENT)
    with FileReader(path) as reader:
        assert reader.size == len(CONTENT)
        assert reader.read_at(100, 50) == CONTENT[100:150]
        assert reader.read_at(len(CONTENT) - 10, 50) == CONTENT[-10:]
        assert reader.read_at(len(CONTENT) + 10, 50) == b""
    reader.close()


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.sst"):
        FileReader(tmp_path / "none.sst")
    with FileReader(tmp_path) as reader, pytest.raises(StorageError, match="cannot be read"):
        reader.read_at(0, 10)


def test_the_tail_is_fetched_once() -> None:
    source = BytesReader(CONTENT)
    cached = CachedReader(source)
    for start in range(len(CONTENT) - CachedReader.TAIL, len(CONTENT), 5000):
        assert cached.read(start, 100) == CONTENT[start : start + 100]
    assert source.reads == [(len(CONTENT) - CachedReader.TAIL, CachedReader.TAIL)]


def test_reading_on_fetches_a_stretch_at_a_time_and_no_further_than_told() -> None:
    source = BytesReader(CONTENT)
    cached = CachedReader(source)
    source.reads.clear()
    limit = (1 << 20) + 5000
    for start in range(0, limit - 1000, 1000):
        assert cached.read(start, 1000, limit) == CONTENT[start : start + 1000]
    assert source.reads == [(0, 1 << 20), (1048000, limit - 1048000)]
    assert cached.read(0, 10) == CONTENT[:10]


def test_a_read_larger_than_a_stretch_is_one_fetch() -> None:
    source = BytesReader(CONTENT)
    cached = CachedReader(source)
    source.reads.clear()
    assert cached.read(5, 2 << 20, len(CONTENT)) == CONTENT[5 : 5 + (2 << 20)]
    assert source.reads == [(5, 2 << 20)]


def test_a_file_shorter_than_its_size_is_corruption() -> None:
    source = BytesReader(CONTENT)
    cached = CachedReader(source)
    source.data = CONTENT[:1000]
    with pytest.raises(CorruptionError, match="ends at 1000"):
        cached.read(990, 20)
