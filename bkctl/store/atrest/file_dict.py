"""Reads `file.dict`: which files of a store are encrypted, by their paths as TiKV saw them.

    version 1   header | EncryptedContent that is not sealed: a FileDictionary
    version 2   header | FileDictionary | record | record …

    record      crc32 of what follows the 9 bytes (4, BE) | name's length (2, BE)
                | info's length (2, BE) | 1 insert, 2 remove | name | FileInfo (insert only)

TiKV appends a record before it makes a file and after it removed one, and replaces the file by a
new one now and then (`sealed` shows the header). A record that is cut off at the very end, or whose
checksum is wrong there, was being written when TiKV or the machine died, and does not count; any
other damage is an error. The same is so for TiKV itself.

Source: TiKV's components/encryption, file_dict_file.rs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import open_regular
from bkctl.proto import encryptionpb_pb2
from bkctl.proto.strict import has_unknown_fields, parse
from bkctl.store.atrest.master_key import MasterKeys
from bkctl.store.atrest.sealed import HEADER_SIZE, LOG_VERSION, parse_header, unseal

FILE_DICT = "file.dict"
_RECORD_HEADER = 9
_INSERT, _REMOVE = 1, 2
_CHUNK = 1 << 20
# About a hundred bytes a file, and as much a record, of which TiKV lets a million removals be.
_MAX_BYTES, _MAX_CONTENT = 2 << 30, 256 << 20


class FileDictionary:
    """A file dictionary as it was at the last `refresh`; a running TiKV goes on changing it."""

    def __init__(self, path: Path, master_keys: MasterKeys) -> None:
        """Nothing is read before the first `refresh`."""
        self.path = path
        self._master_keys = master_keys
        # Held open, so that its number is given to no other file.
        self._file: BinaryIO | None = None
        self._infos: dict[str, bytes] = {}
        self._is_log = False
        self._read_to = 0

    def close(self) -> None:
        """Let the file go; may be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def refresh(self) -> None:
        """Read what is new; raises CorruptionError, SourceError."""
        try:
            file = self._file
            if file is None or not os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                self.close()
                self._file = os.fdopen(open_regular(self.path, _MAX_BYTES), "rb", buffering=0)
                self._read_all(self._file)
            if self._is_log:
                self._read_records()
        except FileNotFoundError:
            raise CorruptionError(
                f"{self.path}: missing, though there is a dictionary of keys: nothing tells which "
                "files of the store are encrypted"
            ) from None
        except OSError as e:
            raise SourceError(f"{self.path}: cannot be read ({e.strerror})") from None

    def names(self) -> Iterator[str]:
        """The paths, as TiKV saw them, of all files it knows."""
        return iter(self._infos)

    def encrypted_names(self) -> Iterator[str]:
        """Those of files that are not plain."""
        plaintext = encryptionpb_pb2.PLAINTEXT
        for name in self._infos:
            info = self.get(name)
            if info is not None and info.method != plaintext:
                yield name

    def get(self, name: str) -> encryptionpb_pb2.FileInfo | None:
        """How the file of that path is encrypted; None for one that is not listed, so is plain."""
        content = self._infos.get(name)
        if content is None:
            return None
        try:
            return parse(encryptionpb_pb2.FileInfo, content)
        except CorruptionError as e:
            raise CorruptionError(f"{self.path}: entry of {name!a}: {e}") from None

    def _read_all(self, file: BinaryIO) -> None:
        """Read what stands before the records."""
        header = parse_header(self._read(0, HEADER_SIZE), self.path)
        left = os.fstat(file.fileno()).st_size - HEADER_SIZE
        self._is_log = header.version == LOG_VERSION
        if header.size > _MAX_CONTENT:
            raise CorruptionError(
                f"{self.path}: {header.size:,} bytes for files it lists, its header says, where at "
                f"most {_MAX_CONTENT:,} are read: it is damaged"
            )
        content = self._read(HEADER_SIZE, min(left, header.size) if self._is_log else left)
        header.check(content, self.path)
        if not self._is_log:
            content = unseal(content, self.path, self._master_keys)
        try:
            dictionary = parse(encryptionpb_pb2.FileDictionary, content)
        except CorruptionError as e:
            raise CorruptionError(f"{self.path}: {e}") from None
        if has_unknown_fields(dictionary):
            raise CorruptionError(f"{self.path}: holds what bkctl does not know: a newer TiKV's")
        self._infos = {n: info.SerializeToString() for n, info in dictionary.files.items()}
        self._read_to = HEADER_SIZE + header.size

    def _read_records(self) -> None:
        """Take in the whole records behind what was read before."""
        rest = b""
        while chunk := self._read(self._read_to + len(rest), _CHUNK):
            rest += chunk
            used = self._take_records(rest)
            self._read_to += used
            rest = rest[used:]

    def _take_records(self, data: bytes) -> int:
        """Take in the records of `data` that are whole; the bytes they are."""
        pos = 0
        while pos + _RECORD_HEADER <= len(data):
            name_start = pos + _RECORD_HEADER
            name_end = name_start + int.from_bytes(data[pos + 4 : pos + 6], "big")
            end = name_end + int.from_bytes(data[pos + 6 : pos + 8], "big")
            if end > len(data):
                break
            if zlib.crc32(data[name_start:end]) != int.from_bytes(data[pos : pos + 4], "big"):
                if end == len(data):
                    break  # no damage if nothing follows
                raise self._damaged(pos, "checksum mismatch")
            self._take(data[pos + 8], data[name_start:name_end], data[name_end:end], pos)
            pos = end
        return pos

    def _take(self, kind: int, name: bytes, info: bytes, pos: int) -> None:
        try:
            decoded = name.decode()
        except UnicodeDecodeError:
            raise self._damaged(pos, "its file name is no UTF-8") from None
        if kind == _INSERT:
            self._infos[decoded] = info
        elif kind != _REMOVE:
            raise self._damaged(pos, f"unknown kind {kind}")
        elif self._infos.pop(decoded, None) is None:
            raise self._damaged(pos, f"it removes {decoded!a}, which is not there")

    def _damaged(self, pos: int, what: str) -> CorruptionError:
        return CorruptionError(f"{self.path}: record at offset {self._read_to + pos}: {what}")

    def _read(self, offset: int, length: int) -> bytes:
        assert self._file is not None
        pieces = []
        while length > 0 and (piece := os.pread(self._file.fileno(), length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)
