"""What a view answers beside its scans."""

from __future__ import annotations

from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from bkctl.errors import CorruptionError
from bkctl.store.database import Database


def make(path: Path) -> Path:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(path), options)
    for number in range(1000):
        db[b"%04d" % number] = b"value" * 20
    db.flush()
    for number in range(400, 500):
        del db[b"%04d" % number]
    db.close()
    return path


@pytest.mark.parametrize(
    ("lower", "upper", "last"),
    [
        (b"", b"\xff", b"0999"),
        (b"0100", b"0200", b"0199"),
        (b"0100", b"0500", b"0399"),
        (b"0400", b"0500", None),
        (b"0300", b"0300\x00", b"0300"),
        (b"1000", b"\xff", None),
    ],
)
def test_the_last_key_of_a_range(
    tmp_path: Path, lower: bytes, upper: bytes, last: bytes | None
) -> None:
    path = make(tmp_path / "db")
    database = Database(path, path)
    try:
        assert database.last_key("default", lower, upper) == last
    finally:
        database.close()


def test_damage_is_no_end_of_a_range(tmp_path: Path) -> None:
    path = make(tmp_path / "db")
    table = max(path.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    for place in range(100, len(content) // 2, 100):
        content[place] ^= 0xFF
    table.write_bytes(content)
    database = Database(path, path)
    try:
        with pytest.raises(CorruptionError, match="db"):
            database.last_key("default", b"0100", b"0200")
    finally:
        database.close()
