"""What all clouds share: names below a bucket's prefix, whole reads, and uploads of files.

    bucket/<prefix>/<object name>

A small file goes out in one request. A larger one is uploaded chunk by chunk, and its Upload
outlives a failed call: the next call for the same file goes on from what the service already has.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from bkctl.errors import StorageError
from bkctl.shortage import reason_of
from bkctl.storage.base import (
    NotFoundError,
    ObjectInfo,
    RandomReader,
    Storage,
    TransientError,
    changed,
    check_name,
    failure,
    folder_parts,
    not_found,
)
from bkctl.storage.cloud_options import chunk_size_option
from bkctl.storage.file_part import FilePart
from bkctl.storage.limit import TokenBucket
from bkctl.storage.url import StorageSpec

# Up to this a file is sent out of memory.
_SINGLE_SIZE = 8 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an object, named by `version` (a generation, an ETag).

    `modified` is in unix seconds. `crc32c` is what the service says of the content, None where it
    says nothing.
    """

    size: int
    modified: float
    version: str
    crc32c: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing: objects by key, and common beginnings of keys up to a delimiter."""

    objects: tuple[tuple[str, Stored], ...]
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells whether a local file is still the one an upload began with."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> Identity:
        """The identity of an open file."""
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Upload(Protocol):
    """A file's upload under way; `offset` bytes of it are stored so far."""

    @property
    def offset(self) -> int:
        """Where the next chunk begins."""

    def resume(self, file: BinaryIO) -> None:
        """Find out, after a failure, where to go on; moves `offset` to there."""

    def send(self, part: FilePart) -> None:
        """Store the next chunk, or a beginning of it, and move `offset`."""

    def complete(self) -> None:
        """Make the object of all chunks, and check it against what was read."""

    def abort(self) -> None:
        """Let the service forget it."""


class UploadLostError(TransientError):
    """The service no longer knows, or damaged, an upload: it must begin anew."""


@dataclass(slots=True)
class _Unfinished:
    """An upload between calls; `furthest` is the largest offset that was ever reached."""

    identity: Identity
    upload: Upload | None = None
    furthest: int = -1


class CloudStorage(Storage):
    """Objects in a bucket, below the prefix of a storage URL."""

    # Chunks that the service takes are multiples of this, but for the last.
    chunk_multiple: ClassVar[int] = 1
    default_chunk_size: ClassVar[int] = 8 << 20

    def __init__(self, spec: StorageSpec) -> None:
        self._url = spec.display
        self._root = f"{spec.prefix}/" if spec.prefix else ""
        self._chunk_size = chunk_size_option(spec, self.chunk_multiple, self.default_chunk_size)
        self._tokens = TokenBucket(spec.rate_limit) if spec.rate_limit else None
        self._take = self._tokens.take if self._tokens else None
        # One thread at a time saves a file under one name, so each entry has one user.
        self._uploads: dict[str, _Unfinished] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    def url(self) -> str:
        """The storage URL, secrets masked."""
        return self._url

    def _key(self, name: str) -> str:
        check_name(name)
        return self._root + name

    def stat(self, name: str) -> ObjectInfo | None:
        """See Storage."""
        stored = self._head(name)
        return None if stored is None else ObjectInfo(name, stored.size, stored.modified)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """See Storage."""
        folder = self._folder(prefix)
        start = self._root + after if after else ""
        for page in self._pages(prefix, folder, start):
            for key, stored in page.objects:
                name = key[len(self._root) :]
                if _is_name(name) and name > after:
                    yield ObjectInfo(name, stored.size, stored.modified)

    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """See Storage."""
        folder = self._folder(prefix)
        found = {
            key[len(folder) :].rstrip("/")
            for page in self._pages(prefix, folder, "", delimiter="/")
            for key in page.prefixes
        }
        return tuple(sorted(filter(_is_name, found)))

    def _folder(self, prefix: str) -> str:
        return self._root + "".join(f"{part}/" for part in folder_parts(prefix))

    def read(self, name: str, limit: int | None = None) -> bytes:
        """See Storage. The content is checked against the service's checksum of it."""
        stored = self._require(name)
        if limit is not None and stored.size > limit:
            what = f"has {stored.size} bytes where at most {limit} are expected"
            raise failure(self.url, name, what, "it is not what its name says")
        if stored.size == 0:
            return b""
        try:
            return self._get(name, stored, 0, stored.size)
        except NotFoundError as e:
            # Replaced since; another try finds the new version, or nothing.
            raise TransientError(str(e)) from e

    def open(self, name: str) -> RandomReader:
        """See Storage. The reader stays with the version that it finds now."""
        return CloudReader(self, name, self._require(name))

    def _require(self, name: str) -> Stored:
        stored = self._head(name)
        if stored is None:
            raise not_found(self.url, name)
        return stored

    def read_version(self, name: str, stored: Stored, offset: int, length: int) -> bytes:
        """Read a part of one version of an object; all of `length` bytes must exist in it."""
        return self._get(name, stored, offset, length)

    def write(self, name: str, data: bytes) -> None:
        """See Storage."""
        self._put(name, data, exclusive=False)

    def create(self, name: str, data: bytes) -> None:
        """See Storage."""
        self._put(name, data, exclusive=True)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """See Storage."""
        stored = self._head(name)
        if stored is None or stored.size != len(old):
            raise changed(self.url, name)
        try:
            if old and self._get(name, stored, 0, stored.size) != old:
                raise changed(self.url, name)
        except NotFoundError:
            raise changed(self.url, name) from None
        if new is None:
            self._delete_version(name, stored.version)
        else:
            self._put(name, new, exclusive=False, version=stored.version)

    def save_file(self, name: str, path: Path) -> None:
        """See Storage."""
        check_name(name)
        with self._opened(name, path) as file:
            identity = Identity.of(file)
            if identity.size <= min(self._chunk_size, _SINGLE_SIZE):
                part = self._part(name, file, 0, identity.size)
                self._put(name, part.data(), exclusive=False)
                self._check_unchanged(name, file, identity)
            else:
                self._upload(name, file, identity)
        try:
            path.unlink()
        except OSError as e:
            raise self._local_failure(name, path, e) from e

    def _upload(self, name: str, file: BinaryIO, identity: Identity) -> None:
        unfinished = self._taken_up(name, identity)
        try:
            if unfinished.upload is None:
                unfinished.upload = self._begin_upload(name, file, identity.size)
            else:
                unfinished.upload.resume(file)
            upload = unfinished.upload
            while upload.offset < identity.size:
                size = min(self._chunk_size, identity.size - upload.offset)
                upload.send(self._part(name, file, upload.offset, size))
                self._check_unchanged(name, file, identity)
            upload.complete()
        except UploadLostError:
            unfinished.upload = None
            raise
        except TransientError as e:
            # Counted over all tries, or an upload that is lost again and again would never end.
            reached = unfinished.upload.offset if unfinished.upload else -1
            e.progressed = reached > unfinished.furthest
            unfinished.furthest = max(unfinished.furthest, reached)
            raise
        except BaseException:
            self._forget(name)
            raise
        self._uploads.pop(name, None)

    def _taken_up(self, name: str, identity: Identity) -> _Unfinished:
        """Give what an earlier call for the same file has left, or a new beginning."""
        unfinished = self._uploads.get(name)
        if unfinished is not None and unfinished.identity != identity:
            self._forget(name)
            unfinished = None
        if unfinished is None:
            unfinished = self._uploads[name] = _Unfinished(identity)
        return unfinished

    def _forget(self, name: str) -> None:
        unfinished = self._uploads.pop(name, None)
        if unfinished is not None and unfinished.upload is not None:
            # The service's own clean-up comes later anyway; the first error is the one to tell.
            with suppress(StorageError):
                unfinished.upload.abort()

    def _opened(self, name: str, path: Path) -> BinaryIO:
        try:
            return path.open("rb", buffering=0)
        except OSError as e:
            raise self._local_failure(name, path, e) from e

    def _part(self, name: str, file: BinaryIO, offset: int, size: int) -> FilePart:
        def problem(error: OSError | None) -> StorageError:
            if error is None:
                return self._changed(name, file)
            return self._local_failure(name, Path(file.name), error)

        return FilePart(file, offset, size, problem)

    def _check_unchanged(self, name: str, file: BinaryIO, identity: Identity) -> None:
        if Identity.of(file) != identity:
            raise self._changed(name, file)

    def _changed(self, name: str, file: BinaryIO) -> StorageError:
        what = f"{file.name} changed while it was sent"
        return failure(self.url, name, what, "keep others out of the temporary directory")

    def _file_crc32c(self, name: str, file: BinaryIO, size: int) -> int:
        return self._part(name, file, 0, size).crc32c()

    def _local_failure(self, name: str, path: Path, error: OSError) -> StorageError:
        what = f"{path} cannot be read or removed ({reason_of(error)})"
        return failure(self.url, name, what, "check the temporary directory")

    def delete(self, name: str) -> None:
        """See Storage."""
        self._delete(name)

    def close(self) -> None:
        """See Storage. Uploads that were given up are aborted."""
        for name in tuple(self._uploads):
            self._forget(name)
        self._disconnect()
        if self._tokens is not None:
            self._tokens.close()

    # What a service has to do, by object name; all raise as Storage does.

    @abstractmethod
    def _head(self, name: str) -> Stored | None:
        """Look up an object."""

    @abstractmethod
    def _pages(self, prefix: str, folder: str, start: str, delimiter: str = "") -> Iterator[Page]:
        """List the keys beginning with `folder` from `start` on, in order; `prefix` is for errors.

        `start` itself may be among them or not.
        """

    @abstractmethod
    def _get(self, name: str, stored: Stored, offset: int, length: int) -> bytes:
        """Read exactly `length` (> 0) bytes of a version, checked if they are all of it."""

    @abstractmethod
    def _put(self, name: str, data: bytes, *, exclusive: bool, version: str | None = None) -> None:
        """Put an object; `exclusive`: only if there is none (AlreadyExistsError).

        `version`: only if the object is still that one (ChangedError).
        """

    @abstractmethod
    def _begin_upload(self, name: str, file: BinaryIO, size: int) -> Upload:
        """Begin the upload of a file of more than one chunk; reads `file` at most by offset."""

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Delete an object, if it is there."""

    @abstractmethod
    def _delete_version(self, name: str, version: str) -> None:
        """Delete an object if it is still that version, else raise ChangedError."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close connections; may be called twice."""


class CloudReader(RandomReader):
    """Reads parts of one version of an object.

    Services keep a checksum of whole objects only, so a read of all of it is checked; for parts,
    the checksums of the format that is read must do.
    """

    def __init__(self, storage: CloudStorage, name: str, stored: Stored) -> None:
        self._storage, self._name, self._stored = storage, name, stored

    @property
    def size(self) -> int:
        """The object's length in bytes."""
        return self._stored.size

    @property
    def crc32c(self) -> int | None:
        """See RandomReader."""
        return self._stored.crc32c

    def read_at(self, offset: int, length: int) -> bytes:
        """See RandomReader."""
        if offset < 0 or length < 0:
            raise ValueError(f"read of {length} bytes at {offset}")
        length = min(length, max(self._stored.size - offset, 0))
        if length == 0:
            return b""
        return self._storage.read_version(self._name, self._stored, offset, length)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except StorageError:
        return False
    return True
