"""Goes through a backupmeta in pieces, whatever its size, and checks all that it says by itself.

What it reads may come from anywhere: every name, hash and figure is checked before it is passed on,
an index cannot lead in circles or without end, and nothing is held of what is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from bkctl.codec.stream import ByteStream
from bkctl.errors import CorruptionError, StorageError
from bkctl.proto import backup_pb2, wire
from bkctl.storage.base import check_name
from bkctl.storage.stored import StoredObject
from bkctl.store.ident import API_NAMES

MAX_INDEX_DEPTH = 8
MAX_INDEX_OBJECTS = 65_536
# A million files with names as TiKV gives them and keys of 40 bytes make 300 MiB.
MAX_META_BYTES = 1 << 30
MAX_FILES = 1 << 22
MAX_RAW_RANGES = 1 << 16

_VERSIONS = (0, 1)
_MAX_FIGURE = 1 << 63
_MAX_CF_LENGTH = 64
_MAX_ENTRY_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 20
_SHA256_SIZE = 32
# The fields of BackupMeta that are small, and those that hold messages; those of MetaFile.
_HEAD_FIELDS = frozenset({1, 2, 5, 6, 8, 11, 12, 18, 21, 25})
_FILES, _RAW_RANGES, _INDEXES = 4, 9, frozenset({13, 15})
_NODE_OBJECTS, _NODE_FILES, _NODE_RAW_RANGES = 1, 2, 4

_Message = TypeVar("_Message", bound=Message)


class Sink(Protocol):
    """Takes what a backupmeta holds; a CorruptionError of it says on what is wrong with that."""

    def is_new(self, name: str) -> bool:
        """Whether the name of a file or an index object has not come before."""

    def add_file(self, file: backup_pb2.File) -> None:
        """Take a file, whose fields have been checked."""

    def add_raw_range(self, raw_range: backup_pb2.RawRange) -> None:
        """Take a raw range, the same."""


OpenObject = Callable[[str], AbstractContextManager[StoredObject]]
"""Opens an object beside backupmeta by its name."""


def walk_meta(
    stored: StoredObject, source: str, sink: Sink, open_object: OpenObject | None = None
) -> backup_pb2.BackupMeta:
    """Go through a stored backupmeta of version 0 or 1; `source` says in errors where it is from.

    Files and raw ranges go to `sink`; the message that is returned has the small fields only.
    `open_object` is for version 1. Raises CorruptionError for anything that is no sound description
    of a backup; what `open_object` raises passes through.
    """
    return _Walk(source, sink, open_object).run(stored)


class _Walk:
    """Goes through a backupmeta and the nodes of its indexes."""

    def __init__(self, source: str, sink: Sink, open_object: OpenObject | None) -> None:
        self._source, self._sink, self._open = source, sink, open_object
        self._files = self._raw_ranges = self._objects = self._bytes = 0

    def run(self, stored: StoredObject) -> backup_pb2.BackupMeta:
        stream = stored.whole()
        head = bytearray()
        indexes: list[tuple[int, int]] = []
        for field in self._fields(stream, stored.size, self._source):
            number = field.number
            if number in _HEAD_FIELDS:
                head += field.encoded
                if len(head) + field.size > _MAX_HEAD_BYTES:
                    raise CorruptionError(f"{self._source}: its texts are longer than any backup's")
                head += stream.take(field.size)
            elif field.is_bytes and number in _INDEXES:
                indexes.append((field.start, field.start + field.size))
                if len(indexes) > MAX_INDEX_DEPTH:
                    raise CorruptionError(f"{self._source}: has more than one index of a kind")
            elif field.is_bytes and number == _FILES:
                self._file(self._entry(backup_pb2.File, stream, field, self._source))
            elif field.is_bytes and number == _RAW_RANGES:
                self._raw_range(self._entry(backup_pb2.RawRange, stream, field, self._source))
        message = self._parse(backup_pb2.BackupMeta, bytes(head), self._source)
        self._check_head(message)
        if message.version == 1:
            for start, end in indexes:
                self._node(stored, start, end, self._source, 0)
        return message

    def _check_head(self, message: backup_pb2.BackupMeta) -> None:
        if message.version not in _VERSIONS:
            raise CorruptionError(
                f"{self._source}: version {message.version} of the format is unknown (known are 0 "
                "and 1); the backup is damaged or from a newer program"
            )
        if message.api_version not in API_NAMES:
            raise CorruptionError(f"{self._source}: unknown API version {message.api_version}")
        _check_figure(message.backup_size, "backup size", self._source)

    def _node(self, stored: StoredObject, start: int, end: int, where: str, depth: int) -> None:
        """Take in the node of an index at `[start, end)`, and then all below it."""
        has_objects = False
        stream = stored.part(start, end)
        for field in self._fields(stream, end, where):
            if field.is_bytes and field.number == _NODE_FILES:
                self._file(self._entry(backup_pb2.File, stream, field, where))
            elif field.is_bytes and field.number == _NODE_RAW_RANGES:
                self._raw_range(self._entry(backup_pb2.RawRange, stream, field, where))
            has_objects |= field.is_bytes and field.number == _NODE_OBJECTS
        if not has_objects:
            return
        if depth == MAX_INDEX_DEPTH:
            raise CorruptionError(
                f"{self._source}: the index is nested more than {MAX_INDEX_DEPTH} levels deep"
            )
        stream = stored.part(start, end)
        for field in self._fields(stream, end, where):
            if field.is_bytes and field.number == _NODE_OBJECTS:
                self._object(self._entry(backup_pb2.File, stream, field, where), depth)

    def _object(self, entry: backup_pb2.File, depth: int) -> None:
        name = self._claim(entry)
        where = f"{self._source}: index object {name}"
        if self._open is None:
            raise CorruptionError(f"{where} is needed and not at hand; keep the folder together")
        if entry.cipher_iv:
            raise CorruptionError(f"{where} is encrypted, which bkctl cannot read")
        with self._open(name) as stored:
            self._objects += 1
            self._bytes += stored.size
            if self._objects > MAX_INDEX_OBJECTS or self._bytes > MAX_META_BYTES:
                raise CorruptionError(
                    f"{self._source}: the index has more than {MAX_INDEX_OBJECTS} objects or "
                    f"{MAX_META_BYTES} bytes"
                )
            if entry.sha256 and stored.sha256() != entry.sha256:
                raise CorruptionError(f"{where} does not have the SHA-256 that was recorded for it")
            self._node(stored, 0, stored.size, where, depth + 1)

    def _claim(self, entry: backup_pb2.File) -> str:
        """Check an entry's name and hash; refuses a second entry of that name, and so circles."""
        name = str(entry.name)
        try:
            check_name(name)
        except StorageError as e:
            raise CorruptionError(f"{self._source}: {e}") from None
        if not self._sink.is_new(name):
            raise CorruptionError(f"{self._source}: names {name} twice")
        if len(entry.sha256) not in (0, _SHA256_SIZE):
            raise CorruptionError(
                f"{self._source}: {name}: a SHA-256 of {len(entry.sha256)} bytes instead of 32"
            )
        return name

    def _file(self, file: backup_pb2.File) -> None:
        name = self._claim(file)
        where = f"{self._source}: {name}"
        self._files += 1
        if self._files > MAX_FILES:
            raise CorruptionError(f"{self._source}: names more than {MAX_FILES} files")
        _check_figure(file.total_kvs, "record count", where)
        _check_figure(file.total_bytes, "byte count", where)
        _check_figure(file.size, "size", where)
        _check_cf(file.cf, where)
        try:
            self._sink.add_file(file)
        except CorruptionError as e:
            raise CorruptionError(f"{self._source}: {e}") from None

    def _raw_range(self, raw_range: backup_pb2.RawRange) -> None:
        self._raw_ranges += 1
        if self._raw_ranges > MAX_RAW_RANGES:
            raise CorruptionError(f"{self._source}: names more than {MAX_RAW_RANGES} raw ranges")
        _check_cf(raw_range.cf, f"{self._source}: raw range")
        self._sink.add_raw_range(raw_range)

    def _fields(self, stream: ByteStream, end: int, where: str) -> Iterator[wire.Field]:
        walk = wire.fields(stream, end)
        while True:
            try:
                field = next(walk, None)
            except CorruptionError:
                raise _unreadable(where, end) from None
            if field is None:
                return
            yield field

    def _entry(
        self, kind: type[_Message], stream: ByteStream, field: wire.Field, where: str
    ) -> _Message:
        if field.size > _MAX_ENTRY_BYTES:
            raise CorruptionError(f"{where}: an entry of {field.size} bytes, longer than any is")
        return self._parse(kind, stream.take(field.size), where)

    @staticmethod
    def _parse(kind: type[_Message], data: bytes, where: str) -> _Message:
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise _unreadable(where, len(data)) from None
        return message


def _unreadable(where: str, size: int) -> CorruptionError:
    return CorruptionError(
        f"{where}: no readable protobuf ({size} bytes); it is damaged, cut or encrypted"
    )


def _check_figure(value: int, what: str, where: str) -> None:
    if value >= _MAX_FIGURE:
        raise CorruptionError(f"{where}: an absurd {what} of {value}")


def _check_cf(cf: str, where: str) -> None:
    if len(cf) > _MAX_CF_LENGTH or not cf.isprintable():
        raise CorruptionError(f"{where}: {cf[:80]!a} cannot be a column family's name")
