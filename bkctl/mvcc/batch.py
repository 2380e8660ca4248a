"""A batch of versions from the `write` family, as columns: the hot loop's view of the records.

Nothing here runs once per record in Python: every step looks at one byte, or one number, of all
records. Whatever a record holds is read this way, in the order of its fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bkctl.codec.strings import I64, U8, U64, ByteStrings, Mask, distinct, gather
from bkctl.errors import CorruptionError
from bkctl.mvcc.keys import MAX_TS, TS_SIZE
from bkctl.mvcc.write import WRITE_TYPES, parse_write

_MIN_KEY = 1 + 9 + TS_SIZE
_MAX_VARINT = 10
_COLUMNS = np.arange(_MAX_VARINT)
_SHIFTS = (7 * _COLUMNS).astype(np.uint64)
_CONTINUED = np.uint64(0x8080808080808080)
# A timestamp of our days takes nine bytes.
_USUAL_VARINT = 9
# What is read may run past a record's end by so much, before that end is looked at.
_SLACK = 16
_KNOWN_TYPES = np.zeros(256, np.bool_)
_KNOWN_TYPES[list(WRITE_TYPES)] = True


@dataclass(slots=True)
class Keys:
    """The keys of a batch: commit timestamps, and where a new user key begins.

    `is_new[i]` is false when key `i` is another version of the key before it.
    """

    strings: ByteStrings
    commit_ts: U64
    is_new: Mask

    @classmethod
    def read(cls, keys: ByteStrings, previous: bytes) -> Keys:
        """Read keys in order; `previous` is the user key part that came before the first."""
        if int(keys.lengths.min()) < _MIN_KEY:
            shortest = keys[int(keys.lengths.argmin())]
            raise CorruptionError(f"key {shortest.hex().upper()} is no versioned key")
        is_new = keys.trimmed(0, TS_SIZE).differs_from_previous(previous)
        return cls(keys, _timestamps(keys.last(TS_SIZE)), is_new)


def _timestamps(suffixes: U8) -> U64:
    inverted = suffixes.view(">u8").ravel().astype(np.uint64)
    timestamps: U64 = inverted ^ np.uint64(MAX_TS)
    return timestamps


def with_timestamps(keys: ByteStrings, timestamps: U64) -> ByteStrings:
    """The same keys with other timestamps, in a buffer of their own."""
    rows = keys.padded().copy()
    count, width = rows.shape
    starts = np.arange(count) * width
    flat = rows.ravel()
    if count:
        suffixes = (timestamps ^ np.uint64(MAX_TS)).astype(">u8").view(f"V{TS_SIZE}")
        every = np.ndarray((len(flat) - TS_SIZE + 1,), f"V{TS_SIZE}", flat, 0, (1,))
        every[starts + keys.lengths - TS_SIZE] = suffixes
    return ByteStrings(flat, starts, keys.lengths, keys.width)


def check_types(values: ByteStrings) -> U8:
    """The type bytes of write records; DamagedRecordError names one whose type is unknown."""
    if not values.lengths.all():
        raise DamagedRecordError.of(values, int(values.lengths.argmin()))
    types = values.data[values.starts]
    known = _KNOWN_TYPES[types]
    if not known.all():
        raise DamagedRecordError.of(values, int(known.argmin()))
    return types


class DamagedRecordError(CorruptionError):
    """A write record that makes no sense: number `row` of those that were given."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row

    @classmethod
    def of(cls, values: ByteStrings, row: int) -> DamagedRecordError:
        """Say what is wrong with a record by reading it by itself."""
        try:
            parse_write(values[row])
        except CorruptionError as e:
            return cls(row, str(e))
        return cls(row, "write record cannot be read")


@dataclass(slots=True)
class Records:
    """The fields of write records: where start_ts and the short value lie in `data`, the fence.

    `short_lengths` is -1 for a record that carries no short value, `fences` 0 where there is none.
    """

    data: U8
    types: U8
    varints: I64
    short_starts: I64
    short_lengths: I64
    fences: U64

    @classmethod
    def read(cls, values: ByteStrings) -> Records:
        """Read records; DamagedRecordError names the first that cannot be read."""
        types = check_types(values)
        data, starts = values.data, values.starts
        ends = starts + values.lengths
        if int(ends.max(initial=0)) + _SLACK > len(data):
            data = np.concatenate((data, np.zeros(_SLACK, np.uint8)))
        rest, is_bad = _behind_varints(data, starts + 1, ends)
        left = ends - rest
        at = np.where(is_bad, 0, rest)
        lengths = data[at + 1].astype(np.int64)
        is_short = (data[at] == ord("v")) & (left >= 2)
        is_usual = np.where(is_short, left == 2 + lengths, left == 0)
        records = cls(
            data,
            types,
            starts + 1,
            rest + 2,
            np.where(is_short & is_usual, lengths, -1),
            np.zeros(len(starts), np.uint64),
        )
        if not is_usual.all():
            index = np.flatnonzero(~is_usual & ~is_bad)
            is_bad[index] = records._read_fields(index, rest[index], ends[index])
        if is_bad.any():
            raise DamagedRecordError.of(values, int(is_bad.argmax()))
        return records

    def _read_fields(self, rows: I64, pos: I64, ends: I64) -> Mask:
        """Read the optional fields of some records, one field of each in a step.

        Returns which of them are cut short.
        """
        is_bad = np.zeros(len(rows), np.bool_)
        active = np.flatnonzero(pos < ends)
        while len(active):
            flags, at, stop = self.data[pos[active]], pos[active] + 1, ends[active]
            cut = np.zeros(len(active), np.bool_)
            # Of a field nobody knows, and what follows it, nothing is read.
            behind = stop.copy()
            for flag in distinct(flags)[0].tolist():
                same = np.flatnonzero(flags == flag)
                read = self._read_field(flag, rows[active[same]], at[same], stop[same])
                if read is not None:
                    behind[same], cut[same] = read
            is_bad[active] = cut
            pos[active] = behind
            active = active[~cut & (behind < stop)]
        return is_bad

    def _read_field(self, flag: int, rows: I64, at: I64, ends: I64) -> tuple[I64, Mask] | None:
        """(positions behind the field, which are cut short); None for an unknown field."""
        if flag == 0x76:  # v
            lengths = self.data[at].astype(np.int64)
            cut = at >= ends
            behind = at + 1 + lengths
            self.short_starts[rows], self.short_lengths[rows] = at + 1, lengths
            return behind, cut | (behind > ends)
        if flag == 0x52:  # R
            return at, np.zeros(len(at), np.bool_)
        if flag == 0x46:  # F
            self.fences[rows] = gather(self.data, at, 8).view(">u8").ravel()
            return at + 8, at + 8 > ends
        if flag in (0x6C, 0x53):  # l, S
            size = 8 if flag == 0x6C else 0
            # Cut ones are not read any further, wherever that would be.
            behind, cut = _behind_varints(self.data, np.minimum(at + size, ends), ends)
            return behind, cut | (at + size > ends)
        return None

    def start_ts(self, index: I64) -> U64:
        """The start timestamps of some records."""
        raw = gather(self.data, self.varints[index], _MAX_VARINT)
        continued = raw >= 0x80
        used = np.ones_like(continued)
        used[:, 1:] = np.logical_and.accumulate(continued[:, :-1], axis=1)
        low = np.where(used, raw & 0x7F, 0).astype(np.uint64)
        result: U64 = np.bitwise_or.reduce(low << _SHIFTS, axis=1)
        return result


def _behind_varints(data: U8, starts: I64, ends: I64) -> tuple[I64, Mask]:
    """The positions behind varints of 64 bits, and which are cut short or too long."""
    eight = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))[starts]
    usual = (eight & _CONTINUED == _CONTINUED) & (data[starts + 8] < 0x80)
    if usual.all():
        behind = starts + _USUAL_VARINT
        return behind, behind > ends
    raw = gather(data, starts, _MAX_VARINT)
    continued = raw >= 0x80
    last = np.argmin(continued, axis=1)
    is_bad = continued.all(axis=1)
    # The tenth byte has room for one bit.
    is_bad |= (last == _MAX_VARINT - 1) & (raw[:, -1] > 1)
    behind = starts + 1 + last
    return behind, is_bad | (behind > ends)
