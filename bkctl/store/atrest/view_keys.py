"""What the files of a view are encrypted with, handed to its workers in memory.

    length of what follows (8, LE) | KeyDictionary | FileDictionary, by names in the view's folder

Both are as TiKV has them (bkctl/proto/encryptionpb.proto).
"""

from __future__ import annotations

from collections.abc import Mapping

from bkctl.codec.cipher import Cipher
from bkctl.errors import CorruptionError
from bkctl.proto import encryptionpb_pb2
from bkctl.proto.strict import parse
from bkctl.store.atrest.decrypted import FileKey
from bkctl.store.atrest.key_dict import METHODS

_LENGTH_SIZE = 8


def encode_keys(keys: Mapping[str, FileKey]) -> bytes:
    """The keys of files by name as bytes."""
    numbers: dict[bytes, int] = {}
    methods = {word: method for method, word in METHODS.items()}
    key_dict = encryptionpb_pb2.KeyDictionary()
    file_dict = encryptionpb_pb2.FileDictionary()
    for name, key in keys.items():
        number = numbers.setdefault(key.cipher.key, len(numbers) + 1)
        key_dict.keys[number].key = key.cipher.key
        info = file_dict.files[name]
        info.key_id, info.iv = number, key.iv
        info.method = methods[key.cipher.method]
    encoded = key_dict.SerializeToString()
    return len(encoded).to_bytes(_LENGTH_SIZE, "little") + encoded + file_dict.SerializeToString()


def decode_keys(content: bytes) -> dict[str, FileKey]:
    """The opposite of `encode_keys`."""
    behind = _LENGTH_SIZE + int.from_bytes(content[:_LENGTH_SIZE], "little")
    if len(content) < behind:
        raise CorruptionError("the keys of the view are cut short")
    key_dict = parse(encryptionpb_pb2.KeyDictionary, content[_LENGTH_SIZE:behind])
    file_dict = parse(encryptionpb_pb2.FileDictionary, content[behind:])
    ciphers: dict[tuple[int, int], Cipher] = {}
    keys = {}
    for name, info in file_dict.files.items():
        of_all = info.key_id, info.method
        if of_all not in ciphers:
            ciphers[of_all] = Cipher(METHODS[info.method], key_dict.keys[info.key_id].key)
        keys[name] = FileKey(ciphers[of_all], info.iv)
    return keys
