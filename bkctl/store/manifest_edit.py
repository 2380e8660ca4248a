"""Writes a MANIFEST anew with files taken out of it, or put into it, or one of families alone.

`bkctl.store.manifest` shows the format. Only copies in a private folder are ever written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from bkctl.codec.log import TornTailError, read_records, write_records
from bkctl.codec.varint import encode_uvarint
from bkctl.store.manifest import Family, LiveFile, ManifestState

_FAMILY_ID = encode_uvarint(200)
_DELETED_FILE = encode_uvarint(6)
_LAST_SEQUENCE = encode_uvarint(4)
_NEW_FILE = encode_uvarint(100)
_COMPARATOR = encode_uvarint(1)
_LOG_NUMBER = encode_uvarint(2)
_NEXT_FILE = encode_uvarint(3)
_FAMILY_NAME = encode_uvarint(201)
_MAX_FAMILY = encode_uvarint(203)
_LOGS_DELETED = encode_uvarint(8200)
_BYTEWISE = b"leveldb.BytewiseComparator"
# What comes first, and last, of the records of a key: sequence number (7, LE) and kind behind it.
_FIRST_TRAILER, _LAST_TRAILER = b"\x01" + b"\xff" * 7, bytes(8)
_FILES_PER_EDIT = 1024


def without_files(
    blocks: Iterable[bytes], path: Path, files: Iterable[LiveFile]
) -> Iterator[bytes]:
    """A MANIFEST, in pieces, with `files`, which must be live, deleted by further version edits.

    `blocks` are its own. A record cut off at the end is dropped, as RocksDB would. Raises
    CorruptionError, naming `path`, for other damage.
    """
    yield from write_records(chain(_whole_records(blocks, path), _deletions(files)))


def with_files(
    blocks: Iterable[bytes],
    path: Path,
    files: Iterable[LiveFile],
    state: ManifestState,
    next_log: int,
) -> Iterator[bytes]:
    """A MANIFEST, as `without_files`, with `files` added that logs before `next_log` went into.

    `state` tells its families, and the last sequence number there is now. The files are of level
    0, where it does no harm that their ends are told but roughly.
    """
    ends = chain([_forgotten(state, next_log)], _log_numbers(state, next_log))
    yield from write_records(chain(_whole_records(blocks, path), map(_addition, files), ends))


def _forgotten(state: ManifestState, next_log: int) -> bytes:
    """Tells the last sequence number, and that no log before that number is needed."""
    last = _LAST_SEQUENCE + encode_uvarint(state.last_sequence)
    return last + _LOGS_DELETED + _text(encode_uvarint(next_log))


def _log_numbers(state: ManifestState, next_log: int) -> Iterator[bytes]:
    number = _LOG_NUMBER + encode_uvarint(next_log)
    for family in state.family_logs:
        yield _FAMILY_ID + encode_uvarint(family.id) + number


def of_families(state: ManifestState, next_file: int) -> Iterator[bytes]:
    """A MANIFEST of the families of `state` without any file, for logs to be replayed into.

    New files will have numbers from `next_file` on. Keys are in the order of their bytes.
    """
    last = max(family.id for family in state.family_logs)
    edits = [_family(family) for family in sorted(state.family_logs, key=lambda family: family.id)]
    ends = [(_NEXT_FILE, next_file), (_LAST_SEQUENCE, state.last_sequence), (_MAX_FAMILY, last)]
    edits[0] += b"".join(tag + encode_uvarint(number) for tag, number in ends)
    yield from write_records(edits)


def _family(family: Family) -> bytes:
    edit = [_COMPARATOR, _text(_BYTEWISE), _LOG_NUMBER, encode_uvarint(family.log_number)]
    if family.id:
        edit += [_FAMILY_ID, encode_uvarint(family.id), _FAMILY_NAME, _text(family.name.encode())]
    return b"".join(edit)


def _text(text: bytes) -> bytes:
    return encode_uvarint(len(text)) + text


def _addition(file: LiveFile) -> bytes:
    edit = [_FAMILY_ID, encode_uvarint(file.family_id), _NEW_FILE]
    edit += map(encode_uvarint, (file.level, file.number, file.size))
    edit += (_text(file.smallest_key + _FIRST_TRAILER), _text(file.largest_key + _LAST_TRAILER))
    edit += (encode_uvarint(0), encode_uvarint(file.largest_sequence))
    return b"".join(edit)


def _deletions(files: Iterable[LiveFile]) -> Iterator[bytes]:
    by_family: dict[int, list[LiveFile]] = {}
    for file in files:
        by_family.setdefault(file.family_id, []).append(file)
    for family_id, deleted in by_family.items():
        for first in range(0, len(deleted), _FILES_PER_EDIT):
            yield _deletion(family_id, deleted[first : first + _FILES_PER_EDIT])


def _whole_records(blocks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from read_records(blocks, path)
    except TornTailError:
        return


def _deletion(family_id: int, files: Iterable[LiveFile]) -> bytes:
    edit = [_FAMILY_ID, encode_uvarint(family_id)]
    for file in files:
        edit += (_DELETED_FILE, encode_uvarint(file.level), encode_uvarint(file.number))
    return b"".join(edit)
