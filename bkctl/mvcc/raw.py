"""The raw scanner: raw pairs of one column family, in batches, as the API version lays them out.

    API V1     z | user key                    user value
    API V1TTL  z | user key                    user value | expiry (8, BE)
    API V2     z | memcomparable(key) | ~ts    user value | [expiry (8, BE)] | flags
               key: r | keyspace (3, BE) | user key
               flags: 1 an expiry stands before them, 2 the key is deleted

An expiry is a unix second, 0 under V1TTL for never. Of V2's versions of a key the newest at or
before the end timestamp counts. What had expired by then, or was deleted, is left out; an
incremental backup (V2 only) keeps what changed since its start, deletes included. What stands
behind a user value stays there, so that a restored store has it, and is not counted. Source:
TiKV's components/api_version, src/storage/raw/raw_mvcc.rs, components/backup.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bkctl.codec.strings import I64, U8, U64, ByteStrings, Mask
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.batch import Keys
from bkctl.mvcc.keys import TS_SIZE
from bkctl.store.database import Database
from bkctl.store.ident import API_NAMES, API_V1TTL, API_V2, expired_by

_EXPIRY_SIZE = 8
_HAS_EXPIRY, _IS_DELETED = 1, 2


@dataclass(frozen=True, slots=True)
class RawLayout:
    """How pairs are laid out, and which of them count: TSOs, `start_ts` 0 for a full backup."""

    api_version: int
    start_ts: int
    end_ts: int

    @property
    def expired_by(self) -> int | None:
        """The unix second by which pairs have expired that do not count; None if none can."""
        return expired_by(self.end_ts, self.api_version)


class RawScanner:
    """Scans `[lower, upper)` (data keys) of a column family."""

    def __init__(
        self, database: Database, family: str, lower: bytes, upper: bytes, layout: RawLayout
    ) -> None:
        self._scan = database.scan_columns(family, lower, upper)
        self._layout = layout
        # V2: the key whose versions were being looked at, and whether one has been chosen.
        self._previous, self._is_chosen = b"", False

    def scan_batch(self) -> tuple[ByteStrings, ByteStrings] | None:
        """The next (data keys, values), some MiB of them at most or one record; None at the end.

        Raises CorruptionError for a key or value that cannot be of the API version.
        """
        while (batch := self._scan.take()) is not None:
            keys, values = batch
            index = self._choose(keys, values)
            if index is None:
                return keys, values
            if len(index):
                return keys.thinned(index), values.take(index)
        return None

    def _choose(self, keys: ByteStrings, values: ByteStrings) -> I64 | None:
        """Which records count; None for all of them."""
        layout = self._layout
        if layout.api_version == API_V2:
            return self._choose_versions(keys, values)
        if layout.expired_by is None:
            return None
        _check_lengths(keys, values, _EXPIRY_SIZE)
        expiries = values.last(_EXPIRY_SIZE).view(">u8").ravel()
        stays = (expiries == 0) | (expiries > layout.expired_by)
        return None if stays.all() else np.flatnonzero(stays)

    def _choose_versions(self, keys: ByteStrings, values: ByteStrings) -> I64:
        layout = self._layout
        read = Keys.read(keys, self._previous)
        groups = np.cumsum(read.is_new)
        visible = np.flatnonzero(read.commit_ts <= np.uint64(layout.end_ts))
        of_group = groups[visible]
        # The newest version comes first. Group 0 are more versions of the batch before's key.
        before = np.concatenate(([0 if self._is_chosen else -1], of_group[:-1]))
        chosen: I64 = visible[of_group != before]
        is_last_chosen = bool(len(of_group)) and int(of_group[-1]) == int(groups[-1])
        self._is_chosen = is_last_chosen or (self._is_chosen and int(groups[-1]) == 0)
        self._previous = keys[len(keys) - 1][:-TS_SIZE]
        if not len(chosen):
            return chosen
        if layout.start_ts:
            changed: I64 = chosen[read.commit_ts[chosen] > np.uint64(layout.start_ts)]
            return changed
        tails = Tails.read(keys.take(chosen), values.take(chosen))
        live: I64 = chosen[~tails.is_deleted & ~tails.expired(layout)]
        return live


@dataclass(frozen=True, slots=True)
class Tails:
    """What stands behind the user values of API V2: how long it is, and what it says.

    `expiries` are 0 where there is none.
    """

    lengths: I64
    is_deleted: Mask
    expiries: U64

    @classmethod
    def read(cls, keys: ByteStrings, values: ByteStrings) -> Tails:
        """Read them; CorruptionError, naming the key, for a value that cannot be one of V2."""
        _check_lengths(keys, values, 1)
        flags: U8 = values.last(1).ravel()
        unknown = flags > (_HAS_EXPIRY | _IS_DELETED)
        if unknown.any():
            number = int(unknown.argmax())
            raise CorruptionError(
                f"the value of {keys[number].hex().upper()} ends in the flags "
                f"{int(flags[number]):#04x}, which API V2 does not know"
            )
        has_expiry = (flags & _HAS_EXPIRY) != 0
        expiries = np.zeros(len(flags), np.uint64)
        index = np.flatnonzero(has_expiry)
        if len(index):
            with_expiry = values.take(index)
            _check_lengths(keys.take(index), with_expiry, 1 + _EXPIRY_SIZE)
            stored = with_expiry.trimmed(0, 1).last(_EXPIRY_SIZE)
            expiries[index] = stored.view(">u8").ravel()
        lengths = np.where(has_expiry, 1 + _EXPIRY_SIZE, 1)
        return cls(lengths, (flags & _IS_DELETED) != 0, expiries)

    def expired(self, layout: RawLayout) -> Mask:
        """Which had expired by the layout's end."""
        has_expiry = self.lengths > 1
        result: Mask = has_expiry & (self.expiries <= np.uint64(layout.expired_by or 0))
        return result


def account_raw(
    counted: Accounting, keys: ByteStrings, values: ByteStrings, api_version: int
) -> None:
    """Count records (data keys, values as stored) by user keys and user values.

    Raises CorruptionError for a record that cannot be of the API version.
    """
    if api_version == API_V2:
        tails = Tails.read(keys, values)
        user_values = ByteStrings(values.data, values.starts, values.lengths - tails.lengths)
        counted.add_entries(keys.trimmed(1, TS_SIZE), user_values)
        return
    if api_version == API_V1TTL:
        _check_lengths(keys, values, _EXPIRY_SIZE)
        values = values.trimmed(0, _EXPIRY_SIZE)
    counted.add_raw(keys, values)


def _check_lengths(keys: ByteStrings, values: ByteStrings, least: int) -> None:
    if len(values) and int(values.lengths.min()) < least:
        key = keys[int(values.lengths.argmin())]
        version = API_NAMES[API_V1TTL if least == _EXPIRY_SIZE else API_V2]
        raise CorruptionError(
            f"the value of {key.hex().upper()} is too short to end as values of API {version} do; "
            "the store is damaged, or not of that API version"
        )
