"""The envelope of TiKV's dictionaries: a header with a checksum, and content that may be sealed.

    file      header (16) | content | log records (file.dict of version 2 only)
    header    version 1 or 2 (1) | reserved (3) | crc32 of the content (4, BE) | its size (8, BE)

    sealed    EncryptedContent (bkctl/proto/encryptionpb.proto), by its metadata:
              "method" is "plaintext", and the content is what it is
              "method" is "aes256-gcm", "iv" 12 bytes, "aes_gcm_tag" 16 bytes; sealed by a master
              key, which "kms_vendor" and "kms_ciphertext_key" tell to be one that a KMS keeps

Source: TiKV's components/encryption, encrypted_file/header.rs, master_key/{mem,metadata,kms}.rs.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import read_small
from bkctl.proto import encryptionpb_pb2
from bkctl.proto.strict import parse
from bkctl.store.atrest.master_key import MasterKey, MasterKeys

HEADER_SIZE = 16
PLAIN_VERSION, LOG_VERSION = 1, 2
_PLAINTEXT, _AES256_GCM = b"plaintext", b"aes256-gcm"
_NONCE_SIZE, _TAG_SIZE = 12, 16
# About a hundred bytes a data key, of which there is a new one each week.
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a dictionary's first 16 bytes say; `size` is that of the content behind them."""

    version: int
    crc32: int
    size: int

    def check(self, content: bytes, path: Path) -> None:
        """Raise CorruptionError, naming `path`, unless `content` is what the header is for."""
        if len(content) != self.size:
            raise CorruptionError(
                f"{path}: has {len(content)} bytes where its header says {self.size}: it was cut "
                "short, or is damaged"
            )
        if zlib.crc32(content) != self.crc32:
            raise CorruptionError(f"{path}: checksum mismatch: the file is damaged")


def parse_header(data: bytes, path: Path) -> Header:
    """Read a header at the beginning of `data`; raises CorruptionError, naming `path`."""
    if len(data) < HEADER_SIZE:
        raise CorruptionError(f"{path}: {len(data)} bytes are too few for its header")
    if data[0] not in (PLAIN_VERSION, LOG_VERSION):
        raise CorruptionError(f"{path}: unknown version {data[0]}: damaged, or a newer TiKV's")
    crc32, size = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:HEADER_SIZE], "big")
    return Header(data[0], crc32, size)


def read_sealed(path: Path, master_keys: MasterKeys) -> bytes:
    """What the sealed file at `path` holds; needs no key where it is sealed with none.

    Raises SourceError, naming it, for a file that the keys at hand do not open (a wrong key, none,
    one kept by a KMS), CorruptionError for one that is damaged.
    """
    try:
        data = read_small(path, _MAX_BYTES)
    except FileNotFoundError:
        raise CorruptionError(
            f"{path}: missing, though the store has encrypted files; without it they are lost"
        ) from None
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({e.strerror})") from None
    header = parse_header(data, path)
    content = data[HEADER_SIZE:]
    header.check(content, path)
    return unseal(content, path, master_keys)


def unseal(content: bytes, path: Path, master_keys: MasterKeys) -> bytes:
    """What an EncryptedContent holds; see `read_sealed`."""
    try:
        sealed = parse(encryptionpb_pb2.EncryptedContent, content)
    except CorruptionError as e:
        raise CorruptionError(f"{path}: {e}") from None
    metadata = sealed.metadata
    method = metadata.get("method")
    if method == _PLAINTEXT:
        return sealed.content
    if method != _AES256_GCM:
        shown = "none" if method is None else ascii(method[:40].decode("utf-8", "replace"))
        raise SourceError(f"{path}: sealed by the method {shown}, which bkctl does not know")
    if "kms_vendor" in metadata or "kms_ciphertext_key" in metadata:
        vendor = metadata.get("kms_vendor", b"").decode("utf-8", "replace")
        raise SourceError(
            f"{path}: sealed by a master key that a KMS keeps ({master_keys.kms_name(vendor)}), "
            "which bkctl does not ask for keys; back the store up through the cluster, or have "
            "TiKV seal it by a key in a file"
        )
    nonce, tag = metadata.get("iv", b""), metadata.get("aes_gcm_tag", b"")
    if len(nonce) != _NONCE_SIZE or len(tag) != _TAG_SIZE:
        raise CorruptionError(f"{path}: its IV or tag is missing, or not of the right size")
    return _decrypt(nonce, sealed.content + tag, path, master_keys)


def _decrypt(nonce: bytes, sealed: bytes, path: Path, master_keys: MasterKeys) -> bytes:
    tried: Sequence[MasterKey] = master_keys.load(path)
    for key in tried:
        try:
            return AESGCM(key.key).decrypt(nonce, sealed, None)
        except InvalidTag:
            continue
    names = " nor ".join(str(key.path) for key in tried)
    raise SourceError(
        f"{path}: not sealed by the master key in {names}: the key is another store's, or an "
        "older one; give the right one with --master-key"
    )
