"""Reading an encrypted file as if it were plain, and moving its bytes to where they may be plain.

A file's bytes are XORed with the cipher's stream in counter mode from its own IV on, whatever the
offset (`bkctl.codec.cipher`): it keeps its length, and can be read from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bkctl.codec.cipher import IV_SIZE, Cipher
from bkctl.errors import CorruptionError
from bkctl.sst.source import FileReader

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileKey:
    """What a file is encrypted with; no representation shows the key."""

    cipher: Cipher
    iv: bytes

    def __post_init__(self) -> None:
        if len(self.iv) != IV_SIZE:
            raise CorruptionError(f"its IV has {len(self.iv)} bytes, not {IV_SIZE}")

    def crypt(self, data: bytes, offset: int) -> bytes:
        """Decrypt, or encrypt, what stands at `offset` of the file."""
        return self.cipher.at(self.iv, offset).update(data)


class DecryptedFile(FileReader):
    """The plain bytes of an encrypted file."""

    def __init__(self, path: Path, key: FileKey) -> None:
        """Open `path`; StorageError if that fails."""
        super().__init__(path)
        self._key = key

    def read_at(self, offset: int, length: int) -> bytes:
        """See FileReader."""
        return self._key.crypt(super().read_at(offset, length), offset)


def open_file(path: Path, key: FileKey | None) -> FileReader:
    """Open a file that is encrypted with `key`, or, where that is None, plain; StorageError."""
    return FileReader(path) if key is None else DecryptedFile(path, key)


def crypted_chunks(descriptor: int, size: int, key: FileKey | None) -> Iterator[bytes]:
    """The first `size` bytes of an open file in pieces, decrypted, or encrypted, if with `key`."""
    context = None if key is None else key.cipher.at(key.iv, 0)
    offset = 0
    while offset < size:
        chunk = os.pread(descriptor, min(_CHUNK, size - offset), offset)
        if not chunk:
            return
        offset += len(chunk)
        yield chunk if context is None else context.update(chunk)
