"""What lies in a backup's folder may be anyone's: never a traceback, never a wrong backup of it.

`BKCTL_FLEET_MUTATIONS` says how many there are of each kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.commands import Fleet
from tests.fleet.test_real import ACKED as FIGURES
from tests.fleet.test_real import figures

COUNT = int(os.environ.get("BKCTL_FLEET_MUTATIONS", "60"))
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 1 << 63, (1 << 64) - 1, 1 << 64, 10**40, 1.5, None, True, [], {}, "", "x"),
    *("1 2 3", "1:2", ":", "7A", "ff" * 40, "é", "9" * 30, "normal", "tombstone", "merging"),
    *("\n", "0" * 5000, [1], ["", {}], {"a": 1}),
)


def fresh(taken_once: Fleet, storage: Path) -> Fleet:
    shutil.rmtree(storage, ignore_errors=True)
    shutil.copytree(taken_once.storage, storage)
    return Fleet(taken_once.stores, storage)


def written(fleet: Fleet) -> list[Path]:
    """What is read of a backup in parts, but for its data."""
    found = [fleet.folder / "backup.lock", *fleet.folder.glob("parts*/**/*")]
    return sorted(path for path in found if path.is_file())


def changed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randint(1, 4)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.randint(1, 40) :]
    if kind == 3:
        return data[: at - 1] + bytes([data[at - 1] ^ 1 << rng.randrange(8)]) + data[at:]
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_changed_anyhow(taken_once: Fleet, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    codes = set()
    for _ in range(COUNT // 4):
        fleet = fresh(taken_once, tmp_path / "repository")
        path = rng.choice(written(fleet))
        path.write_bytes(changed(path.read_bytes(), rng))
        done = fleet.seal()
        codes.add(done.code)
        assert done.code in (0, 1, 2, 3), (path, done.stderr)
        assert (fleet.folder / "backupmeta").exists() is (done.code == 0)
        if done.code == 0:
            assert figures(done.document) == FIGURES, path
        else:
            assert done.stderr.strip()
    assert codes > {0} or codes > {3}


@pytest.mark.parametrize("seed", range(4))
def test_states_that_say_anything(taken_once: Fleet, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(COUNT // 4):
        fleet = fresh(taken_once, tmp_path / "repository")
        path = rng.choice(sorted(fleet.folder.glob("parts/*.state")))
        document = json.loads(path.read_bytes()[65:])
        for _ in range(rng.randint(1, 3)):
            target = rng.choice([document, *document["regions"]])
            name = rng.choice(sorted(target))
            if rng.random() < 0.1:
                del target[name]
            else:
                target[name] = rng.choice(VALUES)
            if not isinstance(document.get("regions"), list) or not all(
                isinstance(each, dict) and each for each in document["regions"]
            ):
                break
        path.write_bytes(signed(json.dumps(document).encode()))
        done = fleet.seal()
        assert done.code in (0, 1, 2, 3), (path, done.stderr)
        assert (fleet.folder / "backupmeta").exists() is (done.code == 0)
        assert "Traceback" not in done.stderr
        # Another part goes on beside it, or says why not.
        assert fleet.seal().code in (0, 1, 2, 3)


def signed(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 100_000, b'{"format": 1}', b'{"format": 2}', b"null", b"\xff" * 100],
)
def test_what_is_no_state(taken_once: Fleet, tmp_path: Path, content: bytes) -> None:
    fleet = fresh(taken_once, tmp_path / "repository")
    for data in (content, signed(content)):
        (fleet.folder / "parts/store-2.state").write_bytes(data)
        done = fleet.seal()
        assert done.code == 3, done.stderr
        assert "store-2.state" in done.stderr
