"""Reads a store's families with nothing but rocksdict."""

from __future__ import annotations

from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from tests.model import MAX_TS, History

Records = dict[bytes, bytes]


def read_family(path: Path, name: str) -> Records:
    """All records of a column family of a closed store."""
    options = {family: Options(raw_mode=True) for family in Rdict.list_cf(str(path), Options(True))}
    own = options.pop("default")
    db = Rdict(str(path), own, column_families=options, access_type=AccessType.read_only())
    records: Records = {}
    iterator = db.get_column_family(name).iter()
    iterator.seek_to_first()
    while iterator.valid():
        key, value = iterator.key(), iterator.value()
        assert isinstance(key, bytes)
        records[key] = value
        iterator.next()
    iterator.status()
    return records


def raw_key_of(encoded_key: bytes) -> bytes:
    """Undo memcomparable, told apart from any other implementation of it."""
    raw = b""
    for start in range(0, len(encoded_key), 9):
        group, marker = encoded_key[start : start + 8], encoded_key[start + 8]
        raw += group[: 8 - (0xFF - marker)]
    return raw


def split_key(data_key: bytes) -> tuple[bytes, int]:
    """(raw key, timestamp) of a key in `write` or `default`."""
    assert data_key.startswith(b"z")
    return raw_key_of(data_key[1:-8]), MAX_TS - int.from_bytes(data_key[-8:], "big")


def history_of(path: Path) -> History:
    """A history with the versions and long values that a store's records spell out."""
    history = History()
    for data_key, record in read_family(path, "write").items():
        history.write_record(*split_key(data_key), record)
    for data_key, value in read_family(path, "default").items():
        if data_key.startswith(b"z"):
            history.default_record(*split_key(data_key), value)
    return history
