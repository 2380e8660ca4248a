"""A store as a source: untouched, whole with its logs, pinned while others change it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from bkctl.errors import CorruptionError, SourceError, StorageError
from bkctl.folders import remove_leftovers
from bkctl.store.database import Database
from bkctl.store.source import Source, SourceOptions
from tests.store.test_manifest import make_store, manifest_of

WRITER = """
import sys
from rocksdict import AccessType, Options, Rdict
options = Options(raw_mode=True)
options.create_if_missing(True)
options.create_missing_column_families(True)
families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
db = Rdict(sys.argv[1], options, column_families=families, access_type=AccessType.read_write())
write = db.get_column_family("write")
for i in range(1000):
    write[b"z%06d" % i] = b"v" * 50
write.flush()
for i in range(1000, 3000):
    write[b"z%06d" % i] = b"v" * 50
lock = db.get_column_family("lock")
lock[b"zlock"] = b"x"
print("ready", flush=True)
sys.stdin.read()
"""


def listing(folder: Path) -> list[tuple[str, int, int, int, str]]:
    return sorted(
        (
            str(path.relative_to(folder)),
            path.stat().st_size,
            path.stat().st_mtime_ns,
            path.stat().st_ctime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    )


def count(source: Source, family: str = "write") -> int:
    database = Database(source.db_dir, source.path)
    try:
        scan, found = database.scan(family, b"z", b"{"), 0
        while records := scan.take(1024):
            found += len(records)
        return found
    finally:
        database.close()


@pytest.fixture
def killed_store(tmp_path: Path) -> Path:
    """A store whose newest records are only in the write-ahead log: its process was killed."""
    path = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    return path


def test_a_clean_store_is_read_and_left_as_it_was(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    before = listing(store)
    with Source(SourceOptions(store)) as source:
        folder = source.db_dir
        assert count(source) == 300
    assert listing(store) == before
    assert not folder.exists()


def test_records_in_the_log_of_a_killed_store_count(killed_store: Path) -> None:
    before = listing(killed_store)
    with Source(SourceOptions(killed_store)) as source:
        assert count(source) == 3000
        assert count(source, "lock") == 1
    assert listing(killed_store) == before


def newest_log(store: Path) -> Path:
    return max(store.glob("*.log"), key=lambda path: path.stat().st_size)


def test_a_log_cut_off_by_the_kill_is_no_damage(killed_store: Path) -> None:
    log = newest_log(killed_store)
    os.truncate(log, log.stat().st_size - 5)
    with Source(SourceOptions(killed_store)) as source:
        assert count(source) in (2999, 3000)


def test_damage_inside_the_log_is_refused_unless_asked_for(killed_store: Path) -> None:
    log = newest_log(killed_store)
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    with pytest.raises(CorruptionError, match="write-ahead log"):
        Source(SourceOptions(killed_store))
    with Source(SourceOptions(killed_store, point_in_time=True)) as source:
        assert 1000 <= count(source) < 3000


def test_a_live_store_is_pinned_while_it_is_compacted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store)
    families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
    db = Rdict(str(store), Options(raw_mode=True), column_families=families)
    write = db.get_column_family("write")
    with Source(SourceOptions(store)) as source:
        for i in range(300):
            del write[b"z%06d" % i]
        write.flush()
        write.compact_range(None, None)
        assert not list(store.glob("000009.sst"))
        assert count(source) == 300
    db.close()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)


def largest_sst(store: Path) -> Path:
    return max(store.glob("*.sst"), key=lambda path: path.stat().st_size)


def test_a_damaged_block_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    sst = largest_sst(store)
    damage(sst)
    with Source(SourceOptions(store)) as source, pytest.raises(CorruptionError, match=sst.name):
        count(source, "default")


def test_a_truncated_sst_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    sst = largest_sst(store)
    os.truncate(sst, sst.stat().st_size // 2)
    with pytest.raises(CorruptionError, match=sst.name):
        Source(SourceOptions(store))


def test_a_missing_sst_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    sst = largest_sst(store)
    sst.unlink()
    with pytest.raises(CorruptionError, match=sst.name):
        Source(SourceOptions(store))


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_manifest_cut_short_never_gives_a_thinner_store(tmp_path: Path, cut: int) -> None:
    store = make_store(tmp_path / "store")
    manifest = manifest_of(store)
    os.truncate(manifest, manifest.stat().st_size - cut)
    with pytest.raises(CorruptionError, match=manifest.name):
        Source(SourceOptions(store))


def test_leftovers_of_a_killed_run_are_removed_and_living_views_stay(tmp_path: Path) -> None:
    store, work = make_store(tmp_path / "store"), tmp_path / "work"
    (work / "bkctl-view-dead0123" / "db").mkdir(parents=True)
    (work / "bkctl-view-dead0123" / "owner").touch()
    with (
        Source(SourceOptions(store, work_dir=work)) as first,
        Source(SourceOptions(store, work_dir=work)) as second,
    ):
        assert not (work / "bkctl-view-dead0123").exists()
        assert count(first) == count(second) == 300
    assert list(work.iterdir()) == []


def test_a_view_is_no_leftover_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, work = make_store(tmp_path / "store"), tmp_path / "work"
    work.mkdir()
    flock = fcntl.flock

    def beside_another_run(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        remove_leftovers(work, "bkctl-view-")
        flock(descriptor, operation)
        remove_leftovers(work, "bkctl-view-")

    # The first lock is that of the view's owner: there is nothing else here yet.
    monkeypatch.setattr(fcntl, "flock", beside_another_run)
    with Source(SourceOptions(store, work_dir=work)) as source:
        assert count(source) == 300


def test_a_missing_column_family_is_refused_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with Source(SourceOptions(store)) as source, pytest.raises(SourceError, match="no-such"):
        source.require("write", "no-such")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_store_of_another_user_that_can_only_be_read(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    for path in (store, *store.rglob("*")):
        os.chown(path, 1, 1)
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in store.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir(mode=0o777)
    work.chmod(0o777)
    code = (
        # Loaded before, as the other user may not read where this user's Python is.
        "import ctypes, multiprocessing.popen_fork, os\n"
        "from pathlib import Path\n"
        "from bkctl.store.source import Source, SourceOptions\n"
        "from tests.store.test_source import count\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        # A program that the user starts is dumpable; one that became the user is not.
        "ctypes.CDLL(None).prctl(4, 1)\n"
        f"with Source(SourceOptions(Path({str(store)!r}), work_dir=Path({str(work)!r}))) as s:\n"
        "    print(count(s))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "300\n", run.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_a_read_only_mount(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    code = (
        "from pathlib import Path\n"
        "from bkctl.store.source import Source, SourceOptions\n"
        "from tests.store.test_source import count\n"
        f"with Source(SourceOptions(Path({str(store)!r}))) as s:\n"
        "    print(count(s))\n"
    )
    script = (
        f"mount --bind {store} {store} && mount -o remount,ro,bind {store} && "
        f"! touch {store}/x 2>/dev/null && exec {sys.executable} -c '{code}'"
    ).replace(f"Path('{store}')", f'Path("{store}")')
    run = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "unshare" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"no mount namespace here: {run.stderr.strip()}")
    assert run.stdout == "300\n", run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_work_directory_is_no_damage_of_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    work = tmp_path / "work"
    work.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(work)])
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(StorageError, match="space"):
            Source(SourceOptions(store, work_dir=work))
        assert list(work.iterdir()) == []
    finally:
        subprocess.run(["umount", str(work)], check=True)
