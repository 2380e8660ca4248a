"""Encryption as br and TiKV have it: a block cipher in counter mode, a random IV for each file.

Counter mode keeps a file's length, and a file can be decrypted from anywhere: block number n of 16
bytes is XORed with AES(key, IV + n), IV and sum being big-endian numbers of 128 bits. It protects
no file against changes: of a backup, the SHA-256 of the stored bytes does that.

Backups take AES only, as br does; a store may have SM4, too, a cipher of the same block size.

Keys are written in hexadecimal, on the command line or in a file, as br takes them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers import CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.ciphers.modes import CTR

from bkctl.errors import UsageError
from bkctl.files.small import UnfitFileError, read_small

PLAINTEXT = "plaintext"
KEY_SIZES = {"aes128-ctr": 16, "aes192-ctr": 24, "aes256-ctr": 32}
METHODS = (PLAINTEXT, *KEY_SIZES)
SM4_CTR = "sm4-ctr"
ALL_KEY_SIZES = {**KEY_SIZES, SM4_CTR: 16}
IV_SIZE = 16
_BLOCK_SIZE = 16
_MAX_KEY_FILE = 4096
_CHECKED = b"bkctl backup key"


@dataclass(frozen=True, slots=True)
class Cipher:
    """A method of `ALL_KEY_SIZES` and its key, which no representation shows."""

    method: str
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        size = ALL_KEY_SIZES[self.method]
        if len(self.key) != size:
            raise UsageError(
                f"{self.method} takes a key of {size} bytes ({2 * size} hexadecimal digits), "
                f"not of {len(self.key)}"
            )

    def at(self, iv: bytes, offset: int) -> CipherContext:
        """What encrypts, or decrypts, a file's bytes from `offset` on.

        Raises ValueError for a bad IV, UsageError where this machine cannot do the method.
        """
        if len(iv) != IV_SIZE:
            raise ValueError(f"an IV of {len(iv)} bytes")
        block, inside = divmod(offset, _BLOCK_SIZE)
        counter = (int.from_bytes(iv, "big") + block) % (1 << 8 * IV_SIZE)
        algorithm = SM4(self.key) if self.method == SM4_CTR else AES(self.key)
        try:
            context = BlockCipher(algorithm, CTR(counter.to_bytes(IV_SIZE, "big"))).encryptor()
        except UnsupportedAlgorithm:
            raise UsageError(
                f"{self.method}: the OpenSSL of this machine's cryptography library cannot do it; "
                "run bkctl where it can"
            ) from None
        context.update(bytes(inside))
        return context

    def begin_file(self) -> tuple[bytes, CipherContext]:
        """A random IV for a new file, and what encrypts that from its beginning on."""
        iv = new_iv()
        return iv, self.at(iv, 0)

    @property
    def check_value(self) -> str:
        """Tells whether another key is the same one, and nothing else about it."""
        return hmac.new(self.key, _CHECKED, hashlib.sha256).hexdigest()[:16]


def new_iv() -> bytes:
    """A random IV."""
    return os.urandom(IV_SIZE)


def random_cipher() -> Cipher:
    """A cipher with a key that nobody knows, for what only its maker reads."""
    return Cipher("aes256-ctr", os.urandom(KEY_SIZES["aes256-ctr"]))


def make_cipher(
    method: str | None,
    key: str | None,
    key_file: Path | None,
    warn: Callable[[str], None] = lambda message: None,
) -> Cipher | None:
    """The cipher of the three options of br, None for no encryption.

    `warn` is told of a key file that is not safe. Raises UsageError, which never shows a key.
    """
    if method is None and key is None and key_file is None:
        return None
    if method is None:
        raise UsageError("a key is given without --crypter.method; give it too, like aes256-ctr")
    if method not in METHODS:
        raise UsageError(f"--crypter.method {method!a}: choose one of {', '.join(METHODS)}")
    if method == PLAINTEXT:
        if key is not None or key_file is not None:
            raise UsageError("--crypter.method plaintext takes no key; leave the key out")
        return None
    if (key is None) == (key_file is None):
        raise UsageError(f"{method} takes one key; give either --crypter.key or --crypter.key-file")
    where = "--crypter.key" if key_file is None else f"--crypter.key-file {key_file}"
    text = key if key is not None else _read_key_file(key_file or Path(), warn)
    try:
        decoded = bytes.fromhex(text.strip())
    except ValueError:
        raise UsageError(f"{where}: the key is not hexadecimal") from None
    return Cipher(method, decoded)


def _read_key_file(path: Path, warn: Callable[[str], None]) -> str:
    try:
        content = read_small(path, _MAX_KEY_FILE)
        mode = path.stat().st_mode
    except UnfitFileError as e:
        raise UsageError(f"--crypter.key-file {path}: holds no key ({e.strerror})") from None
    except OSError as e:
        raise UsageError(f"--crypter.key-file {path}: cannot be read ({e.strerror})") from None
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise UsageError(f"--crypter.key-file {path}: holds no key in hexadecimal")
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        warn(f"--crypter.key-file {path}: others may read or change it; chmod o= takes that away")
    return text
