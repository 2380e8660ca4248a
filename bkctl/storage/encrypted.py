"""Files that are stored encrypted, read as if they were plain."""

from __future__ import annotations

from bkctl.codec.cipher import Cipher
from bkctl.storage.base import RandomReader


class DecryptingReader(RandomReader):
    """The plain bytes of an encrypted file; closes `stored` with itself."""

    def __init__(self, stored: RandomReader, cipher: Cipher, iv: bytes) -> None:
        """Raise ValueError for what can be no IV."""
        self._stored, self._cipher, self._iv = stored, cipher, iv
        cipher.at(iv, 0)

    @property
    def size(self) -> int:
        """The file's length in bytes, plain as stored."""
        return self._stored.size

    def read_at(self, offset: int, length: int) -> bytes:
        """See RandomReader."""
        return self._cipher.at(self._iv, offset).update(self._stored.read_at(offset, length))

    def close(self) -> None:
        """See RandomReader."""
        self._stored.close()
