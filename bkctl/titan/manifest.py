"""Reads titandb's MANIFEST: which blob files a store has.

The file is a log (`bkctl.codec.log`) whose records are version edits, sequences of (varint tag,
fields):

     1 next file number           10 column family id of the edit's files
    11 added file: number, size
    13 added file: number, size, entries, level, smallest str, largest str
    14 added file: number, size, entries, level, block size, smallest str, largest str
    12 deleted file: number

Numbers are varints, a str is a varint length and so many bytes; keys are user keys. All edits are
one sum: a file counts if it was added and not deleted. A number is given once. Sources: Titan's
src/version_edit.cc, src/blob_format.cc and src/edit_collector.h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bkctl.codec.log import TornTailError, read_records
from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

FOLDER = "titandb"
"""Where Titan keeps its files, in the database's directory."""

_NEXT_FILE, _FAMILY, _ADDED, _DELETED, _ADDED_V2, _ADDED_V3 = 1, 10, 11, 12, 13, 14
# How many numbers each kind of added file has before its keys.
_NUMBERS = {_ADDED: 2, _ADDED_V2: 4, _ADDED_V3: 5}


@dataclass(frozen=True, slots=True)
class BlobFileMeta:
    """A blob file of a column family; size in bytes, keys are user keys, empty where unknown."""

    number: int
    size: int
    family_id: int
    smallest_key: bytes = b""
    largest_key: bytes = b""

    @property
    def name(self) -> str:
        """Its file name in titandb's directory."""
        return blob_name(self.number)


def blob_name(number: int) -> str:
    """The file name of a blob file."""
    return f"{number:06}.blob"


def read_titan_manifest(
    blocks: Iterable[bytes], path: Path, *, torn_tail_ok: bool = False
) -> tuple[BlobFileMeta, ...]:
    """The blob files that titandb's MANIFEST, read as `blocks` of its log, names, by number.

    `path` is named in errors. Raises CorruptionError for a record that is damaged or makes no
    sense, TornTailError for one that is cut off at the end of the file unless `torn_tail_ok`.
    """
    edits = _Edits()
    try:
        for record in read_records(blocks, path):
            edits.add(record)
    except TornTailError:
        if not torn_tail_ok:
            raise
    except CorruptionError as e:
        text = str(e)
        raise CorruptionError(text if str(path) in text else f"{path}: {text}") from None
    return edits.files(path)


@dataclass(slots=True)
class _Edits:
    """The sum of version edits."""

    added: dict[int, BlobFileMeta] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    next_file: int | None = None

    def add(self, record: bytes) -> None:
        pos, family_id = 0, 0
        added: list[tuple[int, int, bytes, bytes]] = []
        while pos < len(record):
            tag, pos = decode_uvarint(record, pos)
            if tag in _NUMBERS:
                file, pos = _added_file(record, tag, pos)
                added.append(file)
                continue
            number, pos = decode_uvarint(record, pos)
            if tag == _NEXT_FILE:
                if number < (self.next_file or 0):
                    raise CorruptionError(
                        f"a version edit has the next file number {number}, one before it "
                        f"{self.next_file}"
                    )
                self.next_file = number
            elif tag == _FAMILY:
                family_id = number
            elif tag == _DELETED:
                self.deleted.add(number)
            else:
                raise CorruptionError(
                    f"version edit with tag {tag}, which bkctl does not know (a newer Titan)"
                )
        for number, size, smallest, largest in added:
            # Of several with one number, the first counts.
            meta = BlobFileMeta(number, size, family_id, smallest, largest)
            self.added.setdefault(number, meta)

    def files(self, path: Path) -> tuple[BlobFileMeta, ...]:
        if self.next_file is None:
            raise CorruptionError(f"{path}: no version edit tells the next file number")
        unknown = self.deleted - self.added.keys()
        if unknown:
            raise CorruptionError(
                f"{path}: blob file {min(unknown)} is deleted, but was never added"
            )
        live = self.added.keys() - self.deleted
        return tuple(self.added[number] for number in sorted(live))


def _added_file(record: bytes, tag: int, pos: int) -> tuple[tuple[int, int, bytes, bytes], int]:
    numbers = []
    for _ in range(_NUMBERS[tag]):
        number, pos = decode_uvarint(record, pos)
        numbers.append(number)
    keys = [b"", b""]
    if tag != _ADDED:
        for i in range(2):
            length, pos = decode_uvarint(record, pos)
            if pos + length > len(record):
                raise CorruptionError("a version edit is cut short")
            keys[i], pos = record[pos : pos + length], pos + length
    return (numbers[0], numbers[1], keys[0], keys[1]), pos
