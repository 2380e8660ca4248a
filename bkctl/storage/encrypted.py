"""Files that are stored encrypted: making them so, and reading them as if they were plain."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bkctl.codec.cipher import Cipher, new_iv
from bkctl.errors import StorageError
from bkctl.storage.base import RandomReader

_CHUNK = 1 << 20


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


def encrypt_in_place(path: Path, cipher: Cipher) -> tuple[bytes, bytes]:
    """Encrypt a file of ours where it lies; its new IV, and the SHA-256 of what is stored now.

    Nothing is synced. Raises StorageError. A file that this was broken off in is of no use.
    """
    iv, digest = new_iv(), hashlib.sha256()
    context = cipher.at(iv, 0)
    try:
        with path.open("r+b", buffering=0) as file:
            offset = 0
            while data := os.pread(file.fileno(), _CHUNK, offset):
                stored = context.update(data)
                digest.update(stored)
                _write_all(file.fileno(), stored, offset)
                offset += len(data)
    except OSError as e:
        raise StorageError(
            f"{path}: cannot be encrypted ({e.strerror}); check space and permissions there"
        ) from None
    return iv, digest.digest()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
