"""Raw pairs that expire: those that have are left out, and the expiry is not counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.codec.crc64 import crc64
from bkctl.codec.memcomparable import encode
from bkctl.codec.strings import ByteStrings
from bkctl.codec.tso import compose
from bkctl.errors import CorruptionError
from bkctl.mvcc.accounting import Accounting
from bkctl.mvcc.keys import MAX_TS
from bkctl.mvcc.raw import RawLayout, RawScanner, account_raw
from bkctl.store.database import Database
from bkctl.store.ident import API_V1TTL, API_V2
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
    layout = RawLayout(API_V1TTL, 0, compose(NOW * 1000))
    scanner = RawScanner(database, "default", b"z", b"{", layout)
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


def test_the_newest_version_at_the_end_counts_across_batches(tmp_path: Path) -> None:
    """Versions of a key that lie in several batches, of which one has been chosen before."""
    with TikvStore(tmp_path / "store", api_version=API_V2) as made, made.batched():
        for ts in range(1, 20_000):
            made.put_raw(versioned_raw(b"r000a", ts), b"%d" % ts + b"\0")
        made.put_raw(versioned_raw(b"r000b", 5), b"b\0")
    database = Database(tmp_path / "store", tmp_path / "store")
    for end_ts, expected in ((MAX_TS, b"19999"), (7, b"7"), (1, b"1")):
        scanner = RawScanner(database, "default", b"z", b"{", RawLayout(API_V2, 0, end_ts))
        found = []
        while (batch := scanner.scan_batch()) is not None:
            found += batch[1].tolist()
        assert found == [expected + b"\0", *([b"b\0"] if end_ts >= 5 else [])]
    database.close()


@pytest.mark.parametrize("value", [b"", b"v\x04", b"1234567\x01"])
def test_values_that_cannot_be_of_v2_are_damage(value: bytes) -> None:
    with pytest.raises(CorruptionError, match="API V2"):
        account_raw(
            Accounting(),
            ByteStrings.of([b"z" + versioned_raw(b"ra", 1)]),
            ByteStrings.of([value]),
            API_V2,
        )


def versioned_raw(raw_key: bytes, ts: int) -> bytes:
    """A key of API V2 as the store has it, without its z."""
    return encode(raw_key) + (MAX_TS ^ ts).to_bytes(8, "big")
