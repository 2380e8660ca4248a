"""Damaged and hostile files: no crash, no hang, and nothing that is lost goes untold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.errors import BkctlError
from bkctl.raft.engine import PinnedRaftEngine
from tests.raft.plain import files
from tests.raft.simulator import Simulator
from tests.raft.writer import Batch, FileWriter, varint

# Region: its entries, its state.
Content = dict[int, tuple[list[bytes], bytes]]

SEEDS = range(40)
MUTATIONS = 25


def content(folder: Path) -> Content:
    """All that a log answers."""
    with PinnedRaftEngine([folder]) as pinned:
        log = pinned.read({})
        found: Content = {}
        for region_id in log.region_ids():
            first, last = log.first_index(region_id), log.last_index(region_id)
            entries = log.entries(region_id, first or 0, (last or -1) + 1)
            state = log.raft_local_state(region_id)
            found[region_id] = (
                [entry.SerializeToString() for entry in entries],
                b"" if state is None else state.SerializeToString(),
            )
        return found


def content_or_error(folder: Path) -> Content | BkctlError:
    """All that a log answers, or the one line that says why it does not."""
    try:
        return content(folder)
    except BkctlError as e:
        error = e
    assert str(folder) in str(error)
    assert "\n" not in str(error)
    return error


def make_log(folder: Path, seed: int) -> Simulator:
    folder.mkdir()
    simulator = Simulator(folder, seed)
    simulator.run(simulator.rng.randint(1, 60))
    simulator.save()
    return simulator


def ends(simulator: Simulator) -> dict[Path, int]:
    """Where the last batch of each newest file begins: damage from there on may be a torn end."""
    newest = simulator.append[-1], simulator.rewrite[-1]
    return {file.path: ([len(file.content), *file.places])[-1] for file in newest}


def flipped(folder: Path, rng: random.Random) -> Iterator[tuple[Path, int]]:
    """Have one byte of a file wrong, and put it right again afterwards."""
    counting = [*files(folder, "rewrite"), *files(folder, "raftlog")]
    for _ in range(MUTATIONS):
        path = rng.choice(counting)
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= rng.randint(1, 255)
        path.write_bytes(damaged)
        yield path, place
        path.write_bytes(whole)


def check_flips(folder: Path, seed: int) -> tuple[int, int, int]:
    """How many flipped bytes are told, are without effect, are taken for a torn end."""
    simulator = make_log(folder, seed)
    torn_from = ends(simulator)
    expected = content(folder)
    told = without_effect = torn = 0
    for path, place in flipped(folder, random.Random(seed)):
        found = content_or_error(folder)
        if isinstance(found, BkctlError):
            told += 1
        elif found == expected:
            without_effect += 1
        else:
            assert place >= torn_from.get(path, 1 << 60), (path, place)
            torn += 1
    return told, without_effect, torn


def mutate(data: bytearray, rng: random.Random) -> None:
    """Do something to a file."""
    if not data:
        return
    place = rng.randrange(len(data))
    size = rng.choice((1, 2, 8, 100, 1000))
    what = rng.randrange(6)
    if what == 0:
        data[place] = rng.randrange(256)
    elif what == 1:
        del data[place:]
    elif what == 2:
        data[place : place + size] = bytes(size)
    elif what == 3:
        data[place:place] = rng.randbytes(size)
    elif what == 4:
        start = rng.randrange(len(data))
        data[place:place] = data[start : start + size]
    else:
        del data[place : place + size]


def check_mutations(folder: Path, seed: int) -> None:
    """Read what several mutations at once make of a log."""
    make_log(folder, seed)
    rng = random.Random(seed)
    wholes = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(MUTATIONS):
        path = rng.choice([*wholes])
        damaged = bytearray(wholes[path])
        for _ in range(rng.randint(1, 4)):
            mutate(damaged, rng)
        path.write_bytes(damaged)
        if rng.random() < 0.1:
            path.unlink()
        content_or_error(folder)
        path.write_bytes(wholes[path])


def hostile_batch(rng: random.Random) -> Batch:
    """Items with any numbers in them, which fit their checksum."""

    def number() -> bytes:
        return varint(rng.choice((0, 1, 2, 5, 300, (1 << 32) - 1, (1 << 64) - 1, 1 << 63)))

    batch = Batch(bytearray(rng.randbytes(rng.choice((0, 1, 50)))))
    for _ in range(rng.randint(0, 4)):
        kind = rng.choice((b"\x01", b"\x02", b"\x03", b"\x04", b""))
        parts = [number() for _ in range(rng.randint(0, 5))]
        if rng.random() < 0.2:
            parts.append(rng.randbytes(rng.randint(0, 9)))
        batch.items.append(number() + kind + b"".join(parts))
    return batch


def check_hostile(folder: Path, seed: int) -> None:
    """Read logs whose batches fit their checksums, and make no sense."""
    rng = random.Random(seed)
    folder.mkdir()
    for _ in range(MUTATIONS):
        for suffix in ("rewrite", "raftlog"):
            file = FileWriter(folder, 1, suffix)
            file.add(Batch().entries(5, 1, [b"\x18\x01"]).put(5, b"R", b""))
            for _ in range(rng.randint(1, 3)):
                file.add(hostile_batch(rng), compress=rng.random() < 0.3)
            file.write()
        content_or_error(folder)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flipped_byte_is_told_or_without_effect_but_in_a_torn_end(
    tmp_path: Path, seed: int
) -> None:
    told, without_effect, torn = check_flips(tmp_path / "log", seed)
    assert told + without_effect + torn == MUTATIONS


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_files_never_crash_the_reader(tmp_path: Path, seed: int) -> None:
    check_mutations(tmp_path / "log", seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_batches_never_crash_the_reader(tmp_path: Path, seed: int) -> None:
    check_hostile(tmp_path / "log", seed)
