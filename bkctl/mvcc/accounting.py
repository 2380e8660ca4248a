"""What a backup file holds, counted: records, bytes, and the XOR of their checksums.

    total_kvs   records
    total_bytes len(raw user key) + len(value), summed
    crc64xor    CRC-64/XZ of raw user key + value, XORed

A record counts in `default` when its value lives there, otherwise in `write`; a delete counts with
an empty value. Keys come as they are stored, and are decoded after they were XORed: among keys of
one encoded length and one last marker the raw bytes stand in the same columns.
"""

from __future__ import annotations

import numpy as np

from bkctl.codec.crc64 import Crc64Xor, xor_rows
from bkctl.codec.memcomparable import decode
from bkctl.codec.strings import I64, U8, ByteStrings, distinct, gather
from bkctl.errors import CorruptionError

_GROUP = 9
# Longer values are XORed one by one: there are few of them in a batch.
_LONG = 1 << 15


def raw_key_lengths(encoded_keys: ByteStrings) -> I64:
    """The lengths of user keys, given memcomparable ones (which are not checked)."""
    padding = 0xFF - encoded_keys.last(1).ravel().astype(np.int64)
    lengths: I64 = encoded_keys.lengths // _GROUP * (_GROUP - 1) - padding
    return lengths


class Accounting:
    """Running totals of one file or one column family of it."""

    __slots__ = ("_crc", "total_bytes", "total_kvs")

    def __init__(self) -> None:
        self.total_kvs = 0
        self.total_bytes = 0
        self._crc = Crc64Xor()

    @property
    def crc64xor(self) -> int:
        """The XOR of all records' checksums so far."""
        return self._crc.digest()

    def merge(self, other: Accounting) -> None:
        """Count all that `other` counted."""
        self.total_kvs += other.total_kvs
        self.total_bytes += other.total_bytes
        self._crc.merge(other._crc)

    def add_one(self, encoded_key: bytes, value: bytes) -> None:
        """Count one record of a memcomparable key."""
        raw_key = decode(encoded_key)
        self.total_kvs += 1
        self.total_bytes += len(raw_key) + len(value)
        self._crc.add(raw_key + value)

    def add_raw(self, data_keys: ByteStrings, values: ByteStrings) -> None:
        """Count records of raw mode: the user key is the data key without its `z`."""
        if not len(data_keys):
            return
        user_keys = data_keys.trimmed(1, 0)
        for rows, index in _by_length(user_keys):
            tails = values.lengths if index is None else values.lengths[index]
            for tail, xored, _, _ in _xored_groups(rows, tails):
                self._crc.add_part(xored, tail)
        self._add_values(values)
        self._add_counts(user_keys.lengths, values.lengths)

    def add_entries(self, encoded_keys: ByteStrings, values: ByteStrings) -> None:
        """Count records of memcomparable keys; CorruptionError for a key that is none."""
        if not len(encoded_keys):
            return
        for rows, index in _by_length(encoded_keys):
            _check_markers(rows)
            tails = values.lengths if index is None else values.lengths[index]
            self._add_keys(rows, tails)
        self._add_values(values)
        self._add_counts(raw_key_lengths(encoded_keys), values.lengths)

    def _add_keys(self, rows: U8, value_lengths: I64) -> None:
        """XOR in keys of one encoded length, each standing before a value."""
        markers = rows[:, -1].astype(np.int64)
        for code, xored, tail, some in _xored_groups(rows, value_lengths << 8 | markers):
            padding = 0xFF - (code & 0xFF)
            if not 1 <= padding < _GROUP or any(tail[_GROUP - 1 - padding : _GROUP - 1]):
                raise _not_memcomparable(rows[some])
            raw = bytearray(xored)
            del raw[_GROUP - 1 :: _GROUP]
            self._crc.add_part(bytes(raw[: len(raw) - padding]), code >> 8)

    def _add_values(self, values: ByteStrings) -> None:
        """XOR in values, aligned at their ends."""
        if values.width is not None and values.width <= _LONG:
            self._crc.add_part(xor_rows(values.rows()), 0)
            return
        # Values of about one length are aligned with zeros before them.
        sizes = np.frexp(values.lengths.astype(np.float64))[1]
        for size in distinct(sizes)[0].tolist():
            some = values.take(sizes == size)
            if 1 << size > _LONG:
                for i in range(len(some)):
                    self._crc.add_part(some[i], 0)
            elif size:
                self._crc.add_part(xor_rows(_right_aligned(some, 1 << size)), 0)

    def _add_counts(self, key_lengths: I64, value_lengths: I64) -> None:
        lengths = key_lengths + value_lengths
        self.total_kvs += len(lengths)
        self.total_bytes += int(lengths.sum())
        if len(lengths) and lengths[0] == lengths[-1] and bool((lengths == lengths[0]).all()):
            self._crc.add_lengths({int(lengths[0])} if len(lengths) & 1 else set())
            return
        different, counts = distinct(lengths)
        self._crc.add_lengths(set(different[counts & 1 == 1].tolist()))


def _by_length(strings: ByteStrings) -> list[tuple[U8, I64 | None]]:
    """The strings as matrices, one for each length, with their positions (None: all of them)."""
    if strings.width is not None:
        return [(strings.rows(), None)]
    found: list[tuple[U8, I64 | None]] = []
    for length in distinct(strings.lengths)[0].tolist():
        index = np.flatnonzero(strings.lengths == length)
        found.append((strings.take(index).rows(), index))
    return found


def _xored_groups(rows: U8, codes: I64) -> list[tuple[int, bytes, bytes, int]]:
    """(code, XOR of the rows, OR of their last nine bytes, one of them) for each distinct code."""
    if bool((codes == codes[0]).all()):
        ored = np.bitwise_or.reduce(rows[:, -_GROUP:], axis=0)
        return [(int(codes[0]), xor_rows(rows), ored.tobytes(), 0)]
    order = np.argsort(codes, kind="stable")
    in_order = codes[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
    rows = rows[order]
    xored = np.bitwise_xor.reduceat(rows, starts, axis=0)
    ored = np.bitwise_or.reduceat(rows[:, -_GROUP:], starts, axis=0)
    return [
        (code, xored[i].tobytes(), ored[i].tobytes(), some)
        for i, (code, some) in enumerate(
            zip(in_order[starts].tolist(), order[starts].tolist(), strict=True)
        )
    ]


def _check_markers(rows: U8) -> None:
    """All groups of memcomparable keys but the last are whole."""
    width = rows.shape[1]
    whole = rows[:, _GROUP - 1 : -1 : _GROUP] == 0xFF
    if not width or width % _GROUP or not whole.all():
        raise _not_memcomparable(rows[0])


def _not_memcomparable(row: U8) -> CorruptionError:
    return CorruptionError(
        f"a key is not memcomparable near {row.tobytes().hex().upper()}: "
        "a damaged marker or padding"
    )


def _right_aligned(strings: ByteStrings, width: int) -> U8:
    """The strings as rows that end where they end, with zeros before them."""
    starts, data = strings.starts + strings.lengths - width, strings.data
    if int(starts.min()) < 0:
        data, starts = np.concatenate((np.zeros(width, np.uint8), data)), starts + width
    rows = gather(data, starts, width)
    rows[np.arange(width) < (width - strings.lengths)[:, None]] = 0
    return rows
