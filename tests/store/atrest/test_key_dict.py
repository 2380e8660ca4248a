"""The data keys: had with the right master key only, and shown nowhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError, UsageError
from bkctl.proto import encryptionpb_pb2 as pb
from bkctl.store.atrest.key_dict import KeyDictionary
from bkctl.store.atrest.master_key import MasterKeys
from bkctl.store.tikv_config import read_tikv_config
from tests.store.at_rest import KEY_ID, METHODS, EncryptedStore, header, sealed

CONFIG = """
[storage]
data-dir = "/somewhere"
[security.encryption.master-key]
{current}
[security.encryption.previous-master-key]
{previous}
"""


@pytest.fixture
def store(tmp_path: Path) -> EncryptedStore:
    (tmp_path / "data").mkdir()
    return EncryptedStore(tmp_path / "data")


def keys_of(store: EncryptedStore, given: Path | None) -> KeyDictionary:
    config = read_tikv_config(store.path / "db")
    return KeyDictionary(store.path / "key.dict", MasterKeys(given, config, lambda message: None))


def configure(store: EncryptedStore, current: str, previous: str = 'type = "plaintext"') -> None:
    text = CONFIG.format(current=current, previous=previous)
    (store.path / "last_tikv.toml").write_text(text)


def in_file(path: Path) -> str:
    return f'type = "file"\npath = "{path}"'


def another_key(store: EncryptedStore) -> Path:
    path = store.path.parent / "another.key"
    store.write_key_file(path, bytes(range(32)))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_the_right_key_opens_them(tmp_path: Path, method: str) -> None:
    (tmp_path / "data").mkdir()
    store = EncryptedStore(tmp_path / "data", method)
    cipher = keys_of(store, store.key_file).cipher(KEY_ID, METHODS[method][0], "f")
    assert (cipher.method, cipher.key) == (method, store.data_key)


def test_the_key_is_found_where_tikv_has_it(store: EncryptedStore) -> None:
    configure(store, in_file(store.key_file))
    assert keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f").key == store.data_key


def test_the_previous_key_counts_after_a_change(store: EncryptedStore) -> None:
    configure(store, in_file(another_key(store)), in_file(store.key_file))
    assert keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f").key == store.data_key
    # The one that is given is the only one.
    with pytest.raises(SourceError, match=r"not sealed by the master key in .*another\.key"):
        keys_of(store, another_key(store)).cipher(KEY_ID, pb.AES256_CTR, "f")


def test_no_key_is_needed_where_none_seals(store: EncryptedStore) -> None:
    store.write_key_dict(None)
    assert keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f").key == store.data_key


def test_wrong_and_missing_keys_are_told(store: EncryptedStore) -> None:
    with pytest.raises(SourceError, match=r"key\.dict: .*encrypted at rest.*--master-key FILE$"):
        keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f")
    configure(store, in_file(store.path / "gone.key"))
    with pytest.raises(SourceError, match=r"last_tikv\.toml names .*gone\.key, which is not here"):
        keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f")
    configure(store, in_file(another_key(store)), in_file(another_key(store)))
    with pytest.raises(SourceError, match="not sealed by the master key in"):
        keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f")


def test_a_key_in_a_kms_is_refused_by_name(store: EncryptedStore) -> None:
    store.write_key_dict(store.master_key, kms_vendor=b"AWS", kms_ciphertext_key=b"x" * 40)
    with pytest.raises(SourceError, match=r"a KMS keeps \(AWS\)"):
        keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f")
    configure(store, 'type = "kms"\nvendor = "gcp"\nkey-id = "projects/p/key"\nregion = "r"')
    with pytest.raises(SourceError, match=r"\(gcp, key projects/p/key\)"):
        keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f")


@pytest.mark.parametrize(
    "content",
    [b"", b"security = 3", b"[security]\nencryption = []", b"[security.encryption.master-key]"],
    ids=range(4),
)
def test_a_configuration_that_says_nothing_is_no_obstacle(
    store: EncryptedStore, content: bytes
) -> None:
    (store.path / "last_tikv.toml").write_bytes(content)
    assert keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f").key == store.data_key
    with pytest.raises(SourceError, match="--master-key FILE"):
        keys_of(store, None).cipher(KEY_ID, pb.AES256_CTR, "f")


@pytest.mark.parametrize("content", [b"\xff", b"]" * 9, b"a=" + b"[" * 9999], ids=range(3))
def test_a_configuration_that_is_no_toml_is_told(store: EncryptedStore, content: bytes) -> None:
    (store.path / "last_tikv.toml").write_bytes(content)
    with pytest.raises(SourceError, match=r"last_tikv\.toml: no readable TOML.*--master-key"):
        keys_of(store, store.key_file)


@pytest.mark.parametrize("end", ["\n", "", "\r\n", "  \n\n"])
def test_how_a_key_file_ends_does_not_matter(store: EncryptedStore, end: str) -> None:
    store.key_file.write_text(store.master_key.hex().upper() + end)
    assert keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f").key == store.data_key


@pytest.mark.parametrize(
    "content",
    [b"", b"12" * 31, b"12" * 33, b"1" * 63, b"zz" * 32, b"\xff" * 64, b"1" * 9999],
    ids=range(7),
)
def test_what_is_no_key_file_is_told_without_its_content(
    store: EncryptedStore, content: bytes
) -> None:
    store.key_file.write_bytes(content)
    with pytest.raises(SourceError, match=r"holds no master key: 64 hex|cannot be read") as caught:
        keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f")
    assert not content or content[:8].decode("latin-1") not in str(caught.value)


def test_a_key_file_that_is_not_there_is_told(store: EncryptedStore) -> None:
    with pytest.raises(SourceError, match=r"nowhere: the master key cannot be read \(No such"):
        keys_of(store, store.path / "nowhere").cipher(KEY_ID, pb.AES256_CTR, "f")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o440, 0), (0o604, 1), (0o602, 1)])
def test_a_key_that_others_may_read_draws_a_warning(
    store: EncryptedStore, mode: int, warned: int
) -> None:
    told: list[str] = []
    store.key_file.chmod(mode)
    keys = MasterKeys(store.key_file, read_tikv_config(store.path / "db"), told.append)
    KeyDictionary(store.path / "key.dict", keys).cipher(KEY_ID, pb.AES256_CTR, "f")
    assert len(told) == warned
    assert all("others may read or change" in line and "chmod o=" in line for line in told)


def test_unknown_methods_and_keys_are_refused_by_name(store: EncryptedStore) -> None:
    keys = keys_of(store, store.key_file)
    with pytest.raises(SourceError, match=r"f\.sst: encrypted by method 9"):
        keys.cipher(KEY_ID, 9, "f.sst")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="method 0"):
        keys.cipher(KEY_ID, pb.UNKNOWN, "f.sst")
    with pytest.raises(CorruptionError, match=r"f\.sst: encrypted with a key that .*key\.dict"):
        keys.cipher(KEY_ID + 1, pb.AES256_CTR, "f.sst")
    with pytest.raises(CorruptionError, match=r"by aes128-ctr, but its key .* has 32 bytes"):
        keys.cipher(KEY_ID, pb.AES128_CTR, "f.sst")
    (store.path / "key.dict").write_bytes(sealed(b"", store.master_key, method=b"chacha"))
    with pytest.raises(SourceError, match="method 'chacha'"):
        keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f.sst")


def test_a_key_that_came_later_is_found(store: EncryptedStore) -> None:
    keys = keys_of(store, store.key_file)
    keys.cipher(KEY_ID, pb.AES256_CTR, "f")
    both = pb.KeyDictionary()
    both.keys[KEY_ID].key = store.data_key
    both.keys[KEY_ID + 1].key = bytes(32)
    (store.path / "key.dict").write_bytes(sealed(both.SerializeToString(), store.master_key))
    assert keys.cipher(KEY_ID + 1, pb.AES256_CTR, "f").key == bytes(32)


def test_a_cipher_that_this_machine_cannot_do_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm

    from bkctl.codec import cipher as module

    def unable(*args: object) -> None:
        raise UnsupportedAlgorithm("no")

    cipher = module.Cipher("sm4-ctr", bytes(16))
    monkeypatch.setattr(module, "BlockCipher", unable)
    with pytest.raises(UsageError, match="sm4-ctr: the OpenSSL of this machine"):
        cipher.at(bytes(16), 0)


def test_no_flipped_or_cut_byte_gives_another_key(store: EncryptedStore) -> None:
    path = store.path / "key.dict"
    whole = path.read_bytes()
    rng = random.Random(3)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        with_crc = header(bytes(flipped[16:]), 1) + flipped[16:]
        for content in (bytes(flipped), whole[:position], with_crc):
            path.write_bytes(content)
            try:
                cipher = keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f")
            except (CorruptionError, SourceError) as e:
                told = str(e)
            else:
                # Bytes that are nobody's, or whose content nobody asks for.
                told = ""
                assert cipher.key == store.data_key
            assert store.master_key.hex() not in told


def test_keys_are_in_no_representation(store: EncryptedStore) -> None:
    from bkctl.store.atrest.decrypted import FileKey
    from bkctl.store.atrest.master_key import read_master_key

    cipher = keys_of(store, store.key_file).cipher(KEY_ID, pb.AES256_CTR, "f")
    master = read_master_key(store.key_file, lambda message: None)
    shown = repr(FileKey(cipher, bytes(16))) + repr(master) + str(master)
    for key in (store.data_key, store.master_key):
        assert key.hex() not in shown.lower()
        assert repr(key)[2:-1] not in shown
