"""Raw pairs of API V2: full and incremental backups of random histories, restored and compared."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from rocksdict import AccessType, Options, Rdict

from bkctl.archive.report import Report
from bkctl.codec.memcomparable import decode, encode
from bkctl.codec.tso import compose
from bkctl.errors import UsageError
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.storage.url import parse_storage
from bkctl.store.ident import API_V2
from bkctl.store.source import SourceOptions
from bkctl.verify.level import Level
from bkctl.verify.verify import Against, Verifier
from examples.tikv_store import TikvStore
from tests.backup.helpers import Quiet, backup, whole
from tests.model import crc64

BEGIN = 1_800_000_000
MAX_TS = (1 << 64) - 1


class RawHistory:
    """Puts and deletes with times to live; what they come to, worked out key by key."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.second = BEGIN
        self.versions: dict[bytes, list[tuple[int, bytes, int, bool]]] = {}

    def play(self, path: Path, steps: int) -> None:
        self.second += 1  # nothing is written at or before a backup's end once it is taken
        with TikvStore(path, api_version=API_V2) as store:
            for _ in range(steps):
                self.second += self._rng.randint(0, 3)
                self._step(store)

    def _step(self, store: TikvStore) -> None:
        rng = self._rng
        key = b"r\x00\x00" + bytes([rng.randint(0, 2)]) + rng.choice((b"", b"a", b"abcdefgh", b"z"))
        ts = compose(self.second * 1000, len(self.versions.get(key, ())))
        deleted = rng.random() < 0.25
        expiry = self.second + rng.randint(1, 20) if rng.random() < 0.3 and not deleted else 0
        value = b"" if deleted else rng.randbytes(rng.choice((0, 3, 400)))
        stored = value + (expiry.to_bytes(8, "big") if expiry else b"")
        stored += bytes([(1 if expiry else 0) | (2 if deleted else 0)])
        store.put_raw(encode(key) + (MAX_TS ^ ts).to_bytes(8, "big"), stored)
        self.versions.setdefault(key, []).append((ts, value, expiry, deleted))

    def as_of(self, end_ts: int) -> dict[bytes, bytes]:
        found = {}
        for key, versions in self.versions.items():
            seen = [version for version in versions if version[0] <= end_ts]
            if seen:
                _, value, expiry, deleted = seen[-1]
                if not deleted and not (expiry and expiry <= (end_ts >> 18) // 1000):
                    found[key] = value
        return found

    @property
    def now(self) -> int:
        return compose(self.second * 1000 + 999)


def take(path: Path, repository: Path, **options: Any) -> Report:
    return backup(path, repository, load_regions=whole, is_raw=True, **options)


def held(path: Path, end_ts: int) -> dict[bytes, bytes]:
    """What a restored directory shows, read with RocksDB alone."""
    access = AccessType.read_only(False)
    db = Rdict(str(path), Options(raw_mode=True), access_type=access)
    found: dict[bytes, bytes] = {}
    seen = set()
    for data_key, stored in db.items():
        assert isinstance(data_key, bytes)
        assert isinstance(stored, bytes)
        key = decode(data_key[1:-8])
        if key in seen or key in found:
            continue
        seen.add(key)
        value, flags = stored[:-1], stored[-1]
        expiry = int.from_bytes(value[-8:], "big") if flags & 1 else 0
        value = value[:-8] if flags & 1 else value
        if not flags & 2 and not (expiry and expiry <= (end_ts >> 18) // 1000):
            found[key] = value
    db.close()
    return found


@pytest.mark.parametrize("seed", range(8))
def test_histories_come_back_as_of_each_backup(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    history = RawHistory(rng)
    store, repository = tmp_path / "store", tmp_path / "repo"
    for number in range(4):
        history.play(store, rng.randint(1, 40))
        report = take(
            store, repository, incremental=True, end_ts=history.now, name=f"b{number}", jobs=1
        )
        assert report.status == "ok"
        expected = history.as_of(history.now)
        if not number:
            crc = 0
            for key, value in expected.items():
                crc ^= crc64(key + value)
            assert (report.total_kvs, report.crc64xor) == (len(expected), crc)
            assert report.total_bytes == sum(len(k) + len(v) for k, v in expected.items())
        target = tmp_path / f"r{number}"
        restore(RestoreRequest(parse_storage(str(repository)), target, name=f"b{number}"))
        assert held(target, history.now) == expected
    with Verifier(parse_storage(str(repository)), Level.DEEP, 1) as verifier:
        against = Against(SourceOptions(store), whole)
        for number in range(4):
            found = verifier.verify(f"b{number}", Quiet(), against)
            assert found.status == "ok", found


def test_a_window_of_keys_is_one_of_raw_keys(tmp_path: Path) -> None:
    history = RawHistory(random.Random(3))
    history.play(tmp_path / "store", 60)
    start, end = b"r\x00\x00\x01", b"r\x00\x00\x02"
    report = take(
        tmp_path / "store", tmp_path / "repo", end_ts=history.now, start_key=start, end_key=end
    )
    expected = {k: v for k, v in history.as_of(history.now).items() if start <= k < end}
    assert report.total_kvs == len(expected) > 0
    with pytest.raises(UsageError, match="begin with r"):
        take(tmp_path / "store", tmp_path / "repo", end_ts=history.now, start_key=b"t")


def test_raw_pairs_without_timestamps_have_no_increments(tmp_path: Path) -> None:
    with TikvStore(tmp_path / "store") as store:
        store.put_raw(b"a", b"v")
    for options in ({"incremental": True}, {"start_ts": 1}):
        with pytest.raises(UsageError, match="raw pairs of API V1 have no timestamps"):
            take(tmp_path / "store", tmp_path / "repo", end_ts=1 << 60, **options)
