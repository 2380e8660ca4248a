"""Logs are cut into pieces that RocksDB replays one by one, as it would the whole of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.store.flush import flush_logs
from bkctl.store.log_pieces import log_pieces
from bkctl.store.manifest import Family, ManifestState, read_manifest

STATE = ManifestState(
    live_files=(),
    families=("default", "write"),
    min_log_number=3,
    last_sequence=10,
    known_numbers=frozenset({40}),
    family_logs=(Family(0, "default", 3), Family(6, "write", 5)),
)


def put(sequence: int, family: int, key: bytes, value: bytes) -> bytes:
    """A write batch of one record."""
    head = sequence.to_bytes(8, "little") + (1).to_bytes(4, "little")
    kind = b"\x05" + bytes([family]) if family else b"\x01"
    return head + kind + bytes([len(key)]) + key + bytes([len(value)]) + value


def test_pieces_hold_all_in_order_and_are_of_bounded_size() -> None:
    logs = [(number, [b"%d-%d" % (number, i) * 5 for i in range(number)]) for number in range(3, 9)]
    pieces = list(log_pieces(logs, 60))
    assert len(pieces) > 5
    found: list[tuple[int, bytes]] = []
    for piece in pieces:
        found += [(number, each) for number, of_log in piece.batches.items() for each in of_log]
        assert piece.size == sum(map(len, itertools.chain(*piece.batches.values())))
        assert piece.size < 60 + 15
    assert found == [(number, each) for number, of_log in logs for each in of_log]


def test_no_more_of_the_logs_is_read_than_a_piece_takes() -> None:
    taken = 0

    def batches() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield bytes(100)

    first = next(log_pieces([(3, batches())], 1000))
    assert (first.size, taken) == (1000, 10)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_a_family_has_in_files_is_not_replayed(tmp_path: Path, size: int) -> None:
    """The family `write` has in files what logs before number 5 hold of it."""
    logs = [(4, [put(11, 0, b"a", b"1"), put(12, 6, b"b", b"2")]), (5, [put(13, 6, b"c", b"3")])]
    found = []
    for number, piece in enumerate(log_pieces(logs, size)):
        folder = tmp_path / str(number)
        folder.mkdir()
        piece.write(folder, STATE)
        flush_logs(folder, tmp_path / "store")
        manifest = folder / (folder / "CURRENT").read_text().strip()
        state = read_manifest(manifest.read_bytes(), manifest)
        assert state.families == STATE.families
        found += [
            (f.family, f.family_id, f.smallest_key, f.largest_sequence) for f in state.live_files
        ]
    assert state.last_sequence == 13
    assert sorted(found) == [("default", 0, b"a", 11), ("write", 6, b"c", 13)]
