from __future__ import annotations

import struct

import pytest

from bkctl.errors import CorruptionError
from bkctl.sst.index import IndexShape
from bkctl.sst.properties import GLOBAL_SEQNO, parse_properties, without_global_seqno
from tests.sst.table_builder import encode_block, varints


def block(**changed: bytes) -> bytes:
    content = {
        "rocksdb.block.based.table.index.type": struct.pack("<I", 2),
        "rocksdb.comparator": b"leveldb.BytewiseComparator",
        "rocksdb.compression": b"ZSTD",
        "rocksdb.column.family.name": b"write",
        GLOBAL_SEQNO: struct.pack("<Q", 77),
        "rocksdb.index.key.is.user.key": varints(1),
        "rocksdb.num.entries": varints(300),
        "rocksdb.data.size": varints(1 << 40),
        "tikv.max_ts": (1 << 60).to_bytes(8, "big"),
        "tikv.rows_index": b"not a number",
    } | {name.replace("_", "."): value for name, value in changed.items()}
    return encode_block(sorted((k.encode(), v) for k, v in content.items()), 1 << 20)


def test_numbers_and_texts_are_typed_and_all_stay_at_hand() -> None:
    properties = parse_properties(block())
    assert properties.num_entries == 300
    assert properties.data_size == 1 << 40
    assert properties.compression_name == "ZSTD"
    assert properties.column_family_name == "write"
    assert properties.global_seqno == 77
    assert properties.index == IndexShape(2, user_keys=True, delta_values=False)
    assert properties.is_bytewise
    assert properties.user["tikv.rows_index"] == b"not a number"
    assert len(properties.user) == 10


def test_properties_a_file_does_not_have_are_zero_or_empty() -> None:
    properties = parse_properties(encode_block([]))
    assert properties.num_entries == properties.format_version == 0
    assert properties.column_family_name == ""
    assert properties.index == IndexShape(0, user_keys=False, delta_values=False)
    assert properties.is_bytewise


def test_tikv_numbers_are_eight_bytes_big_endian() -> None:
    properties = parse_properties(block())
    assert properties.user_u64("tikv.max_ts") == 1 << 60
    assert properties.user_u64("tikv.rows_index") is None
    assert properties.user_u64("tikv.min_ts") is None


def test_another_order_of_keys_shows() -> None:
    properties = parse_properties(block(rocksdb_comparator=b"rocksdb.ReverseBytewiseComparator"))
    assert not properties.is_bytewise


@pytest.mark.parametrize("value", [b"", b"\x80", b"\1\1", b"\xff" * 11])
def test_a_count_that_is_no_number_is_corruption(value: bytes) -> None:
    with pytest.raises(CorruptionError, match=r"rocksdb\.num\.entries is not a number"):
        parse_properties(block(rocksdb_num_entries=value))


def test_an_unknown_index_type_is_corruption() -> None:
    with pytest.raises(CorruptionError, match="index type 4"):
        parse_properties(block(rocksdb_block_based_table_index_type=struct.pack("<I", 4)))
    with pytest.raises(CorruptionError, match="3 bytes"):
        parse_properties(block(rocksdb_block_based_table_index_type=b"\0\0\0"))


def test_the_global_sequence_number_can_be_taken_back() -> None:
    restored = parse_properties(without_global_seqno(block()))
    assert restored.global_seqno == 0
    assert restored.num_entries == 300
    bare = encode_block([(b"rocksdb.num.entries", varints(1))])
    assert without_global_seqno(bare) == bare
