"""The two dictionaries of a store that is, or was, encrypted at rest, and its files by them.

data directory/
  file.dict       how each file is encrypted   (`file_dict`)
  key.dict        the data keys, sealed        (`key_dict`, `master_key`)
  last_tikv.toml  where the master key is
  db/ raft-engine/   the files
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import read_small
from bkctl.proto import encryptionpb_pb2
from bkctl.sst.source import FileReader
from bkctl.store.atrest.decrypted import FileKey, open_file
from bkctl.store.atrest.file_dict import FILE_DICT, FileDictionary
from bkctl.store.atrest.key_dict import KEY_DICT, KeyDictionary
from bkctl.store.atrest.master_key import MasterKeys, Warn
from bkctl.store.atrest.paths import PathFinder
from bkctl.store.tikv_config import read_tikv_config

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class AtRestPlace:
    """Where the dictionaries are, the RocksDB, and the file of the master key if one was given."""

    folder: Path
    db_dir: Path
    master_key: Path | None


class AtRest:
    """Which files of a store are encrypted, and with what; `folder` holds the dictionaries."""

    def __init__(self, folder: Path, db_dir: Path, master_key: Path | None, warn: Warn) -> None:
        """Read `file.dict`; `master_key` is the file of the key, None for the one TiKV names.

        `warn` is told of a key file that is not safe. Raises CorruptionError, SourceError.
        """
        self.place = AtRestPlace(folder, db_dir, master_key)
        config = read_tikv_config(db_dir)
        keys = MasterKeys(master_key, config, warn)
        self._files = FileDictionary(folder / FILE_DICT, keys)
        self._keys = KeyDictionary(folder / KEY_DICT, keys)
        self._finder = PathFinder(folder, db_dir, "" if config is None else config.data_dir)
        self._files.refresh()
        self.encrypts = any(True for _ in self._files.encrypted_names())

    def close(self) -> None:
        """Let the dictionary go; may be called twice."""
        self._files.close()

    @property
    def path(self) -> Path:
        """The dictionary of files, for messages."""
        return self._files.path

    def refresh(self) -> None:
        """See what a running TiKV has changed; raises CorruptionError, SourceError."""
        self._files.refresh()

    def key_of(self, path: Path) -> FileKey | None:
        """What the file was encrypted with at the last `refresh`; None where it is plain.

        Raises SourceError for a method that is not known, and for what opens no dictionary of
        keys (a wrong master key, none, one in a KMS), CorruptionError.
        """
        info = self._info(path)
        if info is None or info.method == encryptionpb_pb2.PLAINTEXT:
            return None
        cipher = self._keys.cipher(info.key_id, info.method, str(path))
        try:
            return FileKey(cipher, info.iv)
        except CorruptionError as e:
            raise CorruptionError(f"{self.path}: entry of {path}: {e}") from None

    def open(self, path: Path) -> FileReader:
        """Open any file of the store to read its plain bytes, be the store running or not.

        Raises StorageError where it cannot be opened, and as `key_of`.
        """
        for _ in range(_ATTEMPTS):
            self.refresh()
            before = self.key_of(path)
            reader = open_file(path, before)
            try:
                self.refresh()
                after = self.key_of(path)
            except BaseException:
                reader.close()
                raise
            # Its entry goes after the file itself, which is open by now.
            if after in (before, None):
                return reader
            reader.close()
        raise SourceError(f"{path}: changed again and again while it was opened; try again")

    def read_small(self, path: Path, limit: int) -> bytes:
        """The plain bytes of a file of at most `limit` bytes.

        Raises OSError as `bkctl.files.small`, and as `key_of`.
        """
        self.refresh()
        key = self.key_of(path)  # an entry comes before its file
        content = read_small(path, limit)
        return content if key is None else key.crypt(content, 0)

    def _info(self, path: Path) -> encryptionpb_pb2.FileInfo | None:
        for name in self._finder.find(path, self._files.names()):
            info = self._files.get(name)
            if info is not None:
                return info
        return None
