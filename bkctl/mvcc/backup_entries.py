"""Checks the records of a backup's files: what only a snapshot of a range may hold, counted anew.

    write     z | memcomparable(raw key) | ~commit_ts    Put or Delete, one version a key
    default   z | memcomparable(raw key) | ~start_ts     the value of a Put in `write`
    raw       z | raw key

Every key lies in its file's range, every commit_ts in (start_ts, end_ts], a Delete only in an
incremental backup. `write` says which keys `default` must have, in the same order: a running
digest of both is enough to see whether they agree.

Records come in batches and are looked at as columns. Only where a batch is refused is it halved
until the records at fault stand alone.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.batch import Keys, Records, with_timestamps
from bkctl.mvcc.entries import account_long
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import MAX_TS, TS_SIZE, decode_data_key
from bkctl.mvcc.raw import RawLayout, Tails, account_raw
from bkctl.mvcc.write import DELETE, PUT, parse_write
from bkctl.store.ident import API_V1, API_V2

MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class EntryProblem:
    """What is wrong with record number `row` of the batch that was given."""

    row: int
    what: str


class References:
    """The keys of `default` that a file refers to, or that it has, as a count and a digest."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.blake2b(digest_size=32)

    def add(self, default_keys: Sequence[bytes]) -> None:
        """Count further keys, in order."""
        self.count += len(default_keys)
        # Keys end where their encoding says, so they need nothing between them.
        self._digest.update(b"".join(default_keys))

    def agree(self, other: References) -> bool:
        """Whether both have counted the same keys in the same order."""
        return (self.count, self._digest.digest()) == (other.count, other._digest.digest())


class EntryChecker(Protocol):
    """Checks the records of one file; batches come in key order.

    `accounting` counts the sound records as the format's rule says, `references` the keys of
    `default` that they refer to or are.
    """

    accounting: Accounting
    references: References

    def check(self, keys: Sequence[bytes], values: Sequence[bytes]) -> list[EntryProblem]:
        """Check and count a batch; what is wrong is returned, and not counted."""
        ...


class _Checker(ABC):
    """Halves what is refused; subclasses look at a batch as a whole."""

    def __init__(self, bounds: EntryBounds) -> None:
        self._bounds = bounds
        self._lower, self._upper = bounds.lower(), bounds.upper()
        self._user_key = b""
        self._problems = 0
        self.accounting = Accounting()
        self.references = References()

    def check(self, keys: Sequence[bytes], values: Sequence[bytes]) -> list[EntryProblem]:
        """See EntryChecker; after `MAX_PROBLEMS` of them nothing more is told."""
        problems: list[EntryProblem] = []
        self._check(keys, values, 0, problems)
        return problems

    def _check(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        first_row: int,
        problems: list[EntryProblem],
    ) -> None:
        if self._problems >= MAX_PROBLEMS:
            return
        counted = Accounting()
        try:
            # Keys ascend in a sound file, so the outer two tell of all between.
            if keys[0] < self._lower or keys[-1] >= self._upper:
                raise CorruptionError("lies outside its file's range")
            default_keys = self._look(keys, values, counted)
        except CorruptionError as e:
            if len(keys) > 1:
                middle = len(keys) // 2
                self._check(keys[:middle], values[:middle], first_row, problems)
                self._check(keys[middle:], values[middle:], first_row + middle, problems)
                return
            self._problems += 1
            shown = _shown_key(keys[0], self._bounds.is_raw)
            problems.append(EntryProblem(first_row, f"the record of {shown} {e}"))
        else:
            self.accounting.merge(counted)
            self.references.add(default_keys)
        self._user_key = keys[-1][:-TS_SIZE]

    @abstractmethod
    def _look(
        self, keys: Sequence[bytes], values: Sequence[bytes], counted: Accounting
    ) -> Sequence[bytes]:
        """Count all records and return the keys of `default` they name; CorruptionError for any."""


class WriteChecker(_Checker):
    """Checks a file of the `write` family."""

    def _look(
        self, keys: Sequence[bytes], values: Sequence[bytes], counted: Accounting
    ) -> Sequence[bytes]:
        read = _read_keys(keys, self._user_key)
        bounds = self._bounds
        commit_ts = read.commit_ts
        outside = (commit_ts <= np.uint64(bounds.start_ts)) | (commit_ts > np.uint64(bounds.end_ts))
        if outside.any():
            raise CorruptionError(
                f"has commit_ts {int(commit_ts[0])}, outside ({bounds.start_ts}, {bounds.end_ts}]"
            )
        strings = ByteStrings.of(values)
        if not strings.lengths.all():
            raise CorruptionError("is an empty write record")
        types = strings.data[strings.starts]
        is_delete = types == DELETE
        if not (is_delete | (types == PUT)).all():
            raise CorruptionError(f"is of type {int(types[0]):#04x}, neither Put nor Delete")
        if bounds.start_ts == 0 and is_delete.any():
            raise CorruptionError("is a Delete, which only an incremental backup has")
        records = Records.read(strings)
        collected = (records.fences != 0) & (records.fences <= np.uint64(bounds.end_ts))
        if collected.any():
            raise CorruptionError(
                f"was collected already at {records.fences[0]}, so no snapshot shows it"
            )
        start_ts = records.start_ts(np.arange(len(keys)))
        # Equal timestamps are those of data that was imported rather than committed.
        if (start_ts > commit_ts).any():
            raise CorruptionError(
                f"has start_ts {int(start_ts[0])} after commit_ts {int(commit_ts[0])}"
            )
        lengths = records.short_lengths
        lengths[is_delete] = 0
        is_long = lengths < 0
        short_values = ByteStrings(records.data, records.short_starts, lengths)
        counted.add_entries(
            read.strings.trimmed(1, TS_SIZE).take(~is_long), short_values.take(~is_long)
        )
        return with_timestamps(read.strings.take(is_long), start_ts[is_long]).tolist()


class DefaultChecker(_Checker):
    """Checks a file of the `default` family of a transactional backup."""

    def _look(
        self, keys: Sequence[bytes], values: Sequence[bytes], counted: Accounting
    ) -> Sequence[bytes]:
        read = _read_keys(keys, self._user_key)
        if (read.commit_ts > np.uint64(self._bounds.end_ts)).any():
            raise CorruptionError(
                f"has start_ts {int(read.commit_ts[0])}, after {self._bounds.end_ts}"
            )
        account_long(counted, read.strings, ByteStrings.of(values))
        return keys


class RawChecker(_Checker):
    """Checks a file of a raw backup, laid out as `api_version` says.

    The file holds no second version of a key, nothing outside of its timestamps, and in full no
    deletes; those are V2's alone.
    """

    def __init__(self, bounds: EntryBounds, api_version: int = API_V1) -> None:
        super().__init__(bounds)
        self._api_version = api_version

    def _look(
        self, keys: Sequence[bytes], values: Sequence[bytes], counted: Accounting
    ) -> Sequence[bytes]:
        key_column, value_column = ByteStrings.of(keys), ByteStrings.of(values)
        if self._api_version == API_V2:
            self._check_versions(_read_keys(keys, self._user_key), value_column)
        account_raw(counted, key_column, value_column, self._api_version)
        return ()

    def _check_versions(self, read: Keys, values: ByteStrings) -> None:
        bounds, ts = self._bounds, read.commit_ts
        if ((ts > np.uint64(bounds.end_ts)) | (ts <= np.uint64(bounds.start_ts))).any():
            raise CorruptionError(
                f"has timestamp {int(ts[0])}, outside ({bounds.start_ts}, {bounds.end_ts}]"
            )
        tails = Tails.read(read.strings, values)
        layout = RawLayout(self._api_version, bounds.start_ts, bounds.end_ts)
        if not bounds.start_ts and (tails.is_deleted | tails.expired(layout)).any():
            raise CorruptionError("is deleted or expired, which only an incremental backup has")


def long_value_keys(keys: Sequence[bytes], values: Sequence[bytes]) -> list[bytes]:
    """The keys of `default` that write records refer to; records that cannot be read are left out.

    For finding out what is missing; a `WriteChecker` tells what is wrong with the records.
    """
    found = []
    for key, value in zip(keys, values, strict=True):
        try:
            record = parse_write(value)
        except CorruptionError:
            continue
        if record.write_type == PUT and record.short_value is None and len(key) > TS_SIZE:
            suffix = (record.start_ts & MAX_TS ^ MAX_TS).to_bytes(TS_SIZE, "big")
            found.append(key[:-TS_SIZE] + suffix)
    return found


def _read_keys(keys: Sequence[bytes], previous: bytes) -> Keys:
    read = Keys.read(ByteStrings.of(keys), previous)
    if not read.is_new.all():
        raise CorruptionError("is a second version of its key, and a snapshot has one")
    return read


def _shown_key(data_key: bytes, is_raw: bool) -> str:
    """A record's raw user key for a message, or its bytes where they hold none."""
    if is_raw:
        return f"key {data_key[1:].hex().upper()}"
    try:
        return f"key {decode_data_key(data_key[:-TS_SIZE]).hex().upper()}"
    except CorruptionError:
        return f"stored key {data_key.hex().upper()}"
