"""Stores of layers: read as one, however many there are, and what is wrong is told by name."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from bkctl.errors import CorruptionError
from bkctl.sst.reader import FileReader, SstReader
from bkctl.sst.writer import Compression, SstWriter
from bkctl.store.layers import LayeredStore, LayerFile, build_layers

KEYS = [b"z%04d" % number for number in range(1000)]


def layer_file(path: Path, records: dict[bytes, bytes], family: str = "write") -> LayerFile:
    writer = SstWriter(path, Compression())
    writer.write(sorted(records), [records[key] for key in sorted(records)])
    writer.finish()
    return LayerFile(f"b/{path.name}", path, family, b"z", b"{")


def read(store: LayeredStore, family: str = "write") -> dict[bytes, bytes]:
    database = store.open()
    try:
        return dict(database.scan(family, b"", b"\xff").take(1 << 30))
    finally:
        database.close()


@pytest.mark.parametrize("count", [1, 7, 8, 60, 400])
def test_layers_are_read_as_one_and_the_newest_counts(count: int, tmp_path: Path) -> None:
    expected: dict[bytes, bytes] = {}
    layers = []
    for number in range(count):
        records = dict.fromkeys(KEYS[number % 11 :: 3], b"%d" % number)
        expected |= records
        layers.append([layer_file(tmp_path / f"f{number}", records)])
    store = build_layers(tmp_path / "db", layers)
    assert read(store) == expected


def test_each_file_goes_into_its_family(tmp_path: Path) -> None:
    files = [
        layer_file(tmp_path / "w0", {KEYS[0]: b"0"}),
        layer_file(tmp_path / "d0", {KEYS[1]: b"1"}, "default"),
        layer_file(tmp_path / "w1", {KEYS[2]: b"2"}),
    ]
    store = build_layers(tmp_path / "db", [files])
    assert read(store) == {KEYS[0]: b"0", KEYS[2]: b"2"}
    assert read(store, "default") == {KEYS[1]: b"1"}


def test_many_layers_take_no_more_memory_than_few(tmp_path: Path) -> None:
    layers = [
        [layer_file(tmp_path / f"f{number}", dict.fromkeys(KEYS[number::200], b"v" * 10_000))]
        for number in range(200)
    ]
    store = build_layers(tmp_path / "db", layers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    database = store.open()
    scan = database.scan("write", b"", b"\xff")
    count = 0
    while records := scan.take(10):
        count += len(records)
    database.close()
    assert count == len(KEYS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_file_with_keys_outside_its_bounds_is_named(tmp_path: Path) -> None:
    files = [
        layer_file(tmp_path / "good", {KEYS[0]: b"0"}),
        LayerFile("b/bad", layer_file(tmp_path / "f", {KEYS[5]: b""}).path, "write", b"z", KEYS[5]),
    ]
    with pytest.raises(CorruptionError, match=r"^b/bad: holds keys outside"):
        build_layers(tmp_path / "db", [files])


def test_what_is_no_sst_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"x" * 1000)
    files = [
        layer_file(tmp_path / "good", {KEYS[0]: b"0"}),
        LayerFile("b/bad", bad, "write", b"z", b"{"),
    ]
    with pytest.raises(CorruptionError, match=r"^b/bad: ") as raised:
        build_layers(tmp_path / "db", [files])
    assert str(tmp_path) not in str(raised.value)


def test_a_damaged_block_met_by_a_scan_is_told_by_the_files_own_name(tmp_path: Path) -> None:
    files = [
        layer_file(tmp_path / "good", dict.fromkeys(KEYS[:500], b"v" * 100)),
        layer_file(tmp_path / "bad", dict.fromkeys(KEYS[500:], b"w" * 100)),
    ]
    with FileReader(tmp_path / "bad") as reader:
        blocks = list(SstReader(reader, "bad").blocks())
    data = bytearray((tmp_path / "bad").read_bytes())
    data[blocks[len(blocks) // 2].offset + 5] ^= 1
    (tmp_path / "bad").write_bytes(data)
    store = build_layers(tmp_path / "db", [files])
    with pytest.raises(CorruptionError, match=r"^b/bad: .*checksum") as raised:
        read(store)
    assert str(tmp_path) not in str(raised.value)
    assert ".sst" not in str(raised.value)
