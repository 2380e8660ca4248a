"""Blob indexes: what an SST file has in the place of a value that lies in a blob file.

A record of kind 0x11 has as its value

    | type (1) | varint file number | varint offset | varint size |

where the blob record lies: in the file `NUMBER.blob`, `size` bytes at `offset`. The type is 1; in
the SST files that a view makes of write-ahead logs it is 0 (`bkctl.titan.log_entries` says why).
Source: Titan's src/blob_format.h; the kind is kTypeTitanBlobIndex of TiKV's RocksDB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bkctl.codec.strings import I64, ByteStrings, Mask
from bkctl.errors import CorruptionError
from bkctl.sst.walk import varints
from bkctl.titan.log_entries import IN_FILES

KIND = 0x11
_MAX_VARINT = 8
# What is read may run past an index's end by so much, before that end is looked at.
_SLACK = 1 + 3 * _MAX_VARINT + 1


@dataclass(frozen=True, slots=True)
class BlobIndexes:
    """Where blob records lie, by columns; offsets and sizes in bytes."""

    files: I64
    offsets: I64
    sizes: I64

    @classmethod
    def parse(cls, values: ByteStrings) -> BlobIndexes:
        """Read blob indexes; raises CorruptionError where one is none, or names an absurd place."""
        data, starts = values.data, values.starts
        if len(values) and int(starts.max()) + _SLACK > len(data):
            data = np.concatenate((data, np.zeros(_SLACK, np.uint8)))
        is_known = values.lengths > 0
        is_known &= data[starts] <= IN_FILES  # or IN_LOGS
        files, pos = varints(data, starts + 1, _MAX_VARINT)
        offsets, pos = varints(data, pos, _MAX_VARINT)
        sizes, pos = varints(data, pos, _MAX_VARINT)
        is_known &= pos == starts + values.lengths
        if not is_known.all():
            damaged = values[int(is_known.argmin())]
            raise CorruptionError(f"a blob index cannot be read: {damaged.hex():.80}")
        return cls(files, offsets, sizes)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: I64 | Mask) -> BlobIndexes:
        """Those at the given positions."""
        return BlobIndexes(self.files[index], self.offsets[index], self.sizes[index])
