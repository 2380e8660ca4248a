"""Titan's MANIFEST: which blob files count; what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.codec.log import TornTailError, blocks_of
from bkctl.errors import CorruptionError
from bkctl.titan.manifest import BlobFileMeta, read_titan_manifest
from tests.titan.blob_writer import deleted, log, next_file, string, varint

PATH = Path("titandb/MANIFEST-000001")


def added(tag: int, number: int, *numbers: int, keys: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(map(varint, (tag, number, *numbers))) + b"".join(map(string, keys))


def read(*edits: bytes) -> tuple[BlobFileMeta, ...]:
    return read_titan_manifest(blocks_of(log(edits)), PATH)


def test_all_forms_of_added_files_count() -> None:
    found = read(
        next_file(9, family=2) + added(11, 3, 1000),
        next_file(9) + added(13, 5, 2000, 7, 6, keys=(b"a", b"m")),
        next_file(10) + added(14, 8, 3000, 7, 6, 4096, keys=(b"b", b"n" * 300)),
    )
    assert found == (
        BlobFileMeta(3, 1000, 2),
        BlobFileMeta(5, 2000, 0, b"a", b"m"),
        BlobFileMeta(8, 3000, 0, b"b", b"n" * 300),
    )
    assert [file.name for file in found] == ["000003.blob", "000005.blob", "000008.blob"]


def test_deleted_files_do_not_count_whatever_the_order() -> None:
    found = read(next_file(9) + added(11, 3, 10) + added(11, 4, 10), deleted(3), next_file(9))
    assert [file.number for file in found] == [4]


def test_edits_of_many_blocks_count() -> None:
    keys = b"k" * 5000, b"l" * 5000
    edits = [next_file(i + 1) + added(14, i, 100, 1, 0, 0, keys=keys) for i in range(40)]
    assert [file.number for file in read(*edits)] == list(range(40))


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ([added(11, 3, 10)], "next file number"),
        ([], "next file number"),
        ([next_file(9), next_file(8)], "the next file number 8, one before it 9"),
        ([next_file(9), deleted(4)], "blob file 4 is deleted, but was never added"),
        ([next_file(9) + varint(99) + varint(1)], "tag 99, which bkctl does not know"),
        ([next_file(9) + added(14, 3, 10, 1, 0, 0, keys=(b"a",)) + varint(50)], "cut short"),
        ([next_file(9) + added(11, 3)], "cut short"),
    ],
)
def test_edits_that_make_no_sense_are_refused(edits: list[bytes], told: str) -> None:
    with pytest.raises(CorruptionError, match=rf"^titandb/MANIFEST-000001: .*{told}"):
        read(*edits)


def test_a_torn_tail_is_told_or_dropped() -> None:
    content = log([next_file(9) + added(11, 3, 10), next_file(9) + added(11, 4, 10)])
    for cut in (1, 6, 9):
        blocks = list(blocks_of(content[:-cut]))
        with pytest.raises(TornTailError, match="MANIFEST-000001: ends in the middle"):
            read_titan_manifest(blocks, PATH)
        (file,) = read_titan_manifest(blocks, PATH, torn_tail_ok=True)
        assert file.number == 3
