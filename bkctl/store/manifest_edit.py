"""Writes a MANIFEST anew with files taken out of it: a database that is thinner on purpose.

`bkctl.store.manifest` shows the format. Only copies in a private folder are ever written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from bkctl.codec.log import TornTailError, read_records, write_records
from bkctl.codec.varint import encode_uvarint
from bkctl.store.manifest import LiveFile

_FAMILY_ID = encode_uvarint(200)
_DELETED_FILE = encode_uvarint(6)
_FILES_PER_EDIT = 1024


def without_files(
    blocks: Iterable[bytes], path: Path, files: Iterable[LiveFile]
) -> Iterator[bytes]:
    """A MANIFEST, in pieces, with `files`, which must be live, deleted by further version edits.

    `blocks` are its own. A record cut off at the end is dropped, as RocksDB would. Raises
    CorruptionError, naming `path`, for other damage.
    """
    yield from write_records(chain(_whole_records(blocks, path), _deletions(files)))


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
