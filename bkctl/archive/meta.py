"""backupmeta: what a backup consists of, as TiDB's br writes and reads it.

    backupmeta = protobuf BackupMeta (backup.proto)

    version 0     files and raw_ranges are inline
    version 1     file_index, raw_range_index: MetaFile
                    meta_files -> objects beside backupmeta, each a MetaFile again
                    data_files -> SST files
                    raw_ranges -> ranges of a raw backup

bkctl writes version 0 and reads both (`meta_walk`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bkctl.archive.meta_walk import MAX_FILES, OpenObject, walk_meta
from bkctl.errors import CorruptionError
from bkctl.proto import backup_pb2
from bkctl.storage.stored import StoredObject
from bkctl.store.ident import API_NAMES, API_V1

_NO_DDLS = b"[]"
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One SST file; keys are raw user keys `[start_key, end_key)`, versions TSOs, sizes bytes.

    `total_kvs`, `total_bytes` and `crc64xor` count the entries as the format's accounting rule
    says; some versions of br leave `crc64xor` 0. `size` is the file's own, 0 if not recorded. A
    `cipher_iv` means that the file is encrypted.
    """

    name: str
    sha256: bytes
    start_key: bytes
    end_key: bytes
    start_version: int
    end_version: int
    crc64xor: int
    total_kvs: int
    total_bytes: int
    cf: str
    size: int
    cipher_iv: bytes = b""


@dataclass(frozen=True, slots=True)
class RawRange:
    """A range of raw user keys `[start_key, end_key)` of a column family that a backup covers."""

    start_key: bytes
    end_key: bytes
    cf: str


@dataclass(frozen=True, slots=True)
class BackupMeta:
    """A whole backup: every version in `(start_version, end_version]`, both TSOs.

    `cluster_version` and `br_version` are free text of whoever wrote the backup, and may have
    several lines: escape them before showing them. `backup_size` is in bytes, 0 if not recorded.
    """

    cluster_id: int
    cluster_version: str
    files: tuple[BackupFile, ...]
    start_version: int
    end_version: int
    is_raw_kv: bool = False
    raw_ranges: tuple[RawRange, ...] = ()
    api_version: int = API_V1
    backup_size: int = 0
    br_version: str = ""
    is_txn_kv: bool = False


ObjectReader = Callable[[str], bytes]


def encode_meta(meta: BackupMeta) -> bytes:
    """Serialize as version 0; equal backups give equal bytes, in whatever order their files are."""
    message = backup_pb2.BackupMeta(
        cluster_id=meta.cluster_id,
        cluster_version=meta.cluster_version,
        start_version=meta.start_version,
        end_version=meta.end_version,
        is_raw_kv=meta.is_raw_kv,
        ddls=_NO_DDLS,
        br_version=meta.br_version,
        version=0,
        api_version=API_NAMES[meta.api_version],
        is_txn_kv=meta.is_txn_kv,
        backup_size=meta.backup_size,
    )
    for file in sorted(meta.files, key=lambda file: (file.cf, file.start_key, file.name)):
        message.files.add(
            name=file.name,
            sha256=file.sha256,
            start_key=file.start_key,
            end_key=file.end_key,
            start_version=file.start_version,
            end_version=file.end_version,
            crc64xor=file.crc64xor,
            total_kvs=file.total_kvs,
            total_bytes=file.total_bytes,
            cf=file.cf,
            size=file.size,
            cipher_iv=file.cipher_iv,
        )
    for raw_range in meta.raw_ranges:
        message.raw_ranges.add(
            start_key=raw_range.start_key, end_key=raw_range.end_key, cf=raw_range.cf
        )
    return bytes(message.SerializeToString(deterministic=True))


def decode_meta(data: bytes, source: str, read_object: ObjectReader | None = None) -> BackupMeta:
    """Read a backupmeta of version 0 or 1; `source` says in errors where it comes from.

    `read_object` gets an object beside backupmeta by its name, for version 1. Raises
    CorruptionError for anything that is no sound description of a backup; what `read_object`
    raises passes through.
    """

    def open_object(name: str) -> AbstractContextManager[StoredObject]:
        assert read_object is not None
        return nullcontext(StoredObject.of_bytes(read_object(name)))

    contents = _Contents(lambda: MAX_FILES)
    opener = None if read_object is None else open_object
    return contents.of(walk_meta(StoredObject.of_bytes(data), source, contents, opener))


def read_meta(
    stored: StoredObject,
    source: str,
    open_object: OpenObject,
    most: Callable[[], int] = lambda: MAX_FILES,
) -> BackupMeta:
    """The same of a stored backupmeta, and of objects that `open_object` opens by their names.

    `most` is asked, where there are very many files, how many there can be at most.
    """
    contents = _Contents(most)
    return contents.of(walk_meta(stored, source, contents, open_object))


class _Contents:
    """Keeps everything.

    `most` is asked once there are `_MANY` files: a few bytes of each of millions of files that are
    not there must not fill the memory.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._files: list[BackupFile] = []
        self._raw_ranges: list[RawRange] = []
        self._names: set[str] = set()
        self._most, self._limit = most, 0

    def is_new(self, name: str) -> bool:
        """See Sink."""
        known = len(self._names)
        self._names.add(name)
        return len(self._names) > known

    def add_file(self, file: backup_pb2.File) -> None:
        """See Sink."""
        self._files.append(
            BackupFile(
                name=file.name,
                sha256=file.sha256,
                start_key=file.start_key,
                end_key=file.end_key,
                start_version=file.start_version,
                end_version=file.end_version,
                crc64xor=file.crc64xor,
                total_kvs=file.total_kvs,
                total_bytes=file.total_bytes,
                cf=file.cf,
                size=file.size,
                cipher_iv=file.cipher_iv,
            )
        )
        if len(self._files) < _MANY:
            return
        self._limit = self._limit or self._most()
        if len(self._files) > self._limit:
            raise CorruptionError(
                f"names {len(self._files)} files and more, of which most are missing"
            )

    def add_raw_range(self, raw_range: backup_pb2.RawRange) -> None:
        """See Sink."""
        self._raw_ranges.append(RawRange(raw_range.start_key, raw_range.end_key, raw_range.cf))

    def of(self, head: backup_pb2.BackupMeta) -> BackupMeta:
        """The whole of it."""
        return BackupMeta(
            cluster_id=head.cluster_id,
            cluster_version=head.cluster_version,
            files=tuple(self._files),
            start_version=head.start_version,
            end_version=head.end_version,
            is_raw_kv=head.is_raw_kv,
            raw_ranges=tuple(self._raw_ranges),
            api_version=head.api_version,
            backup_size=head.backup_size,
            br_version=head.br_version,
            is_txn_kv=head.is_txn_kv,
        )
