"""`bkctl backup` as a user or a script meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bkctl.mvcc.keys import MAX_TS
from examples.tikv_store import TikvStore
from tests.commands.console import process
from tests.oracles import read_oracle, require_shared
from tests.store.test_source import largest_sst, listing

END = 100


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return process("backup", *map(str, arguments), "--progress", "none")


@pytest.fixture
def store(tmp_path: Path) -> TikvStore:
    """Two committed keys, in a store whose raft family knows one region."""
    tikv = TikvStore(tmp_path / "store")
    for key in (b"a", b"b"):
        tikv.must_prewrite_put(key, key * 3, key, 10)
        tikv.must_commit(key, 10, 20)
    tikv.set_regions([(1, b"", b"", 1)])
    return tikv


def backup(store: TikvStore, *arguments: object) -> subprocess.CompletedProcess[str]:
    store.close()
    repository = store.path.parent / "repo"
    return run("--db", store.path, "--region-map", "store", "--storage", repository, *arguments)


def metas(store: TikvStore) -> list[Path]:
    return list((store.path.parent / "repo").glob("*/backupmeta"))


def test_a_backup_by_the_stores_own_regions(store: TikvStore) -> None:
    done = backup(store, "--end-ts", END, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["status"], report["mode"], report["total_kvs"]) == ("ok", "txn", 2)
    assert report["ranges"] == {"total": 1, "done": 1, "failed": 0, "skipped": 0}
    assert len(report["crc64xor"]) == 16
    folder = store.path.parent / "repo" / report["name"]
    assert json.loads((folder / "report.json").read_text()) == report
    assert not (folder / "checkpoint").exists()


def test_the_summary_for_people(store: TikvStore) -> None:
    done = backup(store, "--end-ts", END, "--name", "mine")
    assert done.returncode == 0
    assert "mine: published" in done.stdout
    assert "2 keys" in done.stdout


def test_a_lock_fails_its_range_and_is_told(store: TikvStore) -> None:
    store.must_prewrite_put(b"c", b"new", b"pk", 30, ttl=4321)
    done = backup(store, "--end-ts", END, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert report["status"] == "failed"
    (error,) = report["errors"]
    assert error["kind"] == "key_is_locked"
    for told in (b"c".hex(), b"pk".hex().upper(), "start_ts 30", "ttl 4321"):
        assert told in error["message"]
    assert not metas(store)


@pytest.mark.parametrize(
    ("end_ts", "options"),
    [
        (29, {}),
        (END, {"min_commit_ts": END + 1, "use_async_commit": True}),
        (END, {"kind": "pessimistic"}),
        (END, {"kind": "lock"}),
    ],
)
def test_locks_that_do_not_block(store: TikvStore, end_ts: int, options: dict[str, object]) -> None:
    kind = options.pop("kind", "put")
    if kind == "pessimistic":
        store.must_acquire_pessimistic_lock(b"c", b"pk", 30, 31)
    elif kind == "lock":
        store.must_prewrite_lock(b"c", b"pk", 30)
    else:
        store.must_prewrite_put(b"c", b"new", b"pk", 30, **options)  # type: ignore[arg-type]
    done = backup(store, "--end-ts", end_ts)
    assert done.returncode == 0, done.stderr
    assert len(metas(store)) == 1


def test_a_reader_of_the_latest_version_waits_for_secondaries_only(store: TikvStore) -> None:
    store.must_prewrite_put(b"pk", b"new", b"pk", 30)
    assert backup(store, "--end-ts", MAX_TS, "--name", "b").returncode == 0


def test_one_locked_region_does_not_stop_the_others(store: TikvStore) -> None:
    store.set_regions([(1, b"", b"b", 1), (2, b"b", b"", 1)])
    store.must_prewrite_put(b"c", b"new", b"pk", 30)
    done = backup(store, "--end-ts", END, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert report["status"] == "partial"
    assert (report["ranges"]["done"], report["ranges"]["failed"]) == (1, 1)
    assert not metas(store)


def test_a_failed_backup_is_resumed(store: TikvStore) -> None:
    store.set_regions([(1, b"", b"b", 1), (2, b"b", b"", 1)])
    store.must_prewrite_put(b"c", b"new", b"pk", 30)
    assert backup(store, "--end-ts", END, "--name", "b").returncode == 4
    folder = store.path.parent / "repo" / "b"
    first = {path: path.stat().st_mtime_ns for path in folder.glob("*.sst")}
    assert len(first) == 1
    with TikvStore(store.path) as again:
        again.must_rollback(b"c", 30)
        refused = backup(again, "--end-ts", END - 1, "--name", "b", "--resume")
        done = backup(again, "--end-ts", END, "--name", "b", "--resume", "--json")
    assert refused.returncode == 2
    assert "end_ts" in refused.stderr
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["total_kvs"], report["files"], report["ranges"]["done"]) == (2, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--region-map is missing"),
        (("--region-map", "none"), "--db is missing"),
        (("--region-map", "none", "--db", "/no/such"), "--storage is missing"),
        (("--region-map", "none", "--db", "/no/such", "--storage", "/x"), "/no/such"),
        (("--region-map", "none", "--db", "/", "--storage", "s3:/x"), "two slashes"),
        (("--region-map", "/no/map", "--db", "/tmp", "--storage", "/x"), "/tmp"),
        (("--compression", "gzip"), "region-map"),
        (("--region-map", "none", "--db", "/", "--storage", "/x", "--compression", "gzip"), "gzip"),
        (
            ("--region-map", "none", "--db", "/", "--storage", "/x", "--sst-max-size", "x"),
            "--sst-max-size",
        ),
        (("--start-ts", "5", "--end-ts", "4", "--region-map", "none"), "--start-ts"),
        (("--region-map", "none", "--db", "/", "--storage", "/x", "--name", "../up"), "../up"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = process("backup", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_column_family_is_refused_by_name(store: TikvStore) -> None:
    done = backup(store, "--raw", "--cf", "nosuch")
    assert done.returncode == 2
    assert "nosuch" in done.stderr


@pytest.mark.parametrize("damage", ["block", "truncated", "missing", "manifest"])
def test_damage_is_corruption_that_names_the_file(store: TikvStore, damage: str) -> None:
    for i in range(3000):
        store.write_record(b"k%05d" % i, 20, b"P\x0av\x20" + os.urandom(32))
    store.close()
    victim = largest_sst(store.path)
    if damage == "block":
        content = bytearray(victim.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = os.urandom(64)
        victim.write_bytes(content)
    elif damage == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif damage == "missing":
        victim.unlink()
    else:
        victim = store.path / (store.path / "CURRENT").read_text().strip()
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0x10
        victim.write_bytes(content)
    done = backup(store, "--end-ts", END, "--json")
    report = json.loads(done.stdout)
    assert done.returncode in (1, 3)
    assert {error["kind"] for error in report["errors"]} == {"corruption"}
    assert victim.name in report["errors"][0]["message"]
    assert not metas(store)


def test_commits_that_are_only_in_the_log_of_a_killed_store(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from examples.tikv_store import TikvStore\n"
        "store = TikvStore(Path(sys.argv[1]))\n"
        "for i in range(500):\n"
        "    key = b'k%03d' % i\n"
        "    store.must_prewrite_put(key, b'v' * 40, key, 10)\n"
        "    store.must_commit(key, 10, 20)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    path = tmp_path / "store"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    before = listing(path)
    done = run(
        *("--db", path, "--region-map", "none", "--storage", tmp_path / "repo"),
        *("--end-ts", END, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total_kvs"] == 500
    assert listing(path) == before


def test_a_region_map_that_is_not_of_the_mode_names_file_region_and_field(
    store: TikvStore, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(
        '{"regions": [{"id": 7, "start_key": "", "end_key": "7A7A",'
        ' "epoch": {"conf_ver": 1, "version": 1}}]}'
    )
    store.close()
    done = run("--db", store.path, "--region-map", bad, "--storage", tmp_path / "r")
    assert done.returncode == 2
    for told in (str(bad), "region 7", "end_key"):
        assert told in done.stderr


def test_options_from_a_file_are_enough(tmp_path: Path) -> None:
    shared = require_shared() / "stores"
    line = read_oracle(shared / "mvcc-long.oracle")[4]
    (tmp_path / "bkctl.toml").write_text(
        f'db = "{shared / "mvcc-long"}"\n'
        f'region-map = "{shared / "mvcc-long"}.regions.json"\nstorage = "{tmp_path / "repo"}"\n'
    )
    done = process(
        *("backup", "--start-ts", str(line.start_ts), "--end-ts", str(line.end_ts), "--json"),
        cwd=tmp_path,
    )
    report = json.loads(done.stdout)
    assert (report["total_kvs"], int(report["crc64xor"], 16)) == (line.kvs, line.crc64xor)
    assert report["name"].endswith("-incr")
