"""Reads a RocksDB MANIFEST: which SST files and logs make up the database, and whether it is whole.

RocksDB takes a MANIFEST that is cut short for one that ends there, and then shows an older, thinner
database without a word. So every record is checked here before RocksDB is let near it.

The file is a log (`bkctl.codec.log`) whose records are version edits, sequences of (varint tag,
fields):

    1 comparator str     2 log number     3 next file number    4 last sequence
    5 cursor (level, str)  6 deleted file (level, number)       9 previous log   10 min log to keep
    7, 100, 102, 103 new file: level, number, [path id: 102], size, smallest str, largest str,
        [smallest and largest sequence: from 100], [103: (tag, str)* until tag 1]
    200 column family id   201 family added str   202 family dropped   203 max family id
    300 records left in an atomic group          8192 and up: str, may be ignored, of these:
    8196, 8199 (in a str) a log: number, [2, synced size], 1
    8197, 8200 (in a str) no more logs before: number
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bkctl.codec.log import TornTailError, blocks_of, read_records
from bkctl.codec.varint import decode_uvarint
from bkctl.errors import CorruptionError

MAX_BYTES = 2 << 30
"""What a MANIFEST may have; RocksDB begins a new one at 1 GiB, TiKV's at 128 or 256 MiB."""
_SAFE_IGNORE = 1 << 13
_WAL_ADDITION, _WAL_DELETION, _WAL_ADDITION_2, _WAL_DELETION_2 = 8196, 8197, 8199, 8200
_VARINT_TAGS = {2, 3, 4, 9, 10, 203, 300}
_NEW_FILE_TAGS = {7, 100, 102, 103}


@dataclass(frozen=True, slots=True)
class LiveFile:
    """One SST file of the current version; keys are user keys, inclusive; size in bytes."""

    number: int
    family: str
    level: int
    size: int
    smallest_key: bytes
    largest_key: bytes
    largest_sequence: int
    family_id: int = 0

    @property
    def name(self) -> str:
        """Its file name in the database directory."""
        return f"{self.number:06}.sst"


@dataclass(frozen=True, slots=True)
class TrackedLog:
    """A write-ahead log that the MANIFEST counts, and how many bytes of it were synced."""

    number: int
    synced_size: int


@dataclass(frozen=True, slots=True)
class OldestLog:
    """The log from which on records count; writes from `next_sequence` on came after it was named.

    `is_certain` is false where the MANIFEST names it only as of when that was begun.
    """

    number: int = 0
    next_sequence: int = 1
    is_certain: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A column family; logs numbered from `log_number` on hold records of it that no file has."""

    id: int
    name: str
    log_number: int


@dataclass(frozen=True, slots=True)
class ManifestState:
    """What a MANIFEST adds up to; logs numbered from `min_log_number` on hold newer records.

    `known_numbers` are those of all files it ever mentions, live ones and deleted ones. `ingested`
    are the sequence numbers of files of a single one: those that were ingested have such.
    """

    live_files: tuple[LiveFile, ...]
    families: tuple[str, ...]
    min_log_number: int
    last_sequence: int
    known_numbers: frozenset[int]
    ingested: frozenset[int] = frozenset()
    tracked_logs: tuple[TrackedLog, ...] = ()
    oldest_log: OldestLog = OldestLog()
    family_logs: tuple[Family, ...] = ()


def read_manifest(
    content: bytes | Iterable[bytes], path: Path, *, torn_tail_ok: bool = False
) -> ManifestState:
    """Add up a MANIFEST's version edits; its `content` is whole, or the file's blocks in turn.

    `path` is named in errors. Raises CorruptionError for a record that is damaged or makes no
    sense, TornTailError for one that is cut off at the end of the file unless `torn_tail_ok`
    (RocksDB would drop such a record silently).
    """
    builder = _Builder()
    try:
        blocks = blocks_of(content) if isinstance(content, bytes) else content
        for record in read_records(blocks, path):
            builder.apply(record)
    except TornTailError:
        if not torn_tail_ok:
            raise
    except CorruptionError as e:
        text = str(e)
        raise CorruptionError(text if str(path) in text else f"{path}: {text}") from None
    return builder.state()


def _number(log: OldestLog) -> int:
    return log.number


@dataclass(slots=True)
class _Family:
    name: str
    oldest_log: OldestLog = OldestLog()
    is_named: bool = False
    files: dict[int, LiveFile] = field(default_factory=dict)


class _Builder:
    """Applies version edits one after the other."""

    def __init__(self) -> None:
        self._families = {0: _Family("default")}
        self._last_sequence = 0
        self._kept = OldestLog()
        self._group: list[bytes] = []
        self._known: set[int] = set()
        self._ingested: set[int] = set()
        self._tracked: dict[int, int] = {}
        self._forgotten = 0

    def apply(self, record: bytes) -> None:
        edit = _Edit.parse(record)
        if edit.group_left is not None:
            # An atomic group counts only once its last edit is there.
            self._group.append(record)
            if edit.group_left == 0:
                group, self._group = self._group, []
                for member in group:
                    self._apply(_Edit.parse(member))
            return
        self._apply(edit)

    def _apply(self, edit: _Edit) -> None:
        if edit.added_family is not None:
            self._families[edit.family_id] = _Family(edit.added_family)
        if edit.dropped:
            self._families.pop(edit.family_id, None)
        family = self._families.get(edit.family_id)
        self._known.update(edit.deleted)
        self._known.update(new_file[0] for new_file in edit.new_files)
        self._ingested.update(edit.single_sequences)
        for number, size in edit.tracked:
            self._tracked[number] = max(size, self._tracked.get(number, 0))
        self._forgotten = max(self._forgotten, edit.logs_before)
        self._last_sequence = max(self._last_sequence, edit.numbers.get(4, 0))
        if family is not None:
            for number in edit.deleted:
                family.files.pop(number, None)
            for number, level, size, smallest, largest, sequence in edit.new_files:
                family.files[number] = LiveFile(
                    number,
                    family.name,
                    level,
                    size,
                    smallest,
                    largest,
                    sequence,
                    edit.family_id,
                )
            self._name_log(family, edit)
        if (kept := edit.numbers.get(10, 0)) > self._kept.number:
            is_certain = self._kept.number > 0 and bool(edit.new_files)
            self._kept = OldestLog(kept, self._last_sequence + 1, is_certain)

    def _name_log(self, family: _Family, edit: _Edit) -> None:
        number = edit.numbers.get(2, 0)
        if number > family.oldest_log.number:
            # A family's first is what stood when this MANIFEST was begun.
            is_certain = family.is_named and bool(edit.new_files)
            family.oldest_log = OldestLog(number, self._last_sequence + 1, is_certain)
        family.is_named |= 2 in edit.numbers

    def state(self) -> ManifestState:
        # Families without unflushed records let logs go before they name a newer one.
        needed = (family.oldest_log for family in self._families.values())
        oldest = max(min(needed, key=_number, default=self._kept), self._kept, key=_number)
        before = max(self._forgotten, oldest.number)
        return ManifestState(
            live_files=tuple(
                file for family in self._families.values() for file in family.files.values()
            ),
            families=tuple(family.name for family in self._families.values()),
            min_log_number=oldest.number,
            last_sequence=self._last_sequence,
            known_numbers=frozenset(self._known),
            ingested=frozenset(self._ingested),
            tracked_logs=tuple(
                TrackedLog(number, size)
                for number, size in sorted(self._tracked.items())
                if number >= before
            ),
            oldest_log=oldest,
            family_logs=tuple(
                Family(number, family.name, family.oldest_log.number)
                for number, family in self._families.items()
            ),
        )


@dataclass(slots=True)
class _Edit:
    family_id: int = 0
    added_family: str | None = None
    dropped: bool = False
    group_left: int | None = None
    numbers: dict[int, int] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    new_files: list[tuple[int, int, int, bytes, bytes, int]] = field(default_factory=list)
    single_sequences: list[int] = field(default_factory=list)
    tracked: list[tuple[int, int]] = field(default_factory=list)
    logs_before: int = 0

    @classmethod
    def parse(cls, record: bytes) -> _Edit:
        edit, pos = cls(), 0
        while pos < len(record):
            tag, pos = decode_uvarint(record, pos)
            pos = edit._field(record, tag, pos)
        return edit

    def _field(self, record: bytes, tag: int, pos: int) -> int:
        if tag in _VARINT_TAGS:
            value, pos = decode_uvarint(record, pos)
            if tag == 300:
                self.group_left = value
            self.numbers[tag] = value
        elif tag == 200:
            self.family_id, pos = decode_uvarint(record, pos)
        elif tag == 201:
            name, pos = _string(record, pos)
            self.added_family = name.decode("utf-8", "replace")
        elif tag == 202:
            self.dropped = True
        elif tag == 5:
            _, pos = decode_uvarint(record, pos)
            _, pos = _string(record, pos)
        elif tag == 6:
            _, pos = decode_uvarint(record, pos)
            number, pos = decode_uvarint(record, pos)
            self.deleted.append(number)
        elif tag in _NEW_FILE_TAGS:
            pos = self._new_file(record, tag, pos)
        elif tag in (_WAL_ADDITION, _WAL_DELETION):
            pos = self._log_edit(record, tag, pos)
        elif tag == 1 or tag & _SAFE_IGNORE:
            content, pos = _string(record, pos)
            if tag in (_WAL_ADDITION_2, _WAL_DELETION_2):
                self._log_edit(content, tag, 0)
        else:
            raise CorruptionError(
                f"version edit with tag {tag}, which bkctl does not know (values in blob files, or "
                "a newer RocksDB)"
            )
        return pos

    def _log_edit(self, record: bytes, tag: int, pos: int) -> int:
        number, pos = decode_uvarint(record, pos)
        if tag in (_WAL_DELETION, _WAL_DELETION_2):
            self.logs_before = max(self.logs_before, number)
            return pos
        size = 0
        while (custom := decode_uvarint(record, pos))[0] != 1:
            if custom[0] != 2:
                raise CorruptionError(f"a log's edit has the unknown field {custom[0]}")
            size, pos = decode_uvarint(record, custom[1])
        self.tracked.append((number, size))
        return custom[1]

    def _new_file(self, record: bytes, tag: int, pos: int) -> int:
        level, pos = decode_uvarint(record, pos)
        number, pos = decode_uvarint(record, pos)
        if tag == 102:
            _, pos = decode_uvarint(record, pos)
        size, pos = decode_uvarint(record, pos)
        smallest, pos = _string(record, pos)
        largest, pos = _string(record, pos)
        sequence = 0
        if tag != 7:
            smallest_sequence, pos = decode_uvarint(record, pos)
            sequence, pos = decode_uvarint(record, pos)
            if smallest_sequence == sequence:
                self.single_sequences.append(sequence)
        while tag == 103:
            custom, pos = decode_uvarint(record, pos)
            if custom == 1:
                break
            _, pos = _string(record, pos)
        self.new_files.append((number, level, size, smallest[:-8], largest[:-8], sequence))
        return pos


def _string(record: bytes, pos: int) -> tuple[bytes, int]:
    length, pos = decode_uvarint(record, pos)
    if pos + length > len(record):
        raise CorruptionError("a version edit is cut short")
    return record[pos : pos + length], pos + length
