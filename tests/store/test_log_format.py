"""How a log begins, told from bytes that are none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from bkctl.codec.crc32c import masked_crc32c
from bkctl.store.log_format import Beginning, beginning
from tests.store.test_manifest import make_store, manifest_of


def record(kind: int, payload: bytes, number: bytes = b"") -> bytes:
    body = bytes([kind]) + number + payload
    crc = masked_crc32c(body).to_bytes(4, "little")
    return crc + len(payload).to_bytes(2, "little") + body


@pytest.fixture
def log(tmp_path: Path) -> bytes:
    """A write-ahead log of RocksDB's own."""
    db = Rdict(str(tmp_path / "store"), Options(raw_mode=True))
    for i in range(20):
        db[b"key%d" % i] = b"v" * 100
    content = next((tmp_path / "store").glob("*.log")).read_bytes()
    db.close()
    return content


def test_rocksdbs_own_logs_begin_with_a_whole_record(log: bytes, tmp_path: Path) -> None:
    assert beginning(log) is Beginning.WHOLE
    manifest = manifest_of(make_store(tmp_path / "other"))
    assert beginning(manifest.read_bytes()) is Beginning.WHOLE


def test_a_first_record_may_be_cut_anywhere(log: bytes) -> None:
    length = 7 + int.from_bytes(log[4:6], "little")
    assert beginning(b"") is Beginning.EMPTY
    assert beginning(bytes(5000)) is Beginning.EMPTY
    for cut in range(1, length):
        assert beginning(log[:cut]) is Beginning.CUT
    assert beginning(log[:length]) is Beginning.WHOLE


def test_every_kind_of_first_record_is_known() -> None:
    for kind in (1, 2, 9, 10):
        assert beginning(record(kind, bytes(20)) + b"more") is Beginning.WHOLE
    for kind in (5, 6, 11):
        assert beginning(record(kind, bytes(20), b"\7\0\0\0")) is Beginning.WHOLE
    for kind in (3, 4, 7, 8, 12, 200):
        assert beginning(record(kind, bytes(20))) is Beginning.DAMAGED


def test_a_flipped_byte_is_damage_but_where_the_record_may_seem_cut(log: bytes) -> None:
    length = 7 + int.from_bytes(log[4:6], "little")
    rng = random.Random(2)
    for position in range(length):
        flipped = bytearray(log)
        flipped[position] ^= 1 << rng.randrange(8)
        found = beginning(bytes(flipped))
        assert found is Beginning.DAMAGED or (found is Beginning.CUT and position in (4, 5))


def test_bytes_that_are_no_log_are_hardly_ever_taken_for_one() -> None:
    rng = random.Random(3)
    taken = [beginning(rng.randbytes(9000)) for _ in range(3000)]
    assert Beginning.WHOLE not in taken
    assert taken.count(Beginning.CUT) < 10
