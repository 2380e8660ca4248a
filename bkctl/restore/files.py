"""Brings a backup's files to where a new store is made: linked, copied or fetched, and verified.

    linked     a hard link, where backup and target share a file system; it costs nothing
    fetched    a copy of what lies elsewhere, or may not be linked
    rewritten  the part of a file that lies in the window of keys asked for

The backup's own files are only read. Several files are on their way at a time, each in pieces, so
memory does not grow with files nor with their number.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.coverage import KeyRange, KeySet
from bkctl.archive.meta import BackupFile
from bkctl.errors import CancelledError, CorruptionError, StorageError, UsageError
from bkctl.files.access import FILE_MODE, lets_group_read
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.mvcc.keys import MAX_TS
from bkctl.pool import signs
from bkctl.pool.threads import Threads
from bkctl.repository.contents import family_of_file
from bkctl.shortage import reason_of
from bkctl.sst.filter import write_window
from bkctl.sst.source import FileReader
from bkctl.storage.base import NotFoundError, RandomReader, Storage
from bkctl.verify.file import Finding

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

_CHUNK = 4 << 20
_QUEUED_PER_JOB = 2


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to restore into `family`; `object_name` is the storage's name for it.

    `window` is the data keys `[lower, upper)` to take from it, `part` the same as raw user keys,
    None for all of it. `shown_name` (backup and file) is for messages.
    """

    number: int
    shown_name: str
    object_name: str
    file: BackupFile
    family: str
    window: tuple[bytes, bytes] | None = None
    part: KeyRange | None = None

    @property
    def keys(self) -> KeyRange:
        """The raw user keys to take from it."""
        return self.part or KeyRange(self.file.start_key, self.file.end_key)


def plan_parts(
    backup_dir: BackupDir, file: BackupFile, wanted: KeySet, number: int, *, is_raw: bool
) -> list[PlannedFile]:
    """What of a file holds `wanted` keys, numbered from `number` on; nothing where it has none."""
    whole = KeyRange(file.start_key, file.end_key)
    parts: list[PlannedFile] = []
    for keys in (KeySet.of([whole]) & wanted).ranges:
        window = None
        if keys != whole:
            bounds = EntryBounds(keys.start_key, keys.end_key, 0, MAX_TS, is_raw)
            window = (bounds.lower(), bounds.upper())
        parts.append(
            PlannedFile(
                number + len(parts),
                f"{backup_dir.name}/{file.name}",
                backup_dir.object_name(file.name),
                file,
                family_of_file(file),
                window,
                None if window is None else keys,
            )
        )
    return parts


class How(str, Enum):
    """How a file came."""

    LINKED = "linked"
    FETCHED = "fetched"
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """A file that is there; `path` is None if it holds nothing to restore, or is damaged."""

    planned: PlannedFile
    how: How
    path: Path | None
    finding: Finding | None = None


class FileFetcher:
    """Fetches files of `storage` into the directory `staging`.

    `local_root` is the storage's directory, if it is one; `verify` compares every file's SHA-256.
    Encrypted files come decrypted by `cipher`.
    """

    def __init__(
        self,
        storage: Storage,
        local_root: Path | None,
        staging: Path,
        *,
        verify: bool,
        cipher: Cipher | None = None,
    ) -> None:
        self._cipher = cipher
        self._storage = storage
        self._local_root = local_root
        self._staging = staging
        self._verify = verify
        self._stopping = threading.Event()

    def fetch_all(self, files: Sequence[PlannedFile], jobs: int) -> Iterator[ReadyFile]:
        """Fetch files, `jobs` at a time; damage is in the results. Raises StorageError."""
        threads = Threads(jobs, thread_name_prefix="fetch")
        pending: deque[Future[ReadyFile]] = deque()
        try:
            for planned in files:
                if len(pending) >= jobs * _QUEUED_PER_JOB:
                    yield signs.result_of(pending.popleft())
                pending.append(threads.submit(self.fetch, planned))
            while pending:
                yield signs.result_of(pending.popleft())
        finally:
            self._stopping.set()
            with signs.waiting():
                threads.shutdown(wait=True, cancel_futures=True)

    def fetch(self, planned: PlannedFile) -> ReadyFile:
        """Fetch one file, and verify it."""
        path = self._staging / f"{planned.number:08d}.sst"
        try:
            how = self._bring(planned, path)
            if planned.window is None:
                return ReadyFile(planned, how, path)
            part = path.with_suffix(".part")
            with FileReader(path) as reader:
                written = write_window(
                    reader, planned.shown_name, part, *planned.window, self._check_stopping
                )
            path.unlink()
            return ReadyFile(planned, How.REWRITTEN, part if written else None)
        except NotFoundError:
            return self._damaged(planned, "is missing")
        except CorruptionError as e:
            return self._damaged(planned, str(e).removeprefix(f"{planned.shown_name}: "))
        except OSError as e:
            raise StorageError(
                f"{e.filename or path}: cannot be written ({reason_of(e)}); "
                "check space and permissions there"
            ) from None

    def _damaged(self, planned: PlannedFile, what: str) -> ReadyFile:
        (self._staging / f"{planned.number:08d}.sst").unlink(missing_ok=True)
        return ReadyFile(planned, How.FETCHED, None, Finding(planned.shown_name, None, what))

    def _bring(self, planned: PlannedFile, path: Path) -> How:
        """Link or copy a file, and compare its size and hash with what backupmeta says."""
        if not planned.file.cipher_iv and self._link(planned.object_name, path):
            how = How.LINKED
            size = path.stat().st_size
            _check_size(planned.file, size)
            digest = self._hash_file(path) if self._verify else b""
        else:
            how = How.FETCHED
            with self._storage.open(planned.object_name) as reader:
                _check_size(planned.file, reader.size)
                digest = self._copy(reader, path, self._decrypting(planned.file))
        if self._verify and planned.file.sha256 and digest != planned.file.sha256:
            raise CorruptionError("its SHA-256 is not the one in backupmeta")
        return how

    def _link(self, object_name: str, path: Path) -> bool:
        """Make `path` a hard link to the object; False where that cannot be, or had better not."""
        if self._local_root is None:
            return False
        source = self._local_root / object_name
        # Through a symbolic link, the storage itself refuses to go.
        if os.path.realpath(source) != os.path.join(
            os.path.realpath(self._local_root), object_name
        ):
            return False
        # RocksDB opens files it takes in for writing (to sync them), so those must be writable.
        if not os.access(source, os.W_OK):
            return False
        # A link has the file's own mode, which is the backup's.
        if lets_group_read() and not source.stat().st_mode & stat.S_IRGRP:
            return False
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError:
            return False
        if stat.S_ISREG(path.lstat().st_mode):
            return True
        path.unlink()
        return False

    def _hash_file(self, path: Path) -> bytes:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK))
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self._check_stopping()
                digest.update(buffer[:count])
        return digest.digest()

    def _decrypting(self, file: BackupFile) -> Callable[[bytes], bytes]:
        if not file.cipher_iv:
            return lambda data: data
        if self._cipher is None:
            raise UsageError(f"{file.name} is encrypted, and there is no key")
        try:
            return self._cipher.at(file.cipher_iv, 0).update
        except ValueError as e:
            raise CorruptionError(f"is encrypted with {e}, which backupmeta says") from None

    def _copy(self, reader: RandomReader, path: Path, decrypt: Callable[[bytes], bytes]) -> bytes:
        digest = hashlib.sha256()
        with open(path, "xb", buffering=0, opener=_private) as file:
            for offset in range(0, reader.size, _CHUNK):
                self._check_stopping()
                chunk = reader.read_at(offset, _CHUNK)
                if self._verify:
                    digest.update(chunk)
                _write_all(file.fileno(), decrypt(chunk))
        return digest.digest()

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise CancelledError(0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _check_size(file: BackupFile, size: int) -> None:
    if file.size and size != file.size:
        raise CorruptionError(f"has {size} bytes, backupmeta says {file.size}")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
