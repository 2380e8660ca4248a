"""An object that is read in pieces, so that its size costs no memory, and that is hashed meanwhile.

Services keep a checksum of whole objects. Whoever reads one in pieces to its end has it compared
here, as a whole read has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from bkctl.codec.stream import CHUNK, ByteStream, ReadAt, read_bytes
from bkctl.errors import CorruptionError
from bkctl.storage.base import RandomReader, Storage, failure


class StoredObject:
    """One object of `size` bytes; a small one is read once, however often it is gone through."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at, self.size = read_at, size
        self._hash = hashlib.sha256()
        self._stream = ByteStream(self._read_once, 0, size, self._hash.update)
        self._kept: bytes | None = None

    @classmethod
    def of_bytes(cls, data: bytes) -> StoredObject:
        """The same of what is at hand."""
        return cls(read_bytes(data), len(data))

    def whole(self) -> ByteStream:
        """All of it, to be gone through once; hashed as it is read."""
        return self._stream

    def part(self, start: int, end: int) -> ByteStream:
        """The bytes `[start, end)`, another time."""
        return ByteStream(self._read_once, start, end)

    def sha256(self) -> bytes:
        """The hash of all of it; what `whole` has not come to yet is read now."""
        self._stream.read_on()
        return self._hash.digest()

    def _read_once(self, offset: int, length: int) -> bytes:
        if self.size > CHUNK:
            return self._read_at(offset, length)
        if self._kept is None:
            self._kept = self._read_at(0, self.size)
        return self._kept[offset : offset + length]


@contextmanager
def open_stored(storage: Storage, name: str, limit: int) -> Iterator[StoredObject]:
    """Open an object to be read in pieces; one of more than `limit` bytes is a CorruptionError.

    What was read wholly is compared with the service's checksum at the end of the block. Raises
    NotFoundError, StorageError.
    """
    with storage.open(name) as reader:
        if reader.size > limit:
            raise CorruptionError(
                f"{name}: has {reader.size} bytes where at most {limit} are expected"
            )
        checked = _Checked(reader)
        stored = StoredObject(checked.read_at, reader.size)
        try:
            yield stored
        except CorruptionError:
            # What is wrong may have come about on the way.
            stored.whole().read_on()
            checked.compare(storage, name)
            raise
        checked.compare(storage, name)


class _Checked:
    """Sums up what is read of an object in order, where its service keeps a checksum."""

    def __init__(self, reader: RandomReader) -> None:
        self._reader = reader
        self._crc32c = self._summed = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """See RandomReader."""
        data = self._reader.read_at(offset, length)
        if self._reader.crc32c is not None and offset == self._summed:
            import google_crc32c

            self._crc32c = int(google_crc32c.extend(self._crc32c, data))
            self._summed += len(data)
        return data

    def compare(self, storage: Storage, name: str) -> None:
        """Raise StorageError where all was read, and is not what the service has."""
        known = self._reader.crc32c
        if known is not None and self._summed == self._reader.size and self._crc32c != known:
            what = "came damaged (its checksum is wrong)"
            raise failure(storage.url, name, what, "try again, and check the network")
