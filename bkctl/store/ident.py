"""A store's own identity: the StoreIdent record.

key 01 01 in `default`: protobuf StoreIdent (bkctl/proto/raft_serverpb.proto)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bkctl.codec.tso import physical_ms
from bkctl.errors import CorruptionError, UsageError
from bkctl.proto import raft_serverpb_pb2
from bkctl.proto.strict import parse

IDENT_KEY = b"\x01\x01"
_RAW_START, _RAW_END = b"r", b"s"
API_V1, API_V1TTL, API_V2 = 0, 1, 2
API_NAMES = {API_V1: "V1", API_V1TTL: "V1TTL", API_V2: "V2"}


@dataclass(frozen=True, slots=True)
class StoreIdent:
    """Which store of which cluster this is, and how its raw keys and values are laid out."""

    cluster_id: int = 0
    store_id: int = 0
    api_version: int = API_V1


def expired_by(ts: int, api_version: int) -> int | None:
    """The unix second of a TSO, by which raw pairs may have expired; None where they cannot."""
    return None if api_version == API_V1 else physical_ms(ts) // 1000


def has_plain_keys(is_raw: bool, api_version: int) -> bool:
    """Whether keys are stored as they are, as raw ones are before API V2, or memcomparable."""
    return is_raw and api_version != API_V2


def raw_window(start_key: bytes, end_key: bytes) -> tuple[bytes, bytes]:
    """What of a window of raw user keys API V2 has raw pairs in; UsageError for nothing.

    They begin with `r`, and three bytes of their keyspace.
    """
    end = min(end_key or _RAW_END, _RAW_END)
    start = max(start_key, _RAW_START)
    if start >= end:
        raise UsageError(
            "the keys of API V2's raw pairs begin with r (72), and none of those asked for does; "
            "give such keys, or --keyspace"
        )
    return start, end


def parse_store_ident(value: bytes, source: Path) -> StoreIdent:
    """Read the record's value; raises CorruptionError naming `source` for anything else."""
    try:
        ident = parse(raft_serverpb_pb2.StoreIdent, value)
    except CorruptionError as e:
        raise CorruptionError(f"{source}: the store's identity record is damaged ({e})") from None
    if ident.api_version not in API_NAMES:
        raise CorruptionError(
            f"{source}: unknown API version {ident.api_version} in the store's identity"
        )
    return StoreIdent(ident.cluster_id, ident.store_id, ident.api_version)
