"""The dictionary of files: both forms, as TiKV writes, changes and recovers them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError, SourceError
from bkctl.proto import encryptionpb_pb2 as pb
from bkctl.store.atrest.file_dict import FileDictionary
from bkctl.store.atrest.master_key import MasterKeys
from tests.store.at_rest import INSERT, REMOVE, file_dict, header, record, sealed

IV = bytes(range(16))


def info(key_id: int, method: pb.EncryptionMethod = pb.AES256_CTR) -> pb.FileInfo:
    return pb.FileInfo(key_id=key_id, iv=IV, method=method)


def opened(path: Path) -> FileDictionary:
    dictionary = FileDictionary(path, MasterKeys(None, None, lambda message: None))
    dictionary.refresh()
    return dictionary


def known(dictionary: FileDictionary) -> dict[str, int]:
    found = {}
    for name in dictionary.names():
        told = dictionary.get(name)
        assert told is not None
        found[name] = told.key_id
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.dict"


@pytest.mark.parametrize("version", [1, 2])
def test_both_forms_list_the_files(path: Path, version: int) -> None:
    path.write_bytes(file_dict({"/a/1": info(1), "/a/2": info(2, pb.PLAINTEXT)}, version))
    dictionary = opened(path)
    assert known(dictionary) == {"/a/1": 1, "/a/2": 2}
    assert list(dictionary.encrypted_names()) == ["/a/1"]
    assert dictionary.get("/a/1") == info(1)
    assert dictionary.get("/a/3") is None


def test_records_count_in_their_order(path: Path) -> None:
    log = [
        record(INSERT, "/a/2", info(2)),
        record(REMOVE, "/a/1"),
        record(INSERT, "/a/2", info(3)),
        record(INSERT, "/a/1", info(4)),
    ]
    path.write_bytes(file_dict({"/a/1": info(1)}, 2, b"".join(log)))
    assert known(opened(path)) == {"/a/1": 4, "/a/2": 3}


def test_a_torn_tail_drops_the_last_record_and_no_other(path: Path) -> None:
    log = [record(INSERT, f"/a/{number}", info(number)) for number in range(1, 6)]
    whole = file_dict({}, 2, b"".join(log))
    for cut in range(1, len(log[-1])):
        path.write_bytes(whole[:-cut])
        assert known(opened(path)) == {f"/a/{n}": n for n in range(1, 5)}
    for position in (-1, -len(log[-1]), 8 - len(log[-1]) + 2):
        torn = bytearray(whole)
        torn[position] ^= 0xFF
        path.write_bytes(torn)
        assert known(opened(path)) == {f"/a/{n}": n for n in range(1, 5)}


def test_damage_before_the_tail_is_refused(path: Path) -> None:
    log = [record(INSERT, f"/a/{number}", info(number)) for number in range(1, 6)]
    whole = file_dict({"/a/0": info(9)}, 2, b"".join(log))
    inside = len(whole) - len(b"".join(log)) + 12
    for position in (20, inside, inside + len(log[0])):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=r"file\.dict.*checksum mismatch"):
            opened(path)


@pytest.mark.parametrize(
    ("told", "content"),
    [
        ("too few for its header", b""),
        ("too few for its header", b"\2\0\0"),
        ("where at most 268,435,456 are read", b"\2" + bytes(7) + b"\0\0\1" + bytes(5)),
        ("unknown version 3", b"\3" + bytes(15)),
        ("its header says", file_dict({"/a": info(1)}, 1)[:-1]),
        ("its header says", file_dict({"/a": info(1)}, 2)[:-1]),
        ("its header says", file_dict({"/a": info(1)}, 1) + b"x"),
        ("garbled", header(b"\xff" * 9, 2) + b"\xff" * 9),
        ("removes '/a'", file_dict({}, 2, record(REMOVE, "/a"))),
        ("unknown kind 7", file_dict({}, 2, record(7, "/a"))),
        ("give its master key", sealed(b"", bytes(32))),
    ],
    ids=lambda told: told if isinstance(told, str) else "",
)
def test_what_is_no_dictionary_is_refused_by_name(path: Path, told: str, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises((CorruptionError, SourceError), match=told) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_a_running_tikv_appends_and_replaces(path: Path) -> None:
    path.write_bytes(file_dict({"/a/1": info(1)}, 2))
    dictionary = opened(path)
    grown = record(INSERT, "/a/2", info(2)) + record(INSERT, "/a/3", info(3))
    for end in range(0, len(grown) + 1, 7):
        path.write_bytes(file_dict({"/a/1": info(1)}, 2, grown[:end]))
        dictionary.refresh()
    with path.open("ab") as file:
        file.write(grown[(len(grown)) // 7 * 7 :])
    dictionary.refresh()
    assert known(dictionary) == {"/a/1": 1, "/a/2": 2, "/a/3": 3}
    for version in (2, 1, 2):
        replaced = path.with_suffix(".tmp")
        replaced.write_bytes(file_dict({"/a/4": info(version)}, version))
        replaced.rename(path)
        dictionary.refresh()
        assert known(dictionary) == {"/a/4": version}
    path.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        dictionary.refresh()


def test_thousands_of_records_are_read_in_pieces(path: Path) -> None:
    log: list[bytes] = []
    expected: dict[str, int] = {}
    rng = random.Random(5)
    for number in range(40_000):
        name = f"/var/lib/tikv/some/where/db/{rng.randrange(5000):06}.sst"
        if name in expected and rng.random() < 0.5:
            log.append(record(REMOVE, name))
            del expected[name]
        else:
            log.append(record(INSERT, name, info(number + 1)))
            expected[name] = number + 1
    content = file_dict({}, 2, b"".join(log))
    assert len(content) > 2 << 20
    path.write_bytes(content)
    assert known(opened(path)) == expected


def test_every_flipped_or_cut_byte_is_refused_or_drops_a_tail(path: Path) -> None:
    rng = random.Random(11)
    log = [record(INSERT, f"/db/{number:06}.sst", info(number + 1)) for number in range(20)]
    whole = file_dict({"/db/CURRENT": info(99)}, 2, b"".join(log))
    prefixes = [
        {"/db/CURRENT": 99} | {f"/db/{n:06}.sst": n + 1 for n in range(count)}
        for count in range(len(log) + 1)
    ]
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        for content in (bytes(damaged), whole[:position]):
            path.write_bytes(content)
            try:
                found = known(opened(path))
            except CorruptionError:
                continue
            # The reserved bytes of the header are nobody's.
            assert found in prefixes or 1 <= position <= 3
