"""Encrypts plain stores as TiKV would have them at rest, with no code of bkctl's but its protobuf.

data directory/
  file.dict key.dict   how, and with which keys
  db/                  the RocksDB's files, each encrypted with an IV of its own; CURRENT is not
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.ciphers.modes import CTR

from bkctl.proto import encryptionpb_pb2 as pb

SEEN_AT = "/var/lib/tikv/first/tikv1"
METHODS: dict[str, tuple[Any, int]] = {
    "aes128-ctr": (pb.AES128_CTR, 16),
    "aes192-ctr": (pb.AES192_CTR, 24),
    "aes256-ctr": (pb.AES256_CTR, 32),
    "sm4-ctr": (pb.SM4_CTR, 16),
}
KEY_ID = 7
INSERT, REMOVE = 1, 2


def crypt(data: bytes, method: str, key: bytes, iv: bytes) -> bytes:
    """Encrypt, or decrypt, a whole file."""
    algorithm = SM4(key) if method == "sm4-ctr" else AES(key)
    return Cipher(algorithm, CTR(iv)).encryptor().update(data)


def header(content: bytes, version: int) -> bytes:
    """A dictionary's header."""
    crc = zlib.crc32(content)
    return bytes([version, 0, 0, 0]) + crc.to_bytes(4, "big") + len(content).to_bytes(8, "big")


def record(kind: int, name: str, info: pb.FileInfo | None = None) -> bytes:
    """A record of the log form of a file dictionary."""
    told = b"" if info is None else info.SerializeToString()
    body = name.encode() + told
    lengths = len(name.encode()).to_bytes(2, "big") + len(told).to_bytes(2, "big")
    return zlib.crc32(body).to_bytes(4, "big") + lengths + bytes([kind]) + body


def sealed(content: bytes, master_key: bytes | None, **metadata: bytes) -> bytes:
    """A file that is sealed by a master key; by none if it is None."""
    message = pb.EncryptedContent()
    if master_key is None:
        message.metadata["method"] = b"plaintext"
        message.content = content
    else:
        nonce = os.urandom(12)
        both = AESGCM(master_key).encrypt(nonce, content, None)
        message.content = both[:-16]
        message.metadata["method"] = b"aes256-gcm"
        message.metadata["iv"] = nonce
        message.metadata["aes_gcm_tag"] = both[-16:]
    for name, value in metadata.items():
        message.metadata[name] = value
    encoded = message.SerializeToString()
    return header(encoded, 1) + encoded


def file_dict(files: Mapping[str, pb.FileInfo], version: int, log: bytes = b"") -> bytes:
    """A file dictionary in either form; `log` are the records behind it."""
    message = pb.FileDictionary()
    for name, info in files.items():
        message.files[name].CopyFrom(info)
    content = message.SerializeToString()
    if version == 1:
        return sealed(content, None)
    return header(content, 2) + content + log


@dataclass
class EncryptedStore:
    """A store at `path` that TiKV saw at `seen_at`; `key_file` holds its master key."""

    path: Path
    method: str = "aes256-ctr"
    version: int = 2
    seen_at: str = SEEN_AT
    seed: int = 1
    infos: dict[str, pb.FileInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.random_bytes: Callable[[int], bytes] = rng.randbytes
        self.master_key = rng.randbytes(32)
        self.key_id = KEY_ID
        self.keys = {KEY_ID: rng.randbytes(METHODS[self.method][1])}
        self.key_file = self.path.parent / f"{self.path.name}.master.key"
        self.write_key_file(self.key_file, self.master_key)
        self.write_key_dict(self.master_key)

    @property
    def data_key(self) -> bytes:
        """The newest data key."""
        return self.keys[self.key_id]

    def rotate(self) -> None:
        """Have a new data key for files that are encrypted from here on."""
        self.key_id += 1
        self.keys[self.key_id] = self.random_bytes(METHODS[self.method][1])
        self.write_key_dict(self.master_key)

    @staticmethod
    def write_key_file(path: Path, key: bytes) -> None:
        """Write a master key as TiKV takes it."""
        path.touch(0o600)
        path.write_text(key.hex() + "\n")

    def write_key_dict(self, master_key: bytes | None, **metadata: bytes) -> None:
        """Write `key.dict`."""
        keys = pb.KeyDictionary(current_key_id=self.key_id)
        for key_id, key in self.keys.items():
            keys.keys[key_id].key = key
            keys.keys[key_id].method = METHODS[self.method][0]
        (self.path / "key.dict").write_bytes(
            sealed(keys.SerializeToString(), master_key, **metadata)
        )

    def write_file_dict(self, log: bytes = b"") -> None:
        """Write `file.dict`; of the log form, half of the files are in records."""
        names = sorted(self.infos)
        first = names if self.version == 1 else names[: len(names) // 2]
        rest = b"".join(record(INSERT, n, self.infos[n]) for n in names if n not in first)
        base = {name: self.infos[name] for name in first}
        (self.path / "file.dict").write_bytes(file_dict(base, self.version, rest + log))

    def encrypt(self, relative: str) -> None:
        """Encrypt a file where it lies, and note it."""
        info = self.note(relative)
        path = self.path / relative
        path.write_bytes(crypt(path.read_bytes(), self.method, self.data_key, info.iv))

    def note(self, relative: str) -> pb.FileInfo:
        """Note a file as one that is encrypted."""
        info = pb.FileInfo(
            key_id=self.key_id, iv=self.random_bytes(16), method=METHODS[self.method][0]
        )
        self.infos[f"{self.seen_at}/{relative}"] = info
        return info

    def plain(self, relative: str) -> bytes:
        """What an encrypted file holds."""
        info = self.infos[f"{self.seen_at}/{relative}"]
        content = (self.path / relative).read_bytes()
        return crypt(content, self.method, self.keys[info.key_id], info.iv)


def encrypt_store(
    data_dir: Path, *, left_plain: Callable[[str], bool] = lambda name: False, **options: Any
) -> EncryptedStore:
    """Encrypt the store in a data directory's `db`, but for the files that are left plain."""
    store = EncryptedStore(data_dir, **options)
    for path in sorted((data_dir / "db").iterdir()):
        needed = path.name.startswith(("MANIFEST-", "OPTIONS-", "IDENTITY"))
        if (needed or path.suffix in (".sst", ".log")) and not left_plain(path.name):
            store.encrypt(f"db/{path.name}")
    store.write_file_dict()
    return store
