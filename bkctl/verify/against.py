"""Compares what a backup holds of a range with what a store shows of it now, record by record.

Both sides are streams in key order, read a piece at a time and compared up to the key that both
have reached. Records are equal if they mean the same: a store may have marked one since (a
rollback that overlaps it, a fence behind it) without changing what a reader sees.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.encryption import plain_reader
from bkctl.archive.meta import BackupFile
from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import TS_SIZE, decode_data_key
from bkctl.mvcc.raw import RawLayout, RawScanner
from bkctl.mvcc.scan import EntryScanner
from bkctl.sst.damage import DamageList
from bkctl.sst.reader import SstReader
from bkctl.storage.base import NotFoundError
from bkctl.store.database import Database
from bkctl.store.ident import API_V1, has_plain_keys
from bkctl.verify.differences import (
    NOT_IN_STORE,
    Chunk,
    Found,
    is_equal,
    is_same_record,
    merge_records,
)
from bkctl.verify.file import DEFAULT, WRITE, Advance, Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

SHOWN_DIFFERENCES = 10
_BATCH_RECORDS = 1024
_BATCH_BYTES = 1 << 20

_KeyBounds = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Segment:
    """Raw user keys `[start_key, end_key)` to compare, and the backup's files that cover them."""

    start_key: bytes
    end_key: bytes
    files: tuple[BackupFile, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A raw user key that backup and store do not agree on."""

    raw_key: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many keys differ, and the first of them; `findings` are of files that cannot be read."""

    total: int
    first: tuple[Difference, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What of a store to compare with: the backup's TSOs, in raw mode a column family as well.

    `api_version` tells how raw pairs are laid out.
    """

    start_ts: int
    end_ts: int
    is_raw: bool
    family: str = DEFAULT
    api_version: int = API_V1

    @property
    def has_plain_keys(self) -> bool:
        """Whether keys are stored as they are."""
        return has_plain_keys(self.is_raw, self.api_version)


def segments_of(
    planned: Sequence[_KeyBounds], files: Sequence[BackupFile], families: Sequence[str]
) -> list[Segment]:
    """Cut the ranges that are planned or that files cover, all raw user keys, into segments.

    Within a segment nothing begins or ends; each has at most one file of a family. In key order.
    """
    spans = [*planned, *((file.start_key, file.end_key) for file in files if file.cf in families)]
    cuts = sorted({start for start, _ in spans} | {end for _, end in spans if end})
    by_family = [
        sorted((file for file in files if file.cf == family), key=lambda file: file.start_key)
        for family in families
    ]
    segments: list[Segment] = []
    if not cuts:
        return segments
    active: list[_KeyBounds] = []
    waiting = sorted(spans, reverse=True)
    for start, end in zip(cuts, [*cuts[1:], b""], strict=True):
        active = [span for span in active if not span[1] or span[1] > start]
        while waiting and waiting[-1][0] == start:
            active.append(waiting.pop())
        if active:
            covering = (_covering(ordered, start) for ordered in by_family)
            segments.append(Segment(start, end, tuple(file for file in covering if file)))
    return segments


def _covering(ordered: Sequence[BackupFile], raw_key: bytes) -> BackupFile | None:
    at = bisect_right(ordered, raw_key, key=lambda file: file.start_key) - 1
    if at < 0 or (ordered[at].end_key and ordered[at].end_key <= raw_key):
        return None
    return ordered[at]


class _BackupDamagedError(Exception):
    """A file of the backup cannot be read: how is in `findings`."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__()
        self.findings = findings


def compare_segment(
    segment: Segment,
    backup_dir: BackupDir,
    database: Database,
    snapshot: Snapshot,
    advance: Advance,
    cipher: Cipher | None = None,
) -> Comparison:
    """Compare one segment; raises CorruptionError where the store is damaged, StorageError.

    A damaged file of the backup ends the comparison of its segment and is a finding.
    """
    bounds = EntryBounds(
        segment.start_key,
        segment.end_key,
        snapshot.start_ts,
        snapshot.end_ts,
        snapshot.has_plain_keys,
    )
    lower, upper = bounds.lower(), bounds.upper()
    total = 0
    first: list[Difference] = []
    with contextlib.ExitStack() as opened:
        backup = {
            file.cf: _file_chunks(file, backup_dir, lower, upper, opened, cipher)
            for file in segment.files
        }
        if snapshot.is_raw:
            store = _raw_chunks(database, snapshot, lower, upper)
            found = _compare_raw(store, _Feed(backup.get(snapshot.family, iter(())), 0), advance)
        else:
            found = _TxnComparison(
                _StoreFeed(database, lower, upper, snapshot),
                _Feed(backup.get(WRITE, iter(())), TS_SIZE),
                _Feed(backup.get(DEFAULT, iter(())), TS_SIZE),
                advance,
            ).run()
        try:
            for user_key, what in found:
                total += 1
                if len(first) < SHOWN_DIFFERENCES:
                    first.append(Difference(_raw_key(user_key, snapshot), what))
        except _BackupDamagedError as e:
            return Comparison(total, tuple(first), e.findings)
    return Comparison(total, tuple(first))


def _raw_key(user_key: bytes, snapshot: Snapshot) -> bytes:
    if snapshot.has_plain_keys:
        return user_key[1:]
    try:
        # Raw pairs are compared with their timestamps.
        return decode_data_key(user_key[:-TS_SIZE] if snapshot.is_raw else user_key)
    except CorruptionError:
        return user_key


class _Feed:
    """Records of one side, in order; `suffix` bytes at the end of keys are their timestamp."""

    def __init__(self, chunks: Iterator[Chunk], suffix: int) -> None:
        self._chunks = chunks
        self._suffix = suffix
        self._keys: Sequence[bytes] = ()
        self._values: Sequence[bytes] = ()

    def fill(self) -> bool:
        """Whether there are more records; reads on if need be."""
        while not self._keys:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._keys, self._values = chunk
        return True

    def last_user_key(self) -> bytes:
        """The last user key of what is at hand."""
        last = self._keys[-1]
        return last[: len(last) - self._suffix]

    def take(self, user_key: bytes) -> Chunk:
        """What is at hand of the keys up to `user_key`."""
        count = bisect_right(self._keys, user_key + b"\xff" * self._suffix)
        taken = self._keys[:count], self._values[:count]
        self._keys, self._values = self._keys[count:], self._values[count:]
        return taken

    def take_all(self, user_key: bytes) -> Iterator[Chunk]:
        """All records of the keys up to `user_key`."""
        while self.fill():
            taken = self.take(user_key)
            if not taken[0]:
                return
            yield taken


class _StoreFeed(_Feed):
    """The snapshot of a store: write records, and the values of `default` on demand."""

    def __init__(self, database: Database, lower: bytes, upper: bytes, snapshot: Snapshot) -> None:
        self._scanner = EntryScanner(database, lower, upper, snapshot.start_ts, snapshot.end_ts)
        self._default_keys: list[bytes] = []
        super().__init__(self._scan(), TS_SIZE)

    def _scan(self) -> Iterator[Chunk]:
        while (batch := self._scanner.scan_entries()) is not None:
            for segment in batch.segments:
                self._default_keys += segment.default_keys.tolist()
                yield segment.keys.tolist(), segment.values.tolist()

    def long_values(self, user_key: bytes) -> Iterator[Chunk]:
        """The long values of keys up to `user_key`, all of which have been taken."""
        count = bisect_right(self._default_keys, user_key + b"\xff" * TS_SIZE)
        wanted, self._default_keys = self._default_keys[:count], self._default_keys[count:]
        for keys, values in self._scanner.long_values.fetch(ByteStrings.of(wanted)):
            yield keys.tolist(), values.tolist()


def _raw_chunks(
    database: Database, snapshot: Snapshot, lower: bytes, upper: bytes
) -> Iterator[Chunk]:
    layout = RawLayout(snapshot.api_version, snapshot.start_ts, snapshot.end_ts)
    scanner = RawScanner(database, snapshot.family, lower, upper, layout)
    while (batch := scanner.scan_batch()) is not None:
        keys, values = batch
        yield keys.tolist(), values.tolist()


def _file_chunks(
    file: BackupFile,
    backup_dir: BackupDir,
    lower: bytes,
    upper: bytes,
    opened: contextlib.ExitStack,
    cipher: Cipher | None,
) -> Iterator[Chunk]:
    """A file's records in `[lower, upper)`; opens it when the first is asked for."""
    if file.cipher_iv and cipher is None:
        what = "is encrypted, and cannot be compared without its key"
        raise _BackupDamagedError(Finding(file.name, None, what))
    try:
        stored = opened.enter_context(backup_dir.open_file(file.name))
        entries = SstReader(plain_reader(stored, file, cipher), file.name).entries(lower)
        keys: list[bytes] = []
        values: list[bytes] = []
        size = 0
        for key, value in entries:
            if key >= upper:
                break
            keys.append(key)
            values.append(value)
            size += len(value)
            if len(keys) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
                yield keys, values
                keys, values, size = [], [], 0
        if keys:
            yield keys, values
    except NotFoundError:
        raise _BackupDamagedError(Finding(file.name, None, "is missing")) from None
    except CorruptionError as e:
        damages = DamageList(file.name)
        damages.add_error(0, e)
        raise _BackupDamagedError(
            *(Finding(file.name, damage.offset, damage.what) for damage in damages.all())
        ) from None


def _compare_raw(store: Iterator[Chunk], backup: _Feed, advance: Advance) -> Found:
    feed = _Feed(store, 0)
    while (bound := _bound(feed, backup)) is not None:
        ours, theirs = feed.take(bound), backup.take(bound)
        if not is_equal(ours, theirs):
            yield from merge_records([ours], [theirs], 0)
        advance(len(ours[0]), sum(map(len, ours[0])) + sum(map(len, ours[1])))


def _bound(one: _Feed, other: _Feed) -> bytes | None:
    """The last user key that both sides have reached; None where both are at their end."""
    reached = [feed.last_user_key() for feed in (one, other) if feed.fill()]
    return min(reached, default=None)


class _TxnComparison:
    """Compares write records first, then the long values of the same keys."""

    def __init__(self, store: _StoreFeed, writes: _Feed, defaults: _Feed, advance: Advance) -> None:
        self._store, self._writes, self._defaults = store, writes, defaults
        self._advance = advance

    def run(self) -> Found:
        """Yield the user keys that differ, in order."""
        while (bound := _bound(self._store, self._writes)) is not None:
            yield from self._compare_up_to(bound)
        yield from (
            (key[:-TS_SIZE], NOT_IN_STORE)
            for keys, _ in self._defaults.take_all(b"\xff")
            for key in keys
        )

    def _compare_up_to(self, bound: bytes) -> Found:
        ours, theirs = self._store.take(bound), self._writes.take(bound)
        found: dict[bytes, str] = {}
        if not is_equal(ours, theirs):
            found.update(merge_records([ours], [theirs], TS_SIZE, is_same_record))
        long_bytes = 0

        def counted(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
            nonlocal long_bytes
            for chunk in chunks:
                long_bytes += sum(map(len, chunk[1]))
                yield chunk

        values = merge_records(
            counted(self._store.long_values(bound)), self._defaults.take_all(bound), TS_SIZE
        )
        for user_key, what in values:
            # Where the records differ, so may their values: that is one difference.
            found.setdefault(user_key, what)
        yield from sorted(found.items())
        self._advance(len(ours[0]), sum(map(len, chain(*ours))) + long_bytes)
