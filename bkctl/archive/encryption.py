"""Encrypted files of a backup: reading them, and telling a wrong key from damage.

Each file's IV is in backupmeta (`cipher_iv`), its SHA-256 there is of the bytes as stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bkctl.archive.meta import BackupFile
from bkctl.errors import CorruptionError, UsageError
from bkctl.sst.format import is_magic
from bkctl.storage.base import NotFoundError, RandomReader

if TYPE_CHECKING:
    from bkctl.archive.backup_dir import BackupDir
    from bkctl.codec.cipher import Cipher

_TAIL = 8
_TRIED_FILES = 3
_CHUNK = 1 << 20


def plain_reader(reader: RandomReader, file: BackupFile, cipher: Cipher | None) -> RandomReader:
    """A reader of what `file` holds, whether it is encrypted or not.

    Raises UsageError without a key, CorruptionError for an IV that is none.
    """
    if not file.cipher_iv:
        return reader
    if cipher is None:
        raise _no_key(file.name)
    from bkctl.storage.encrypted import DecryptingReader

    try:
        return DecryptingReader(reader, cipher, file.cipher_iv)
    except ValueError:
        raise CorruptionError(
            f"{file.name}: its cipher_iv in backupmeta has {len(file.cipher_iv)} bytes, not 16"
        ) from None


def check_key(backup_dir: BackupDir, files: Iterable[BackupFile], cipher: Cipher | None) -> None:
    """Raise UsageError unless `cipher` can be the key of all the files that are encrypted.

    A file that is whole and does not decrypt to an SST file tells a wrong key; of damaged ones
    nothing is said here.
    """
    encrypted = [file for file in files if file.cipher_iv]
    if not encrypted:
        return
    if cipher is None:
        raise _no_key(backup_dir.where)
    tried = sorted(encrypted, key=lambda file: file.size)[:_TRIED_FILES]
    for file in tried:
        try:
            with backup_dir.open_file(file.name) as reader:
                plain = plain_reader(reader, file, cipher)
                if is_magic(plain.read_at(max(0, reader.size - _TAIL), _TAIL)):
                    return
                if _sha256(reader) == file.sha256:
                    raise UsageError(
                        f"{backup_dir.where}: {file.name} is whole, but is no SST file when "
                        "decrypted: the key or the method is wrong; check --crypter.method and "
                        "--crypter.key"
                    )
        except (CorruptionError, NotFoundError):
            continue


def _sha256(reader: RandomReader) -> bytes:
    digest = hashlib.sha256()
    for offset in range(0, reader.size, _CHUNK):
        digest.update(reader.read_at(offset, _CHUNK))
    return digest.digest()


def _no_key(where: str) -> UsageError:
    return UsageError(
        f"{where} is encrypted; give its key with --crypter.method and --crypter.key or "
        "--crypter.key-file"
    )
