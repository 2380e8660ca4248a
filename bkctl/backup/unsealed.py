"""A file that waits encrypted, made plain in memory to be sent away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import TracebackType

from bkctl.codec.cipher import Cipher
from bkctl.errors import StorageError
from bkctl.sst.writer import FinishedSst
from bkctl.store.memory import MemoryFile

_CHUNK = 1 << 20


class Unsealed:
    """A context manager: the plain file, in memory, is at `path` within the block."""

    def __init__(self, sealed: FinishedSst, seal: Cipher) -> None:
        """Decrypt the file `sealed`; raises StorageError."""
        self._digest = hashlib.sha256()
        self._memory = MemoryFile(self._plain(sealed, seal))
        self.path = sealed.path.with_name(f"{sealed.path.name}.plain")
        self.sha256 = self._digest.digest()

    def __enter__(self) -> Unsealed:
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self._memory.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)
        self._memory.close()

    def _plain(self, sealed: FinishedSst, seal: Cipher) -> Iterator[bytes]:
        context = seal.at(sealed.cipher_iv, 0)
        try:
            with sealed.path.open("rb", buffering=0) as file:
                while stored := file.read(_CHUNK):
                    plain = context.update(stored)
                    self._digest.update(plain)
                    yield plain
        except OSError as e:
            raise StorageError(f"{sealed.path}: cannot be read ({e.strerror})") from None
