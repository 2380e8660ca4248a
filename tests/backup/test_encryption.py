"""Encrypted backups: exact, readable with their key only, and told apart from damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bkctl.backup.backup import take_backup
from bkctl.codec.cipher import KEY_SIZES, Cipher
from bkctl.errors import UsageError
from bkctl.merge.merge import MergeRequest, merge
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.sst.format import is_magic
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions
from bkctl.verify.level import Level
from bkctl.verify.verify import Against, Verification, Verifier
from examples.tikv_store import TikvStore
from tests.backup.helpers import Quiet, backup, files_of, request, whole
from tests.commands.console import bkctl
from tests.oracles import OracleLine, read_oracle, require_shared

KEYS = {method: Cipher(method, bytes(range(size))) for method, size in KEY_SIZES.items()}
KEY = KEYS["aes256-ctr"]
OTHER = Cipher("aes256-ctr", bytes(32))


def verify(
    repository: Path,
    name: str,
    level: Level,
    cipher: Cipher | None,
    against: Against | None = None,
) -> Verification:
    with Verifier(parse_storage(str(repository)), level, 1, cipher) as verifier:
        return verifier.verify(name, Quiet(), against)


def restored(repository: Path, target: Path, cipher: Cipher | None, **options: Any) -> Any:
    asked = RestoreRequest(parse_storage(str(repository)), target, cipher=cipher, **options)
    return restore(asked)


@pytest.mark.parametrize("method", KEYS)
@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_a_chain_comes_back_exactly(name: str, method: str, tmp_path: Path) -> None:
    store = require_shared() / "stores" / name
    lines = read_oracle(store.parent / f"{name}.oracle")
    first, last = lines[1], lines[3]
    cipher, repository = KEYS[method], tmp_path / "r"
    backup(store, repository, end_ts=first.end_ts, name="full", cipher=cipher)
    backup(store, repository, start_ts=first.end_ts, end_ts=last.end_ts, name="incr", cipher=cipher)
    for made in ("full", "incr"):
        assert all(len(file.cipher_iv) == 16 for file in files_of(repository, made))
        for level in Level:
            assert verify(repository, made, level, cipher).status == "ok"
        # What is stored can be proved by anyone.
        assert verify(repository, made, Level.SHA256, None).status == "ok"
    for path in repository.rglob("*.sst"):
        content = path.read_bytes()
        assert not is_magic(content[-8:])
        assert b"rocksdb" not in content
    for path in filter(Path.is_file, repository.rglob("*")):
        assert cipher.key.hex().encode() not in path.read_bytes().lower()
        assert cipher.key not in path.read_bytes()
    assert not restored(repository, tmp_path / "restored", cipher).findings
    assert_holds(tmp_path / "restored", last, tmp_path)
    against = Against(SourceOptions(store))
    compared = verify(repository, "incr", Level.SIZE, cipher, against)
    assert compared.status == "ok"
    result = merge(
        MergeRequest(parse_storage(str(repository)), name="merged", cipher=cipher), Quiet()
    )
    assert result.report is not None
    assert (result.report.status, result.report.crc64xor) == ("ok", last.crc64xor)
    assert all(file.cipher_iv for file in files_of(repository, "merged"))


def assert_holds(store: Path, line: OracleLine, tmp_path: Path) -> None:
    report = backup(
        store, tmp_path / "again", end_ts=line.end_ts, load_regions=whole, name=f"of-{store.name}"
    )
    assert (report.total_kvs, report.crc64xor) == (line.kvs, line.crc64xor)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with TikvStore(tmp_path / "store") as tikv:
        for number in range(300):
            key = b"key %03d" % number
            tikv.must_prewrite_put(key, b"v" * (number * 2), key, 10)
            tikv.must_commit(key, 10, 20)
    return tikv.path


@pytest.fixture
def repository(store: Path, tmp_path: Path) -> Path:
    backup(store, tmp_path / "r", end_ts=50, name="b", cipher=KEY)
    return tmp_path / "r"


def test_a_part_of_it_comes_back(repository: Path, tmp_path: Path) -> None:
    result = restored(repository, tmp_path / "part", KEY, start_key=b"key 100", end_key=b"key 200")
    assert not result.findings
    assert result.plan.partial == 2
    report = backup(tmp_path / "part", tmp_path / "again", end_ts=50, load_regions=whole)
    assert report.total_kvs == 100


@pytest.mark.parametrize(
    ("cipher", "message"),
    [
        (None, "is encrypted; give its key with --crypter.method"),
        (OTHER, "the key or the method is wrong"),
        (KEYS["aes128-ctr"], "the key or the method is wrong"),
    ],
)
def test_without_its_key_it_is_refused(
    repository: Path, cipher: Cipher | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        restored(repository, tmp_path / "x", cipher)
    assert not (tmp_path / "x").exists()
    with pytest.raises(UsageError, match=message):
        verify(repository, "b", Level.DEEP, cipher)
    with pytest.raises(UsageError, match=message):
        merge(MergeRequest(parse_storage(str(repository)), cipher=cipher), Quiet())


@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_damage_is_told_as_damage(repository: Path, where: float, tmp_path: Path) -> None:
    for path in repository.rglob("*.sst"):
        content = bytearray(path.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        path.write_bytes(content)
    for level in (Level.SHA256, Level.DEEP):
        found = verify(repository, "b", level, KEY)
        assert found.status == "damaged"
        assert len({damage.file for damage in found.damages}) == 2
    result = restored(repository, tmp_path / "x", KEY)
    assert len(result.findings) == 2
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_with_the_same_key_only(store: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"end_ts": 50, "name": "b"}
    cancelled = request(store, tmp_path / "r", cipher=KEY, **options)
    assert take_backup(cancelled, Quiet(), lambda: True).status == "cancelled"
    for cipher in (None, OTHER, KEYS["aes128-ctr"]):
        with pytest.raises(UsageError, match="was begun with"):
            backup(store, tmp_path / "r", resume=True, cipher=cipher, **options)
    assert backup(store, tmp_path / "r", resume=True, cipher=KEY, **options).status == "ok"
    assert verify(tmp_path / "r", "b", Level.DEEP, KEY).status == "ok"


def test_the_command_line_takes_the_key(store: Path, tmp_path: Path) -> None:
    key_file, config = tmp_path / "key", tmp_path / "bkctl.toml"
    key_file.write_text(KEY.key.hex() + "\n")
    config.write_text(f'crypter.method = "aes256-ctr"\ncrypter.key-file = "{key_file}"\n')
    place = ("--storage", tmp_path / "r", "--progress", "none")
    from_file = ("--config", config)
    by_name = ("--crypter.method", "aes256-ctr", "--crypter.key", KEY.key.hex())
    by_env = {"BKCTL_CRYPTER_METHOD": "aes256-ctr", "BKCTL_CRYPTER_KEY": KEY.key.hex()}
    made = bkctl(
        *("backup", "--db", store, "--region-map", "none", "--end-ts", 50, "--name", "b"),
        *(*place, *from_file),
    )
    assert made.code == 0, made.stderr
    assert bkctl("verify", *place, "--level", "deep", *by_name).code == 0
    assert bkctl("verify", *place, "--level", "deep", env=by_env).code == 0
    target = tmp_path / "restored"
    assert bkctl("restore", *place, "--to", target, env=by_env).code == 0
    for options in ((), ("--crypter.method", "aes256-ctr", "--crypter.key", "00" * 32)):
        outcome = bkctl("restore", *place, "--to", tmp_path / "x", *options)
        assert outcome.code == 2
        assert outcome.stderr.count("\n") == 1
        assert "key" in outcome.stderr
    shown = bkctl("show", "b", "--storage", tmp_path / "r")
    assert shown.code == 0
    assert "encrypted" in shown.stdout
    assert bkctl("list", "--storage", tmp_path / "r").code == 0
