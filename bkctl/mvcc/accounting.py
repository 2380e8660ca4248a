"""What a backup file holds, counted: records, bytes, and the XOR of their checksums.

    total_kvs   records
    total_bytes len(raw user key) + len(value), summed
    crc64xor    CRC-64/XZ of raw user key + value, XORed

A record counts in `default` when its value lives there, otherwise in `write`; a delete counts with
an empty value. Keys come as they are stored, and are decoded after they were XORed: within a
group of one encoded length and one last marker the raw bytes stand in the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bkctl.codec.crc64 import Crc64Xor, xor_rows
from bkctl.codec.memcomparable import decode
from bkctl.errors import CorruptionError
from bkctl.mvcc.batch import U8, as_matrix, uniform_length

_GROUP = 9
_SMALL_GROUP = 8


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

    def add_raw(self, data_keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Count records of raw mode: the user key is the data key without its `z`."""
        self.total_kvs += len(data_keys)
        self.total_bytes += sum(map(len, data_keys)) - len(data_keys) + sum(map(len, values))
        key_width, value_width = uniform_length(data_keys), uniform_length(values)
        if key_width is None or value_width is None or len(data_keys) < _SMALL_GROUP:
            for key, value in zip(data_keys, values, strict=True):
                self._crc.add(key[1:] + value)
            return
        xored = xor_rows(as_matrix(data_keys, key_width)[:, 1:])
        self._crc.add_xored(xored + xor_rows(as_matrix(values, value_width)), len(data_keys))

    def add_one(self, encoded_key: bytes, value: bytes) -> None:
        """Count one record of a memcomparable key."""
        raw_key = decode(encoded_key)
        self.total_kvs += 1
        self.total_bytes += len(raw_key) + len(value)
        self._crc.add(raw_key + value)

    def add_rows(self, encoded_keys: U8, values: U8) -> None:
        """Count records whose memcomparable keys, and whose values, have one length each."""
        markers = encoded_keys[:, -1]
        for marker in np.unique(markers).tolist():
            same = markers == marker
            if same.all():
                self._add_group(encoded_keys, values, marker)
            else:
                self._add_group(encoded_keys[same], values[same], marker)

    def _add_group(self, encoded_keys: U8, values: U8, marker: int) -> None:
        padding = 0xFF - marker
        count, width = encoded_keys.shape
        groups_whole = bool((encoded_keys[:, _GROUP - 1 : -1 : _GROUP] == 0xFF).all())
        last = encoded_keys[:, width - 1 - padding : width - 1]
        if width % _GROUP or padding > 8 or not groups_whole or last.any():
            raise CorruptionError(
                "a key is not memcomparable near "
                f"{encoded_keys[0].tobytes().hex().upper()}: a damaged marker or padding"
            )
        xored = bytearray(xor_rows(encoded_keys))
        del xored[_GROUP - 1 :: _GROUP]
        raw = bytes(xored[: len(xored) - padding])
        self.total_kvs += count
        self.total_bytes += count * (len(raw) + values.shape[1])
        self._crc.add_xored(raw + xor_rows(values), count)
