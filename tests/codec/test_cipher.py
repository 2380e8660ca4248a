"""AES in counter mode: the published vectors, and reading from anywhere."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bkctl.codec.cipher import IV_SIZE, KEY_SIZES, Cipher, make_cipher
from bkctl.errors import UsageError

# NIST SP 800-38A, F.5: CTR-AES128, -192 and -256, the first two blocks.
PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
VECTORS = {
    "aes128-ctr": (
        "2b7e151628aed2a6abf7158809cf4f3c",
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
    ),
    "aes192-ctr": (
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        "1abc932417521ca24f2b0459fe7e6e0b090339ec0aa6faefd5ccc2c6f4ce8e94",
    ),
    "aes256-ctr": (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
    ),
}


@pytest.mark.parametrize("method", KEY_SIZES)
def test_published_vectors(method: str) -> None:
    key, encrypted = VECTORS[method]
    cipher = Cipher(method, bytes.fromhex(key))
    assert cipher.at(COUNTER, 0).update(PLAIN).hex() == encrypted
    assert cipher.at(COUNTER, 0).update(bytes.fromhex(encrypted)) == PLAIN


@pytest.mark.parametrize("iv", [b"\xff" * IV_SIZE, bytes(IV_SIZE), COUNTER])
def test_a_file_can_be_read_from_anywhere(iv: bytes) -> None:
    cipher, plain = Cipher("aes256-ctr", bytes(32)), os.urandom(5000)
    stored = cipher.at(iv, 0).update(plain)
    for offset in [0, 1, 15, 16, 17, 4999, *random.sample(range(5000), 20)]:
        assert cipher.at(iv, offset).update(stored[offset:]) == plain[offset:]


def test_a_key_is_shown_nowhere() -> None:
    cipher = Cipher("aes128-ctr", b"0123456789abcdef")
    assert "0123" not in repr(cipher)
    assert cipher.check_value != Cipher("aes128-ctr", bytes(16)).check_value
    assert len(cipher.check_value) == 16


def test_options_make_a_cipher(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("00" * 16 + "\n")
    assert make_cipher(None, None, None) is None
    assert make_cipher("plaintext", None, None) is None
    wanted = Cipher("aes128-ctr", bytes(16))
    assert make_cipher("aes128-ctr", "00" * 16, None) == wanted
    assert make_cipher("aes128-ctr", None, key_file) == wanted


@pytest.mark.parametrize(
    ("method", "key", "content", "message"),
    [
        (None, "00", None, "without --crypter.method"),
        ("des", "00", None, "choose one of plaintext, aes128-ctr"),
        ("plaintext", "00", None, "takes no key"),
        ("aes128-ctr", None, None, "give either --crypter.key or"),
        ("aes128-ctr", "00" * 16, b"00", "give either --crypter.key or"),
        ("aes128-ctr", "secret!", None, "not hexadecimal"),
        ("aes128-ctr", "00" * 15, None, "takes a key of 16 bytes .* not of 15"),
        ("aes256-ctr", "00" * 16, None, "takes a key of 32 bytes"),
        ("aes128-ctr", None, b"secret!", "not hexadecimal"),
        ("aes128-ctr", None, b"", "holds no key"),
        ("aes128-ctr", None, b"\xff\xfe", "holds no key"),
        ("aes128-ctr", None, b"0" * 5000, "holds no key"),
    ],
)
def test_bad_keys_are_refused_and_not_shown(
    method: str | None, key: str | None, content: bytes | None, message: str, tmp_path: Path
) -> None:
    key_file = None
    if content is not None:
        key_file = tmp_path / "key"
        key_file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as told:
        make_cipher(method, key, key_file)
    assert "secret" not in str(told.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        make_cipher("aes128-ctr", None, tmp_path / "none")
