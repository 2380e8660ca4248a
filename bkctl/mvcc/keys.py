"""Keys as a TiKV store keeps them.

    data key, `write`:    z | memcomparable(raw key) | ~commit_ts (8, BE)
    data key, `default`:  z | memcomparable(raw key) | ~start_ts  (8, BE)
    data key, `lock`:     z | memcomparable(raw key)
    data key, raw mode:   z | raw key

Inverted timestamps make newer versions sort first.
"""

from __future__ import annotations

from bkctl.codec.memcomparable import decode, encode
from bkctl.errors import CorruptionError

DATA_PREFIX = b"z"
DATA_END = b"{"
TS_SIZE = 8
MAX_TS = (1 << 64) - 1


def encode_ts(ts: int) -> bytes:
    """A timestamp as keys carry it: inverted, 8 bytes, big-endian."""
    return (ts ^ MAX_TS).to_bytes(TS_SIZE, "big")


def decode_ts(suffix: bytes) -> int:
    """The timestamp of a key's last 8 bytes."""
    return int.from_bytes(suffix, "big") ^ MAX_TS


def versioned_key(raw_key: bytes, ts: int) -> bytes:
    """The data key of one version of a raw user key."""
    return DATA_PREFIX + encode(raw_key) + encode_ts(ts)


def split_versioned(data_key: bytes) -> tuple[bytes, int]:
    """(raw user key, timestamp) of a data key; raises CorruptionError for anything else."""
    if len(data_key) < 1 + 9 + TS_SIZE or not data_key.startswith(DATA_PREFIX):
        raise CorruptionError(f"key {data_key.hex().upper()} is no versioned data key")
    return decode_data_key(data_key[:-TS_SIZE]), decode_ts(data_key[-TS_SIZE:])


def decode_data_key(data_key: bytes) -> bytes:
    """The raw user key of a data key without timestamp; raises CorruptionError."""
    if not data_key.startswith(DATA_PREFIX):
        raise CorruptionError(f"key {data_key.hex().upper()} is no data key (no z before it)")
    return decode(data_key[1:])
