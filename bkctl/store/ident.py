"""A store's own identity: the StoreIdent record.

key 01 01 in `default`: protobuf {1: cluster_id u64, 2: store_id u64, 3: api_version}
api_version: 0 V1, 1 V1TTL, 2 V2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

IDENT_KEY = b"\x01\x01"
API_V1, API_V1TTL, API_V2 = 0, 1, 2
API_NAMES = {API_V1: "V1", API_V1TTL: "V1TTL", API_V2: "V2"}


@dataclass(frozen=True, slots=True)
class StoreIdent:
    """Which store of which cluster this is, and how its raw keys and values are laid out."""

    cluster_id: int = 0
    store_id: int = 0
    api_version: int = API_V1


def parse_store_ident(value: bytes, source: Path) -> StoreIdent:
    """Read the record's value; raises CorruptionError naming `source` for anything else."""
    numbers = {1: 0, 2: 0, 3: 0}
    pos = 0
    try:
        while pos < len(value):
            tag, pos = decode_uvarint(value, pos)
            number, pos = decode_uvarint(value, pos)
            if tag & 7 != 0:
                raise CorruptionError("a field that is no number")
            if tag >> 3 in numbers:
                numbers[tag >> 3] = number
    except CorruptionError as e:
        raise CorruptionError(f"{source}: the store's identity record is damaged ({e})") from None
    if numbers[3] not in API_NAMES:
        raise CorruptionError(f"{source}: unknown API version {numbers[3]} in the store's identity")
    return StoreIdent(numbers[1], numbers[2], numbers[3])
