"""What RocksDB would follow without a look is looked at: sound files pass, unsound ones do not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CancelledError, CorruptionError
from bkctl.sst.format import BlockHandle
from bkctl.sst.soundness import check_ends, check_outline, check_sound
from bkctl.sst.source import FileReader
from tests.oracles import require_shared
from tests.sst.mutations import mutated, sound_files
from tests.sst.table_builder import (
    BytesReader,
    Records,
    TableBuilder,
    encode_block,
    internal,
    varints,
)

BLOCKS: list[Records] = [
    [(internal(b"a"), b"1"), (internal(b"b"), b"2")],
    [(internal(b"c"), b"3"), (internal(b"d"), b"4")],
]


def what_is_wrong(data: bytes, check: Callable[..., None] = check_sound) -> str:
    with pytest.raises(CorruptionError, match=r"^f\.sst: at offset \d+: ") as caught:
        check(BytesReader(data), "f.sst")
    return str(caught.value).partition(": at offset ")[2].partition(": ")[2]


def test_sound_files_of_all_kinds_pass(tmp_path: Path) -> None:
    for data in [*sound_files(tmp_path), TableBuilder(0).build(BLOCKS)]:
        for check in (check_sound, check_ends, check_outline):
            check(BytesReader(data), "f.sst")


def test_the_files_of_a_real_backup_pass() -> None:
    files = sorted((require_shared() / "br-raw-v5.2.1").glob("*.sst"))
    assert files
    for path in files:
        with FileReader(path) as reader:
            check_sound(reader, path.name)


def test_the_files_of_a_store_pass_by_their_outlines() -> None:
    files = sorted((require_shared() / "stores" / "mvcc-long").glob("*.sst"))
    assert files
    for path in files:
        with FileReader(path) as reader:
            check_outline(reader, path.name)


def test_keys_too_long_for_columns_are_looked_at_one_by_one() -> None:
    keys = [bytes([97 + number]) * 6000 for number in range(3)]
    check_sound(BytesReader(TableBuilder().build([[(internal(key), b"v") for key in keys]])), "f")
    out_of_order = [[(internal(key), b"v") for key in (keys[1], keys[0], keys[2])]]
    assert what_is_wrong(TableBuilder().build(out_of_order)) == "keys do not ascend"


@pytest.mark.parametrize(
    ("blocks", "what"),
    [
        ([[(internal(b"b"), b""), (internal(b"a"), b"")]], "keys do not ascend"),
        ([[(internal(b"a"), b""), (internal(b"a"), b"")]], "keys do not ascend"),
        ([[(internal(b"c"), b"")], [(internal(b"b"), b"")]], "separators do not ascend"),
        ([[(internal(b"a", kind=0), b"")]], "a record is a deletion, not a value"),
        ([[(internal(b"a", kind=0x11), b"")]], "a reference into a blob file"),
    ],
)
def test_records_that_no_backup_holds(blocks: list[Records], what: str) -> None:
    assert what in what_is_wrong(TableBuilder().build(blocks))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"rocksdb.raw.key.size": encode_uvarint(0)}, "records without keys"),
        ({"rocksdb.num.entries": encode_uvarint(3)}, "rocksdb.num.entries is 3"),
        ({"rocksdb.raw.value.size": encode_uvarint(9)}, "rocksdb.raw.value.size is 9"),
        ({"rocksdb.format.version": encode_uvarint(4)}, "the footer says format 2"),
        ({"rocksdb.index.key.is.user.key": b"\1"}, "an index of user keys in a file of format 2"),
        ({"rocksdb.index.value.is.delta.encoded": b"\1"}, "delta values in a file of format 2"),
        ({"rocksdb.block.based.table.index.type": b"\7\0\0\0"}, "index type 7"),
        ({"rocksdb.comparator": b"other"}, "the order of other"),
    ],
)
def test_properties_that_contradict_the_file(changed: dict[str, bytes], what: str) -> None:
    assert what in what_is_wrong(TableBuilder().build(BLOCKS, changed))


def test_a_block_of_an_unknown_kind() -> None:
    data = TableBuilder().build(BLOCKS, meta={"rocksdb.pr\0perties": encode_block([])})
    assert what_is_wrong(data).startswith("the metaindex names a block")


def with_index(*entries: tuple[bytes, BlockHandle]) -> bytes:
    """A file of BLOCKS with an index of one's own."""
    builder = TableBuilder()
    handles = [builder.add(encode_block(block)) for block in BLOCKS]
    properties = builder.properties(BLOCKS, len(builder.out))
    named = {handle.offset: handle for handle in handles}
    index = [
        (internal(key, 1), varints(h.offset, h.size))
        for key, handle in entries
        for h in (named.get(handle.offset, handle),)
    ]
    return builder.finish(index, properties)


FIRST = BlockHandle(0, 0)
SECOND = BlockHandle(TableBuilder().add(encode_block(BLOCKS[0])).end, 0)


def test_an_index_as_it_should_be() -> None:
    check_sound(BytesReader(with_index((b"b", FIRST), (b"d", SECOND))), "f.sst")


@pytest.mark.parametrize("check", [check_sound, check_ends])
@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([(b"a", FIRST), (b"d", SECOND)], "the block's keys are not where the index says"),
        ([(b"b", FIRST), (b"c", SECOND)], "the block's keys are not where the index says"),
        ([(b"d", FIRST), (b"b", SECOND)], "the index's separators do not ascend"),
        ([(b"b", FIRST), (b"d", FIRST)], "leads back"),
        ([(b"b", FIRST), (b"d", BlockHandle(SECOND.offset + 60, 9))], "no data"),
    ],
)
def test_an_index_that_misleads(
    entries: list[tuple[bytes, BlockHandle]], what: str, check: Callable[..., None]
) -> None:
    assert what in what_is_wrong(with_index(*entries), check)


def test_a_caller_can_stop_it(tmp_path: Path) -> None:
    def stop(size: int) -> None:
        raise CancelledError(0)

    with pytest.raises(CancelledError):
        check_sound(BytesReader(sound_files(tmp_path)[0]), "f.sst", stop)


def test_nothing_but_corruption_comes_of_mutated_files_and_memory_is_bounded(
    tmp_path: Path,
) -> None:
    files = sound_files(tmp_path)
    refused = 0
    tracemalloc.start()
    try:
        for seed in range(600):
            try:
                check_sound(BytesReader(mutated(files[seed % len(files)], seed)), "f.sst")
            except CorruptionError:
                refused += 1
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert 300 < refused < 600
