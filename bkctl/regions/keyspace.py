"""Keyspaces of API V2: which keys are of one.

    key    mode (r raw, x transactional) | keyspace id (3, BE) | user key

The stores themselves know no names, only ids. Source: TiKV's api_version/src/api_v2.rs.
"""

from __future__ import annotations

MAX_KEYSPACE_ID = (1 << 24) - 1


def keyspace_window(
    keyspace: int, start: bytes, end: bytes, *, is_raw: bool
) -> tuple[bytes, bytes]:
    """The raw user keys of a keyspace, from its own `start` to its `end`; empty is no bound."""
    prefix = (b"r" if is_raw else b"x") + keyspace.to_bytes(3, "big")
    behind = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
    return prefix + start, prefix + end if end else behind
