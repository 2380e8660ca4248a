"""What becomes of transactions that nobody can end any more."""

from __future__ import annotations

from typing import Any

import pytest

from bkctl.codec.varint import encode_uvarint, encode_zigzag
from bkctl.mvcc.keys import TS_SIZE, versioned_key
from bkctl.mvcc.presume import End, presume_end

START = 100


def lock(
    kind: bytes = b"P",
    start_ts: int = START,
    min_commit_ts: int = 0,
    secondaries: tuple[bytes, ...] | None = None,
) -> bytes:
    """A lock of a transaction whose primary is `p`."""
    value = kind + encode_zigzag(1) + b"p" + encode_uvarint(start_ts) + encode_uvarint(3000)
    value += b"c" + min_commit_ts.to_bytes(8, "big")
    if secondaries is not None:
        value += b"a" + encode_uvarint(len(secondaries))
        value += b"".join(encode_zigzag(len(key)) + key for key in secondaries)
    return value


class Locks:
    """The lock family of a store."""

    def __init__(self, locks: dict[bytes, bytes]) -> None:
        self._locks = {versioned_key(key, 0)[:-TS_SIZE]: value for key, value in locks.items()}

    def get(self, family: str, key: bytes) -> bytes | None:
        assert family == "lock"
        return self._locks.get(key)


def end_of(
    locks: dict[bytes, bytes], ends: dict[bytes, End] | None = None, missing: bytes = b""
) -> End | None:
    store: Any = Locks(locks)

    def home(key: bytes) -> Any:
        return None if missing and key == missing else store

    return presume_end(b"p", START, home, lambda key, ts: (ends or {}).get(key))


ASYNC = lock(min_commit_ts=120, secondaries=(b"s", b"t"))
OTHERS = {
    b"s": lock(min_commit_ts=130, secondaries=()),
    b"t": lock(min_commit_ts=110, secondaries=()),
}


@pytest.mark.parametrize(
    ("locks", "end"),
    [
        ({}, (None,)),
        ({b"p": lock()}, (None,)),
        ({b"p": lock(start_ts=99, secondaries=())}, (None,)),
        ({b"p": lock(b"S", secondaries=())}, (None,)),
        ({b"p": lock(min_commit_ts=105, secondaries=())}, (105,)),
        ({b"p": ASYNC, **OTHERS}, (130,)),
        ({b"p": ASYNC, b"s": OTHERS[b"s"]}, (None,)),
        ({b"p": ASYNC, **OTHERS, b"t": lock(start_ts=99, secondaries=())}, (None,)),
        ({b"p": ASYNC, **OTHERS, b"t": lock(b"S", secondaries=())}, (None,)),
        # One that fell back to two phases.
        ({b"p": ASYNC, **OTHERS, b"t": lock()}, (None,)),
        ({b"p": lock(), **OTHERS}, (None,)),
    ],
)
def test_only_an_async_commit_with_all_its_locks_is_committed(
    locks: dict[bytes, bytes], end: End
) -> None:
    assert end_of(locks) == end


def test_a_record_of_one_key_tells_of_all() -> None:
    locks = {b"p": ASYNC, b"t": OTHERS[b"t"]}
    assert end_of(locks, {b"s": (125,)}) == (125,)
    assert end_of(locks, {b"s": (None,)}) == (None,)


@pytest.mark.parametrize("key", [b"p", b"s", b"t"])
def test_nothing_is_presumed_of_keys_that_are_not_at_hand(key: bytes) -> None:
    assert end_of({b"p": ASYNC, **OTHERS}, missing=key) is None
