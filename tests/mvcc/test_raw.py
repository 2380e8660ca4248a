"""Raw pairs that expire: those that have are left out, and the expiry is not counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.codec.crc64 import crc64
from bkctl.codec.strings import ByteStrings
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.raw import RawScanner, account_raw
from bkctl.store.database import Database
from bkctl.store.ident import API_V1TTL
from examples.tikv_store import TikvStore

NOW = 1_800_000_000


def expiring(value: bytes, second: int) -> bytes:
    return value + second.to_bytes(8, "big")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with TikvStore(tmp_path / "store") as made:
        made.put_raw(b"a", expiring(b"for ever", 0))
        made.put_raw(b"b", expiring(b"gone", NOW - 1))
        made.put_raw(b"c", expiring(b"goes now", NOW))
        made.put_raw(b"d", expiring(b"stays", NOW + 1))
    return tmp_path / "store"


def test_what_has_expired_is_left_out(store: Path) -> None:
    database = Database(store, store)
    scanner = RawScanner(database, "default", b"z", b"{", NOW)
    batch = scanner.scan_batch()
    assert batch is not None
    assert batch[0].tolist() == [b"za", b"zd"]
    assert batch[1].tolist() == [expiring(b"for ever", 0), expiring(b"stays", NOW + 1)]
    assert scanner.scan_batch() is None
    database.close()


def test_the_expiry_is_not_counted() -> None:
    counted = Accounting()
    keys, values = ByteStrings.of([b"za"]), ByteStrings.of([expiring(b"value", NOW)])
    account_raw(counted, keys, values, API_V1TTL)
    assert (counted.total_kvs, counted.total_bytes) == (1, 6)
    assert counted.crc64xor == crc64(b"avalue")


def test_a_value_without_room_for_its_expiry_is_damage() -> None:
    with pytest.raises(CorruptionError, match="7A61 is too short"):
        account_raw(Accounting(), ByteStrings.of([b"za"]), ByteStrings.of([b"1234567"]), API_V1TTL)
