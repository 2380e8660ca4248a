"""backupmeta: what a backup consists of, as TiDB's br writes and reads it.

    backupmeta = protobuf BackupMeta (backup.proto)

    version 0     files and raw_ranges are inline
    version 1     file_index, raw_range_index: MetaFile
                    meta_files -> objects beside backupmeta, each a MetaFile again
                    data_files -> SST files
                    raw_ranges -> ranges of a raw backup

bkctl writes version 0 and reads both. What it reads may come from anywhere, so every name, hash
and figure is checked before it is passed on, and an index cannot lead in circles or without end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from bkctl.errors import CorruptionError, StorageError
from bkctl.proto import backup_pb2
from bkctl.storage.base import check_name
from bkctl.store.ident import API_NAMES, API_V1

MAX_INDEX_DEPTH = 8
MAX_INDEX_OBJECTS = 65_536
MAX_META_BYTES = 1 << 30

_VERSIONS = (0, 1)
_MAX_FIGURE = 1 << 63
_MAX_CF_LENGTH = 64
_NO_DDLS = b"[]"


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
_Message = TypeVar("_Message", bound=Message)


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
    message = _parse(backup_pb2.BackupMeta(), data, source)
    if message.version not in _VERSIONS:
        raise CorruptionError(
            f"{source}: version {message.version} of the format is unknown (known are 0 and 1); "
            "the backup is damaged or from a newer program"
        )
    if message.api_version not in API_NAMES:
        raise CorruptionError(f"{source}: unknown API version {message.api_version}")
    index = _Index(source, read_object)
    index.add(message.files, message.raw_ranges)
    if message.version == 1:
        index.walk(message.file_index)
        index.walk(message.raw_range_index)
    return BackupMeta(
        cluster_id=message.cluster_id,
        cluster_version=message.cluster_version,
        files=tuple(index.files),
        start_version=message.start_version,
        end_version=message.end_version,
        is_raw_kv=message.is_raw_kv,
        raw_ranges=tuple(index.raw_ranges),
        api_version=message.api_version,
        backup_size=_figure(message.backup_size, "backup size", source),
        br_version=message.br_version,
        is_txn_kv=message.is_txn_kv,
    )


class _Index:
    """Collects what a backup's own message and the nodes of its indexes hold."""

    def __init__(self, source: str, read_object: ObjectReader | None) -> None:
        self.files: list[BackupFile] = []
        self.raw_ranges: list[RawRange] = []
        self._source, self._read_object = source, read_object
        self._names: set[str] = set()
        self._objects = self._bytes = 0

    def walk(self, node: backup_pb2.MetaFile, depth: int = 0) -> None:
        """Take in a node and all below it."""
        self.add(node.data_files, node.raw_ranges)
        for entry in node.meta_files:
            if depth == MAX_INDEX_DEPTH:
                raise CorruptionError(
                    f"{self._source}: the index is nested more than {MAX_INDEX_DEPTH} levels deep"
                )
            self.walk(self._load(entry), depth + 1)

    def add(
        self, files: Iterable[backup_pb2.File], raw_ranges: Iterable[backup_pb2.RawRange]
    ) -> None:
        """Take in files and raw ranges after checking them."""
        for file in files:
            self.files.append(self._file(file))
        for raw_range in raw_ranges:
            cf = _cf(raw_range.cf, f"{self._source}: raw range")
            self.raw_ranges.append(RawRange(raw_range.start_key, raw_range.end_key, cf))

    def _load(self, entry: backup_pb2.File) -> backup_pb2.MetaFile:
        name = self._claim(entry)
        where = f"{self._source}: index object {name}"
        if self._read_object is None:
            raise CorruptionError(f"{where} is needed and not at hand; keep the folder together")
        if entry.cipher_iv:
            raise CorruptionError(f"{where} is encrypted, which bkctl cannot read")
        data = self._read_object(name)
        self._objects += 1
        self._bytes += len(data)
        if self._objects > MAX_INDEX_OBJECTS or self._bytes > MAX_META_BYTES:
            raise CorruptionError(
                f"{self._source}: the index has more than {MAX_INDEX_OBJECTS} objects or "
                f"{MAX_META_BYTES} bytes"
            )
        if entry.sha256 and hashlib.sha256(data).digest() != entry.sha256:
            raise CorruptionError(f"{where} does not have the SHA-256 that was recorded for it")
        return _parse(backup_pb2.MetaFile(), data, where)

    def _claim(self, entry: backup_pb2.File) -> str:
        """Check an entry's name and hash; refuses a second entry of that name, and so circles."""
        name = str(entry.name)
        try:
            check_name(name)
        except StorageError as e:
            raise CorruptionError(f"{self._source}: {e}") from None
        if name in self._names:
            raise CorruptionError(f"{self._source}: names {name} twice")
        self._names.add(name)
        if len(entry.sha256) not in (0, hashlib.sha256().digest_size):
            raise CorruptionError(
                f"{self._source}: {name}: a SHA-256 of {len(entry.sha256)} bytes instead of 32"
            )
        return name

    def _file(self, file: backup_pb2.File) -> BackupFile:
        name = self._claim(file)
        where = f"{self._source}: {name}"
        return BackupFile(
            name=name,
            sha256=file.sha256,
            start_key=file.start_key,
            end_key=file.end_key,
            start_version=file.start_version,
            end_version=file.end_version,
            crc64xor=file.crc64xor,
            total_kvs=_figure(file.total_kvs, "record count", where),
            total_bytes=_figure(file.total_bytes, "byte count", where),
            cf=_cf(file.cf, where),
            size=_figure(file.size, "size", where),
            cipher_iv=file.cipher_iv,
        )


def _parse(message: _Message, data: bytes, where: str) -> _Message:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise CorruptionError(
            f"{where}: no readable protobuf ({len(data)} bytes); it is damaged, cut or encrypted"
        ) from None
    return message


def _figure(value: int, what: str, where: str) -> int:
    if value >= _MAX_FIGURE:
        raise CorruptionError(f"{where}: an absurd {what} of {value}")
    return value


def _cf(cf: str, where: str) -> str:
    if len(cf) > _MAX_CF_LENGTH or not cf.isprintable():
        raise CorruptionError(f"{where}: {cf[:80]!a} cannot be a column family's name")
    return cf
