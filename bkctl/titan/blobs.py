"""Fetches values out of a view's blob files, by keys and blob indexes, some MiB at a time.

    titandb/        in the view's folder
      000002.blob   link to a pinned blob file that titandb's MANIFEST names

Records are read in the order in which they lie in their files, close ones together, and looked at
one by one: each has its own checksum, its own compression, and its key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np

from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.sst.source import FileReader
from bkctl.titan.blob_file import MAX_RECORD_SIZE, BlobFile, plain_size
from bkctl.titan.blob_index import BlobIndexes
from bkctl.titan.manifest import blob_name
from bkctl.titan.stored import StoredValues

_OPEN_FILES = 64
_FETCH_BYTES = 2 << 20
_FETCH_ROWS = 1 << 12

_Read = tuple[BlobFile, int, bytes]
"""A record as stored, with its file and its offset there."""


class Blobs:
    """The blob files in `folder`, opened when they are needed; `shown` replaces it in messages."""

    def __init__(
        self, folder: Path, shown: Path, opened: Callable[[Path], FileReader] = FileReader
    ) -> None:
        """`opened` opens a file to read its plain bytes."""
        self._folder, self._shown = folder, shown
        self._open_file = opened
        self._open: OrderedDict[int, tuple[FileReader, BlobFile]] = OrderedDict()
        # How much larger records are plain than as stored, as far as was seen last.
        self._growth = 1.0

    @property
    def are_there(self) -> bool:
        """Whether the store has a titandb at all."""
        return self._folder.is_dir()

    def close(self) -> None:
        """Close all files."""
        for reader, _ in self._open.values():
            reader.close()
        self._open.clear()

    def resolve(
        self, keys: ByteStrings, stored: StoredValues, limit: int = _FETCH_BYTES
    ) -> ByteStrings:
        """The values of `keys`, or of the first of them, at least one: about `limit` bytes.

        Raises CorruptionError, naming file and offset, where a blob index leads to no sound record
        of its key; StorageError.
        """
        if stored.is_blob is None:
            return stored.strings
        if len(stored) > _FETCH_ROWS:
            keys, stored = keys.slice(0, _FETCH_ROWS), stored.slice(0, _FETCH_ROWS)
        count, is_blob = len(stored), stored.is_blob
        assert is_blob is not None
        inline_rows, blob_rows = np.flatnonzero(~is_blob), np.flatnonzero(is_blob)
        # A value that lies here counts as it is, for a blob its share is found while fetching.
        room = np.full(len(blob_rows), limit, np.int64)
        if len(inline_rows):
            inline_bytes = np.cumsum(np.where(is_blob, 0, stored.strings.lengths))
            count = max(1, int(np.searchsorted(inline_bytes, limit, side="right")))
            room -= inline_bytes[blob_rows]
            inline_rows = inline_rows[inline_rows < count]
            blob_rows = blob_rows[blob_rows < count]
        if not len(blob_rows):
            return stored.strings.slice(0, count)
        fetched = self._fetch(keys.take(blob_rows), stored.strings.take(blob_rows), room.tolist())
        if len(fetched) < len(blob_rows):
            count = int(blob_rows[len(fetched)])
            inline_rows = inline_rows[inline_rows < count]
        values = ByteStrings.of(fetched)
        if not len(inline_rows):
            return values
        joined = ByteStrings.joined([stored.strings.take(inline_rows), values])
        places = np.empty(count, np.int64)
        places[inline_rows] = np.arange(len(inline_rows))
        places[blob_rows[: len(fetched)]] = np.arange(len(inline_rows), count)
        return joined.take(places)

    def _fetch(self, keys: ByteStrings, indexes: ByteStrings, room: list[int]) -> list[bytes]:
        """The values of the first blobs, at least one, until those before value `i` fill `room[i]`.

        The first value is given whatever its room is.
        """
        places = self._parse(keys, indexes)
        limit = int(max(room[0], 1) / self._growth)
        # As many as are likely to fit: what is read for nothing is read again.
        sizes = np.minimum(places.sizes, MAX_RECORD_SIZE)  # so that no sum overflows
        count = max(1, int(np.searchsorted(np.cumsum(sizes), limit, side="right")))
        listed = keys.slice(0, count).tolist()
        records = self._read(places.take(np.arange(count)), listed)
        values: list[bytes] = []
        plain_bytes = read_bytes = 0
        for row, (file, offset, record) in enumerate(records):
            if row and plain_bytes + plain_size(record) > room[row]:
                break
            value = file.value(offset, record, listed[row])
            values.append(value)
            plain_bytes += len(value)
            read_bytes += len(record)
        self._growth = max(1.0, plain_bytes / max(1, read_bytes))
        return values

    def _read(self, places: BlobIndexes, keys: list[bytes]) -> list[_Read]:
        """The records at the places, in their order."""
        order = np.lexsort((places.offsets, places.files)).tolist()
        files, offsets, sizes = (
            column.tolist() for column in (places.files, places.offsets, places.sizes)
        )
        read: dict[int, _Read] = {}
        for number, group in groupby(order, key=files.__getitem__):
            rows = list(group)
            file = self._file(number, keys[rows[0]])
            records = file.read([offsets[row] for row in rows], [sizes[row] for row in rows])
            for row, record in zip(rows, records, strict=True):
                read[row] = file, offsets[row], record
        return [read[row] for row in range(len(order))]

    def _parse(self, keys: ByteStrings, indexes: ByteStrings) -> BlobIndexes:
        try:
            return BlobIndexes.parse(indexes)
        except CorruptionError as e:
            raise CorruptionError(
                f"{self._shown.parent}: {e}, in or behind key {keys[0].hex().upper()}"
            ) from None

    def _file(self, number: int, key: bytes) -> BlobFile:
        """The file, opened or still open; `key` has a value in it."""
        opened = self._open.get(number)
        if opened is None:
            opened = self._opened(number, key)
            self._open[number] = opened
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(number)
        return opened[1]

    def _opened(self, number: int, key: bytes) -> tuple[FileReader, BlobFile]:
        name = blob_name(number)
        if not (self._folder / name).exists():
            raise CorruptionError(f"{self._shown / name}: {self._why_missing(key)}")
        reader = self._open_file(self._folder / name)
        try:
            return reader, BlobFile(reader, str(self._shown / name))
        except BaseException:
            reader.close()
            raise

    def _why_missing(self, key: bytes) -> str:
        of_key = f"the value of {key.hex().upper()} should lie in it"
        if self.are_there:
            return f"titandb's MANIFEST does not name it, but {of_key}"
        return (
            f"missing, and {of_key}; where TiKV's rocksdb.titan.dirname keeps blob files "
            "elsewhere, make titandb a link to that directory"
        )
