"""The properties block of an SST file: what its writer counted and noted.

    name                                    value
    rocksdb.num.entries, .data.size, ...    varint
    rocksdb.block.based.table.index.type    4 bytes, LE
    rocksdb.external_sst_file.global_seqno  8 bytes, LE; may be overwritten when a store takes the
                                            file in, and counts as 0 for the block's checksum then
    rocksdb.compression, .comparator, ...   text
    tikv.min_ts, tikv.max_ts, ...           8 bytes, BE

Sources: RocksDB's table/table_properties.cc, meta_blocks.cc; TiKV's engine_rocks/src/properties.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.blocks import meta_entries
from bkctl.sst.index import HASH_SEARCH, TWO_LEVEL, WITH_FIRST_KEY, IndexShape

EXTERNAL_VERSION = "rocksdb.external_sst_file.version"
GLOBAL_SEQNO = "rocksdb.external_sst_file.global_seqno"
_INDEX_TYPE = "rocksdb.block.based.table.index.type"
_BYTEWISE = ("", "leveldb.BytewiseComparator")
_INDEX_TYPES = (0, HASH_SEARCH, TWO_LEVEL, WITH_FIRST_KEY)


@dataclass(frozen=True, slots=True)
class TableProperties:
    """An SST file's properties; a number or text that the file does not have is 0 or empty.

    Sizes are in bytes. `raw_key_size` counts internal keys (8 bytes more than user keys) before
    compression, `data_size` data blocks as stored. `format_version` is 0 in files of older
    writers, whatever their footer says. `user` holds all properties as they are, by name.
    """

    num_entries: int
    num_deletions: int
    num_merge_operands: int
    num_range_deletions: int
    num_data_blocks: int
    raw_key_size: int
    raw_value_size: int
    data_size: int
    index_size: int
    filter_size: int
    format_version: int
    creation_time: int
    global_seqno: int
    index: IndexShape
    compression_name: str
    comparator: str
    column_family_name: str
    user: Mapping[str, bytes]

    @property
    def is_bytewise(self) -> bool:
        """Whether the file's keys are in the order of their bytes."""
        return self.comparator in _BYTEWISE

    def user_u64(self, name: str) -> int | None:
        """The property `name` as the big-endian number TiKV stores; None if it has none such."""
        value = self.user.get(name)
        return int.from_bytes(value, "big") if value is not None and len(value) == 8 else None


def parse_properties(block: bytes) -> TableProperties:
    """Parse a plain properties block; CorruptionError where one is not what its name says."""
    user = {
        name.decode("utf-8", "backslashreplace"): block[start:end]
        for name, start, end in meta_entries(block)
    }
    return TableProperties(
        num_entries=_number(user, "rocksdb.num.entries"),
        num_deletions=_number(user, "rocksdb.deleted.keys"),
        num_merge_operands=_number(user, "rocksdb.merge.operands"),
        num_range_deletions=_number(user, "rocksdb.num.range-deletions"),
        num_data_blocks=_number(user, "rocksdb.num.data.blocks"),
        raw_key_size=_number(user, "rocksdb.raw.key.size"),
        raw_value_size=_number(user, "rocksdb.raw.value.size"),
        data_size=_number(user, "rocksdb.data.size"),
        index_size=_number(user, "rocksdb.index.size"),
        filter_size=_number(user, "rocksdb.filter.size"),
        format_version=_number(user, "rocksdb.format.version"),
        creation_time=_number(user, "rocksdb.creation.time"),
        global_seqno=_fixed(user, GLOBAL_SEQNO, 8),
        index=_index_shape(user),
        compression_name=_text(user, "rocksdb.compression"),
        comparator=_text(user, "rocksdb.comparator"),
        column_family_name=_text(user, "rocksdb.column.family.name"),
        user=MappingProxyType(user),
    )


def without_global_seqno(block: bytes) -> bytes:
    """Return the properties block with the global sequence number as it was first written, 0."""
    for name, start, end in meta_entries(block):
        if name == GLOBAL_SEQNO.encode():
            return block[:start] + bytes(end - start) + block[end:]
    return block


def _index_shape(user: Mapping[str, bytes]) -> IndexShape:
    index_type = _fixed(user, _INDEX_TYPE, 4)
    if index_type not in _INDEX_TYPES:
        raise CorruptionError(f"index type {index_type} is not one this reader knows (0 to 3)")
    return IndexShape(
        index_type,
        user_keys=_number(user, "rocksdb.index.key.is.user.key") != 0,
        delta_values=_number(user, "rocksdb.index.value.is.delta.encoded") != 0,
    )


def _number(user: Mapping[str, bytes], name: str) -> int:
    value = user.get(name)
    if value is None:
        return 0
    try:
        number, end = decode_uvarint(value, 0)
    except CorruptionError:
        end = -1
    if end != len(value):
        raise CorruptionError(f"the property {name} is not a number: {value.hex():.40}")
    return number


def _fixed(user: Mapping[str, bytes], name: str, size: int) -> int:
    value = user.get(name, bytes(size))
    if len(value) != size:
        raise CorruptionError(f"the property {name} has {len(value)} bytes instead of {size}")
    return int.from_bytes(value, "little")


def _text(user: Mapping[str, bytes], name: str) -> str:
    return user.get(name, b"").decode("utf-8", "backslashreplace")
