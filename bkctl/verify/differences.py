"""How records of a store and of a backup, both in key order, differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bkctl.errors import CorruptionError
from bkctl.mvcc.write import parse_write

NOT_IN_BACKUP = "missing in the backup"
NOT_IN_STORE = "missing in the store"
NOT_EQUAL = "the value differs"

Chunk = tuple[Sequence[bytes], Sequence[bytes]]
"""Keys, and their values."""
Found = Iterator[tuple[bytes, str]]
"""User keys that differ, and how."""
_Same = Callable[[bytes, bytes], bool]


def is_equal(ours: Chunk, theirs: Chunk) -> bool:
    """Whether two chunks hold the same records."""
    # One side may have lists, the other tuples.
    return all(list(one) == list(other) for one, other in zip(ours, theirs, strict=True))


def _identical(one: bytes, other: bytes) -> bool:
    return one == other


def is_same_record(one: bytes, other: bytes) -> bool:
    """Whether two write records mean the same to a reader."""
    if one == other:
        return True
    try:
        ours, theirs = parse_write(one), parse_write(other)
    except CorruptionError:
        return False
    return (ours.write_type, ours.start_ts, ours.short_value) == (
        theirs.write_type,
        theirs.start_ts,
        theirs.short_value,
    )


def merge_records(
    ours: Iterator[Chunk] | list[Chunk],
    theirs: Iterator[Chunk] | list[Chunk],
    suffix: int,
    is_same: _Same = _identical,
) -> Found:
    """Yield the user keys that the store (`ours`) and the backup do not have alike, in order."""
    store, backup = _records(ours, suffix), _records(theirs, suffix)
    one, other = next(store, None), next(backup, None)
    while one is not None or other is not None:
        if one is not None and (other is None or one.user_key < other.user_key):
            yield one.user_key, NOT_IN_BACKUP
            one = next(store, None)
        elif other is not None and (one is None or other.user_key < one.user_key):
            yield other.user_key, NOT_IN_STORE
            other = next(backup, None)
        elif one is not None and other is not None:
            if one.timestamp != other.timestamp or not is_same(one.value, other.value):
                yield one.user_key, NOT_EQUAL
            one, other = next(store, None), next(backup, None)


class _Record(NamedTuple):
    user_key: bytes
    timestamp: bytes
    value: bytes


def _records(chunks: Iterator[Chunk] | list[Chunk], suffix: int) -> Iterator[_Record]:
    for keys, values in chunks:
        for key, value in zip(keys, values, strict=True):
            end = len(key) - suffix
            yield _Record(key[:end], key[end:], value)
