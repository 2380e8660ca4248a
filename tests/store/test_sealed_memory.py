"""Encrypted stores are plain in memory alone, and little of them at a time."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rocksdict

from bkctl.errors import StorageError
from bkctl.store import flush, memory, memory_scan, sealed_view
from bkctl.store.open_view import open_database
from bkctl.store.sealed_database import SealedDatabase
from bkctl.store.source import Source, SourceOptions
from bkctl.store.tables import Tables
from tests.commands.test_kill import wait_until_gone
from tests.store.at_rest import encrypt_store
from tests.store.sealed import (
    fill,
    options_of,
    plain_bytes_in,
    read,
    records_of,
    secrets_of,
)

pytestmark = pytest.mark.usefixtures("shared_memory")


def test_records_in_the_logs_count(killed_store: Path, shared_memory: Path) -> None:
    expected = read(SourceOptions(killed_store))
    assert len(expected["write"]) == 3000
    store = encrypt_store(killed_store)
    assert read(options_of(store)) == expected
    assert list(shared_memory.iterdir()) == []


def test_logs_are_replayed_a_piece_at_a_time(
    killed_store: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(SourceOptions(killed_store))
    size = sum(path.stat().st_size for path in (killed_store / "db").glob("*.log"))
    store = encrypt_store(killed_store)
    monkeypatch.setattr(sealed_view, "_PIECE", 20_000)
    flush_piece, in_memory = flush.LogFlusher.flush, list[int]()

    def flushed(self: flush.LogFlusher, folder: Path) -> None:
        (place,) = shared_memory.iterdir()
        assert place == folder
        in_memory.append(sum(path.stat().st_size for path in folder.glob("*.log")))
        flush_piece(self, folder)

    monkeypatch.setattr(flush.LogFlusher, "flush", flushed)
    with Source(options_of(store)) as source:
        database = open_database(source.db_dir, source.path)
        assert records_of(database) == expected
        assert database.last_sequence == source.last_sequence == 3001
        assert list(source.db_dir.glob("*.log")) == []
        database.close()
    assert len(in_memory) >= size // 25_000
    assert max(in_memory) < 25_000


DELETER = """
import os, signal, sys
from rocksdict import Options, Rdict

families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
for options in families.values():
    options.set_disable_auto_compactions(True)
db = Rdict(sys.argv[1], Options(raw_mode=True), column_families=families)
write = db.get_column_family("write")
write.delete_range(b"z000010", b"z000120")
write.flush()
for i in range(50, 60):
    write[b"z%06d" % i] = b"again"
write.delete_range(b"z000200", b"z000222")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def deleted_ranges(tmp_path: Path) -> Path:
    """A data directory with range deletions in files and in the log, and writes behind them."""
    path = tmp_path / "data" / "db"
    fill(path)
    command = [sys.executable, "-c", DELETER, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    return path.parent


def whole_scan(source: Source) -> memory_scan.MemoryScan:
    """A scan of the family `write` by RocksDB alone."""
    return memory_scan.MemoryScan(Tables(source.db_dir), source.path, "write", b"", b"\xff")


@pytest.mark.parametrize("part", [1, 64 << 20])
def test_what_only_rocksdb_can_read_is_read_in_memory(
    deleted_ranges: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(memory_scan, "_PART_BYTES", part)
    expected = read(SourceOptions(deleted_ranges))
    keys = dict(expected["write"])
    assert keys[b"z000055"] == b"again"
    assert len(keys) > 150
    store = encrypt_store(deleted_ranges)
    with Source(options_of(store)) as source:
        database = open_database(source.db_dir, source.path)
        assert isinstance(database, SealedDatabase)
        assert records_of(database) == expected
        for key in (b"z000009", b"z000015", b"z000055", b"z000210", b"z000222", b"z000300"):
            assert database.get("write", key) == keys.get(key)
        for lower, upper in ((b"z000050", b"z000230"), (b"z000011", b"z000020")):
            columns = database.scan_columns("write", lower, upper)
            found: list[tuple[bytes, bytes]] = []
            while (records := columns.take()) is not None:
                found += zip(records[0].tolist(), records[1].tolist(), strict=True)
            assert found == [pair for pair in expected["write"] if lower <= pair[0] < upper]
        for scan in (database.scan("write", b"", b"\xff"), whole_scan(source)):
            assert scan.take(3) == expected["write"][:3]
            for at in (5, 60, 150):
                scan.seek(expected["write"][at][0])
                assert scan.take_bounded(2, 1 << 20) == expected["write"][at : at + 2]
        del scan
        gc.collect()
        left_open = database.scan("write", b"", b"\xff")
        assert left_open.take(1)
        assert list(shared_memory.iterdir())
        database.close()
        assert list(shared_memory.iterdir()) == []


def test_a_part_is_as_much_as_some_files_reach_into(
    plain_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = encrypt_store(plain_store)
    monkeypatch.setattr(memory_scan, "_PART_BYTES", 1)
    with Source(options_of(store)) as source:
        files = [file for file in source.live_files() if file.family == "write"]
        scan = whole_scan(source)
        start, parts = b"", 0
        while start < b"\xff":
            end, shown = scan._part(start)
            assert start < end
            reach = [f for f in files if f.largest_key >= start and f.smallest_key < end]
            assert sorted(file.number for file in reach) == sorted(file.number for file in shown)
            start, parts = end, parts + 1
        assert parts > 2


def test_a_dropped_scan_leaves_nothing_in_memory(deleted_ranges: Path, shared_memory: Path) -> None:
    store = encrypt_store(deleted_ranges)
    with Source(options_of(store)) as source:
        database = open_database(source.db_dir, source.path)
        scan = database.scan("write", b"", b"\xff")
        assert scan.take(1)
        del scan
        gc.collect()
        assert list(shared_memory.iterdir()) == []
        database.close()


@pytest.mark.parametrize("narrowed", [False, True])
def test_nothing_plain_is_on_a_disk_meanwhile(
    killed_store: Path, tmp_path: Path, narrowed: bool
) -> None:
    secrets = secrets_of(read(SourceOptions(killed_store)))
    assert plain_bytes_in(killed_store, secrets)
    store = encrypt_store(killed_store)
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    with Source(options_of(store, work_dir=work_dir)) as source:
        if narrowed:
            source.without([file for file in source.live_files() if file.family == "lock"])
        names = {path.name for path in work_dir.rglob("*.sst")}
        assert len(names) > len(list((killed_store / "db").glob("*.sst")))  # those of the log
        assert plain_bytes_in(work_dir, secrets) == []
        assert plain_bytes_in(killed_store, secrets) == []
    assert list(work_dir.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from bkctl.store import flush, memory
from bkctl.store.source import Source, SourceOptions

replay = flush.LogFlusher.flush

def killed(*args):
    if sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replay(*args)
    os.kill(os.getpid(), signal.SIGKILL)

memory._SHARED_MEMORY = Path(sys.argv[5])
if sys.argv[4] != "open":
    flush.LogFlusher.flush = killed
source = Source(SourceOptions(Path(sys.argv[1]), Path(sys.argv[3]), master_key=Path(sys.argv[2])))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["before", "behind", "open"])
def test_nothing_plain_is_left_by_a_killed_run(
    killed_store: Path, tmp_path: Path, shared_memory: Path, moment: str
) -> None:
    expected = read(SourceOptions(killed_store))
    store = encrypt_store(killed_store)
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    given = map(str, (store.path, store.key_file, work_dir, moment, shared_memory))
    command = [sys.executable, "-c", KILLED, *given]
    with subprocess.Popen(command, start_new_session=True) as process:
        assert process.wait() == -signal.SIGKILL
    # Its helpers end with it, and have its folders locked until then.
    wait_until_gone(process.pid)
    left = [path for path in work_dir.rglob("*") if path.is_symlink() and not path.exists()]
    assert left, "what was in memory is gone with the process"
    assert plain_bytes_in(work_dir, secrets_of(expected)) == []
    assert bool(list(shared_memory.iterdir())) == (moment != "open")
    # The next run removes all of it.
    assert read(options_of(store, work_dir=work_dir)) == expected
    assert list(shared_memory.iterdir()) == []
    assert list(work_dir.iterdir()) == []


def test_too_little_memory_is_told_beforehand(
    killed_store: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = encrypt_store(killed_store)
    monkeypatch.setattr(memory, "_free", lambda place: 5 << 20)
    with pytest.raises(StorageError, match=rf"up to \d+ MiB of a tmpfs; {shared_memory} has 5 MiB"):
        Source(options_of(store))
    monkeypatch.setattr(memory, "_is_memory", lambda place: False)
    with pytest.raises(StorageError, match=f"{shared_memory} is none"):
        Source(options_of(store))


def test_memory_that_runs_out_is_no_damage(
    killed_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        @staticmethod
        def list_cf(path: str) -> list[str]:
            raise Exception(f"IO error: No space left on device: {path}/000031.sst")

    monkeypatch.setattr(rocksdict, "Rdict", Full)
    with pytest.raises(StorageError, match="log cannot be replayed there: No space left on device"):
        flush._flush(killed_store / "db", killed_store)


def test_a_work_dir_that_is_memory_is_used_first(shared_memory: Path, tmp_path: Path) -> None:
    work_dir = shared_memory / "work"
    work_dir.mkdir()
    for given, place in ((work_dir, work_dir), (tmp_path, shared_memory)):
        with memory.memory_folder(given, 1) as folder:
            assert folder.parent == place
            memory.remove_memory_leftovers(given)
            assert folder.exists()
        assert not folder.exists()
