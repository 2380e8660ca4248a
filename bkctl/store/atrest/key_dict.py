"""Reads `key.dict`: a store's data keys by their numbers, sealed by the master key.

    header (`sealed`, version 1) | EncryptedContent that holds a KeyDictionary

TiKV writes a new key into it before it encrypts any file with it, and never takes one out.
Source: TiKV's components/encryption, manager/mod.rs.
"""

from __future__ import annotations

from pathlib import Path

from bkctl.codec.cipher import ALL_KEY_SIZES, Cipher
from bkctl.errors import CorruptionError, SourceError
from bkctl.proto import encryptionpb_pb2
from bkctl.proto.strict import parse
from bkctl.store.atrest.master_key import MasterKeys
from bkctl.store.atrest.sealed import read_sealed

KEY_DICT = "key.dict"
METHODS = {
    encryptionpb_pb2.AES128_CTR: "aes128-ctr",
    encryptionpb_pb2.AES192_CTR: "aes192-ctr",
    encryptionpb_pb2.AES256_CTR: "aes256-ctr",
    encryptionpb_pb2.SM4_CTR: "sm4-ctr",
}


class KeyDictionary:
    """A store's data keys; nothing is read, nor a master key needed, before the first `cipher`."""

    def __init__(self, path: Path, master_keys: MasterKeys) -> None:
        self._path, self._master_keys = path, master_keys
        self._keys: dict[int, bytes] = {}
        self._ciphers: dict[tuple[int, encryptionpb_pb2.EncryptionMethod], Cipher] = {}

    def cipher(self, key_id: int, method: encryptionpb_pb2.EncryptionMethod, name: str) -> Cipher:
        """The cipher of a file that is encrypted by `method` with the key of that number.

        `name` is the file's in errors. Raises SourceError, CorruptionError.
        """
        cipher = self._ciphers.get((key_id, method))
        if cipher is None:
            cipher = self._ciphers[key_id, method] = self._make(key_id, method, name)
        return cipher

    def _make(self, key_id: int, method: encryptionpb_pb2.EncryptionMethod, name: str) -> Cipher:
        word = METHODS.get(method)
        if word is None:
            raise SourceError(
                f"{name}: encrypted by method {method} of TiKV's, which bkctl does not know"
            )
        if key_id not in self._keys:  # all are there, but for new ones of a running store
            self._keys = self._read()
        key = self._keys.get(key_id)
        if key is None:
            raise CorruptionError(f"{name}: encrypted with a key that {self._path} does not have")
        if len(key) != ALL_KEY_SIZES[word]:
            raise CorruptionError(
                f"{name}: encrypted by {word}, but its key in {self._path} has {len(key)} bytes"
            )
        return Cipher(word, key)

    def _read(self) -> dict[int, bytes]:
        content = read_sealed(self._path, self._master_keys)
        try:
            dictionary = parse(encryptionpb_pb2.KeyDictionary, content)
        except CorruptionError as e:
            raise CorruptionError(f"{self._path}: {e}") from None
        return {key_id: data_key.key for key_id, data_key in dictionary.keys.items()}
