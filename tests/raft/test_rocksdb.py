"""A raft log in a RocksDB of its own answers as one in raft-engine does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from bkctl.errors import CorruptionError
from bkctl.raft.log import RaftLog, StoreKey
from bkctl.raft.rocksdb import PinnedRaftRocks
from bkctl.store.layout import locate
from tests.raft.logs import data, indexes, state
from tests.raft.writer import entry


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def entry_key(region_id: int, index: int) -> bytes:
    return b"\x01\x02" + number(region_id) + b"\x01" + number(index)


def state_key(region_id: int) -> bytes:
    return b"\x01\x02" + number(region_id) + b"\x02"


def records() -> dict[bytes, bytes]:
    """Regions 3, 700 and the last there can be, entries 10 to 49 each; region 9 has none."""
    made = {b"\x01\x01": b"ident", state_key(9): state(5)}
    for region_id in (3, 700, (1 << 64) - 1):
        made[state_key(region_id)] = state(49)
        for index in range(10, 50):
            made[entry_key(region_id, index)] = entry(index, 5, data(region_id, index))
    return made


def write(path: Path, content: dict[bytes, bytes], deleted: list[bytes]) -> Path:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(path), options)
    for key, value in content.items():
        db[key] = value
    db.flush()
    for key in deleted:
        del db[key]
    db.close()
    return path


def check(log: RaftLog, first: int) -> None:
    last = (1 << 64) - 1
    assert log.region_ids() == [3, 9, 700, last]
    for region_id in (3, 700, last):
        assert (log.first_index(region_id), log.last_index(region_id)) == (first, 49)
        assert indexes(log, region_id, first, 50) == [*range(first, 50)]
        assert indexes(log, region_id, 20, 23) == [20, 21, 22]
        assert [log.term_of(region_id, i) for i in (first - 1, first, 49, 50)] == [None, 5, 5, None]
        local = log.raft_local_state(region_id)
        assert local is not None
        assert local.SerializeToString() == state(49)
    for region_id in (9, 10):
        assert log.first_index(region_id) is None
        assert log.last_index(region_id) is None
        assert log.term_of(region_id, 10) is None
        with pytest.raises(CorruptionError, match=rf"region {region_id}: .* holds none of it"):
            log.entries(region_id, 4, 5)
    assert log.raft_local_state(10) is None
    assert log.store_value(StoreKey.IDENT) == b"ident"
    assert log.store_value(StoreKey.RECOVER_STATE) is None


def test_a_log_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "raft", records(), [])
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        log = pinned.read({})
        assert (log.path, log.notes) == (path, ())
        check(log, 10)
        with pytest.raises(CorruptionError, match=r"entries 9 to 11 .* holds 10 to 49"):
            log.entries(3, 9, 12)


def test_compacted_entries_are_gone(tmp_path: Path) -> None:
    regions = (3, 700, (1 << 64) - 1)
    gone = [entry_key(region_id, index) for region_id in regions for index in range(10, 15)]
    path = write(tmp_path / "raft", records(), gone)
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        check(pinned.read({}), 15)


WRITER = """
import sys
sys.path[:0] = [{root!r}]
from rocksdict import Options, Rdict
from tests.raft.test_rocksdb import records
options = Options(raw_mode=True)
options.create_if_missing(True)
db = Rdict({path!r}, options)
for key, value in records().items():
    db[key] = value
print("ready", flush=True)
sys.stdin.read()
"""


def test_entries_in_the_write_ahead_log_of_a_killed_store_count(tmp_path: Path) -> None:
    path = tmp_path / "raft"
    root = str(Path(__file__).resolve().parents[2])
    code = WRITER.format(root=root, path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        check(pinned.read({}), 10)


def test_entries_behind_the_last_index_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "raft", records() | {state_key(3): state(30)}, [])
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        log = pinned.read({})
        assert log.last_index(3) == 30
        assert log.term_of(3, 31) is None


def test_a_missing_entry_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "raft", records(), [entry_key(700, 30)])
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        found = pinned.read({}).entries(700, 25, 40)
        with pytest.raises(CorruptionError, match="entry 30 of region 700 is missing"):
            list(found)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (entry_key(3, 20), entry(21, 5), "entry 20 of region 3 is damaged: it has index 21"),
        (entry_key(3, 20), b"\xff", "entry 20 of region 3 is damaged"),
        (state_key(3), b"\xff", "region 3: its raft state is damaged"),
        (b"\x01\x02\x01", b"", "has a key 010201"),
    ],
)
def test_damaged_records_are_told(tmp_path: Path, key: bytes, value: bytes, message: str) -> None:
    path = write(tmp_path / "raft", records() | {key: value}, [])
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        log = pinned.read({})
        with pytest.raises(CorruptionError, match=message):
            (log.region_ids(), [*log.entries(3, 10, 50)])


def test_a_damaged_block_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "raft", records(), [])
    (table,) = path.glob("*.sst")
    content = bytearray(table.read_bytes())
    content[100] ^= 0xFF
    table.write_bytes(content)
    with PinnedRaftRocks(locate(path), tmp_path) as pinned:
        log = pinned.read({})
        with pytest.raises(CorruptionError, match="raft"):
            (log.region_ids(), [*log.entries(3, 10, 50)])
