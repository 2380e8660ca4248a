"""Write-ahead logs: only a newest log's end may be missing; anything else is refused by name."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import AccessType, IngestExternalFileOptions, Options, Rdict, SstFileWriter

from bkctl.codec.log import BLOCK_SIZE
from bkctl.errors import CorruptionError, SourceError
from bkctl.store.database import Database
from bkctl.store.source import Source, SourceOptions
from bkctl.store.wal import read_wal
from tests.store.logged import FAMILIES, LoggedStore, State, make_logged_store, open_tuned

ROUNDS = int(os.environ.get("BKCTL_LOG_ROUNDS", "12"))


def held(path: Path, *, point_in_time: bool = False, wal_dir: Path | None = None) -> State:
    """All that a store holds, as it is read for a backup."""
    options = SourceOptions(path, wal_dir=wal_dir, point_in_time=point_in_time)
    state: State = {}
    with Source(options) as source:
        database = Database(source.db_dir, source.path)
        for family in FAMILIES:
            scan = database.scan(family, b"", b"\xff")
            while records := scan.take(1024):
                state.update({(family, key): value for key, value in records})
        database.close()
    return state


@pytest.fixture
def made(tmp_path: Path) -> LoggedStore:
    made = make_logged_store(tmp_path / "store", random.Random(5), 80)
    assert len(made.logs) >= 4
    return made


def test_all_logs_of_a_killed_store_count(made: LoggedStore) -> None:
    assert held(made.path) == made.states[-1]


def test_a_log_cut_before_a_newer_one_is_refused(made: LoggedStore) -> None:
    log = made.logs[1]
    os.truncate(log, log.stat().st_size - 3)
    with pytest.raises(CorruptionError, match=f"{log.name}.*newer logs follow"):
        held(made.path)


def test_a_log_cut_between_two_records_is_refused(made: LoggedStore) -> None:
    log = made.logs[0]
    size = log.stat().st_size
    while read_wal(log, 4).trouble or log.stat().st_size == size:
        os.truncate(log, log.stat().st_size - 1)
    with pytest.raises(CorruptionError, match=f"{made.logs[1].name}: writes .* are missing"):
        held(made.path)


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_log_is_refused(made: LoggedStore, number: int) -> None:
    made.logs[number].unlink()
    with pytest.raises(CorruptionError, match=r"\.log: writes \d+ to \d+ are missing"):
        held(made.path)
    # What lies before the hole is no state either: SST files hold writes from behind it.
    with pytest.raises(CorruptionError, match=r"\.sst holds write"):
        held(made.path, point_in_time=True)


def test_a_store_without_any_log_is_refused_unless_told_so(made: LoggedStore) -> None:
    for log in made.logs:
        log.unlink()
    with pytest.raises(CorruptionError, match=r"no write-ahead log is there.*--wal-dir"):
        held(made.path)
    empty = made.path / "none"
    empty.mkdir()
    assert held(made.path, wal_dir=empty)


def test_the_end_of_the_newest_log_may_be_torn(made: LoggedStore) -> None:
    log = made.logs[-1]
    for cut in (1, 6, 100):
        os.truncate(log, max(0, log.stat().st_size - cut))
        assert held(made.path) in made.states[made.begins[log.name] :]


def test_a_damaged_length_near_the_end_of_the_newest_log_is_damage(tmp_path: Path) -> None:
    store = make_logged_store(tmp_path / "store", random.Random(1), 10)
    log = store.logs[-1]
    content = bytearray(log.read_bytes())
    assert len(content) > 1000
    # The first record of the last block: its length now passes the block's end.
    at = (len(content) - 300) // BLOCK_SIZE * BLOCK_SIZE
    content[at + 5] ^= 0xF0
    log.write_bytes(content)
    with pytest.raises(CorruptionError, match=f"{log.name}.*sound records follow"):
        held(store.path)


def test_zeros_set_aside_behind_the_last_record_are_no_damage(made: LoggedStore) -> None:
    with made.logs[-1].open("ab") as log:
        log.write(bytes(100_000))
    assert held(made.path) == made.states[-1]


def test_recycled_logs_end_where_another_logs_records_begin(tmp_path: Path) -> None:
    made = make_logged_store(tmp_path / "store", random.Random(8), 120, recycle=True)
    assert held(made.path) == made.states[-1]
    older = made.logs[-1].read_bytes()
    newest = made.logs[-1]
    newest.write_bytes(older + made.logs[0].read_bytes())
    assert held(made.path) == made.states[-1]


def test_compressed_logs_are_checked_too(tmp_path: Path) -> None:
    db = open_tuned(tmp_path / "open", wal_compression="kZSTD")
    for i in range(2000):
        db[b"z%06d" % i] = b"v" * 300
    log = max((tmp_path / "open").glob("*.log"))
    found = read_wal(log, int(log.stem))
    assert (found.first, found.next, found.trouble) == (1, 2001, "")
    assert found.size < 2000 * 300
    db.close()


def test_logs_that_are_tracked_must_be_there_at_their_synced_size(tmp_path: Path) -> None:
    path = _tracked_store(tmp_path)
    logs = sorted(path.glob("*.log"))
    assert len(held(path)) == 3001
    for change, told in (
        ("one missing", "is missing"),
        ("one cut", "was cut: it has 1000 bytes"),
        ("all missing", "is missing"),
    ):
        copy = tmp_path / "kept"
        shutil.copytree(path, copy)
        if change == "one cut":
            os.truncate(logs[0], 1000)
        for log in {"one missing": logs[:1], "all missing": logs}.get(change, []):
            log.unlink()
        with pytest.raises(CorruptionError, match=rf"{logs[0].name}.*{told}"):
            held(path)
        with pytest.raises(CorruptionError, match=rf"{logs[0].name}.*{told}"):
            held(path, point_in_time=True)
        shutil.rmtree(path)
        copy.rename(path)


def _tracked_store(tmp_path: Path) -> Path:
    """A store that keeps track of its logs in the MANIFEST, as TiKV's does."""
    db = open_tuned(tmp_path / "open", track_and_verify_wals_in_manifest="true")
    db.get_column_family("raft")[b"first"] = b"holds all logs back"
    write = db.get_column_family("write")
    for i in range(3000):
        (write if i % 2 else db)[b"z%06d" % i] = b"v" * 50
        if i in (1000, 2000):
            write.flush()
    db.flush_wal(True)
    path = tmp_path / "store"
    shutil.copytree(tmp_path / "open", path)
    db.close()
    return path


def test_numbers_that_ingested_files_took_are_no_hole(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(tmp_path / "open"), options, access_type=AccessType.read_write())
    for i in range(100):
        db[b"z%06d" % i] = b"v"
    writer = SstFileWriter(Options(raw_mode=True))
    writer.open(str(tmp_path / "new.sst"))
    for i in range(50):
        writer[b"z%06d" % i] = b"new"
    writer.finish()
    # It meets what is in memory: that is flushed, a log begun, and a number taken.
    db.ingest_external_file([str(tmp_path / "new.sst")], IngestExternalFileOptions())
    for i in range(100, 200):
        db[b"z%06d" % i] = b"v"
    shutil.copytree(tmp_path / "open", tmp_path / "store")
    db.close()
    with Source(SourceOptions(tmp_path / "store")) as source:
        database = Database(source.db_dir, source.path)
        assert database.get("default", b"z000000") == b"new"
        assert database.get("default", b"z000199") == b"v"
        database.close()


def test_the_folder_that_options_name_for_logs_is_used(tmp_path: Path) -> None:
    made = make_logged_store(tmp_path / "db", random.Random(3), 40)
    elsewhere = tmp_path / "elsewhere" / "db"
    elsewhere.mkdir(parents=True)
    for log in made.logs:
        shutil.move(log, elsewhere)
    for options in made.path.glob("OPTIONS-*"):
        text = options.read_text()
        options.write_text(text.replace("[DBOptions]\n", f"[DBOptions]\n  wal_dir={elsewhere}\n"))
        assert f"wal_dir={elsewhere}" in options.read_text()
    assert held(made.path) == made.states[-1]
    # A stray log that does not count, or holds nothing, is no obstacle.
    (made.path / "000001.log").write_bytes(b"what another store left")
    (made.path / "999999.log").touch()
    assert held(made.path) == made.states[-1]
    shutil.copy(next(elsewhere.glob("*.log")), made.path)
    with pytest.raises(SourceError, match=r"both there .* and in .*--wal-dir"):
        held(made.path)
    assert held(made.path, wal_dir=elsewhere) == made.states[-1]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_change_of_logs_gives_a_state_that_never_was(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    made = make_logged_store(tmp_path / "store", rng, rng.randint(20, 100), recycle=seed % 4 == 3)
    change = rng.choice((_cut, _remove, _flip, _cut_at_end, _garble_tail))
    lowest = change(made, rng)
    for point_in_time in (False, True):
        try:
            state = held(made.path, point_in_time=point_in_time)
        except CorruptionError:
            continue
        numbers = [i for i, known in enumerate(made.states) if known == state]
        assert numbers, "a state that never was"
        if not point_in_time:
            assert max(numbers) >= lowest


_Change = Callable[[LoggedStore, random.Random], int]


def _cut(made: LoggedStore, rng: random.Random) -> int:
    log = rng.choice(made.logs)
    os.truncate(log, rng.randint(0, max(0, log.stat().st_size - 1)))
    return made.begins[made.logs[-1].name]


def _cut_at_end(made: LoggedStore, rng: random.Random) -> int:
    log = rng.choice(made.logs)
    os.truncate(log, max(0, log.stat().st_size - rng.randint(1, 50)))
    return made.begins[made.logs[-1].name]


def _remove(made: LoggedStore, rng: random.Random) -> int:
    log = rng.choice(made.logs[:-1] or made.logs)
    log.unlink()
    return len(made.states) - 1


def _flip(made: LoggedStore, rng: random.Random) -> int:
    log = rng.choice([log for log in made.logs if log.stat().st_size] or made.logs)
    content = bytearray(log.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    log.write_bytes(content)
    # Of the newest log, only what the flip hit at its very end may go.
    return len(made.states) - 2


def _garble_tail(made: LoggedStore, rng: random.Random) -> int:
    log = made.logs[-1]
    with log.open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 3000)))
    return len(made.states) - 1
