"""Verifying whole backups on workers: nothing wrong is missed, no failure passes for whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import StorageError, UsageError
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions
from bkctl.verify.level import Level
from bkctl.verify.verify import Against, Verification, Verifier
from examples.make_store import END_TS, MID_TS
from examples.tikv_store import TikvStore
from tests.archive.made_backups import MadeBackup
from tests.backup.helpers import Quiet, backup, files_of, regions_from, whole
from tests.conftest import SampleStore
from tests.oracles import read_oracle, require_shared


def verify(
    repository: Path,
    name: str = "b",
    level: Level = Level.DEEP,
    jobs: int = 1,
    listener: Quiet | None = None,
    against: Against | None = None,
) -> Verification:
    with Verifier(parse_storage(str(repository)), level, jobs) as verifier:
        return verifier.verify(name, listener or Quiet(), against)


def against(store: Path, region_map: Path | None = None) -> Against:
    return Against(SourceOptions(store), regions_from(region_map) if region_map else None)


@pytest.fixture
def repository(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A repository with a backup `b` of the sample store as of its end."""
    backup(sample_store.path, tmp_path / "repo", end_ts=END_TS, name="b")
    return tmp_path / "repo"


def test_the_real_backup_of_a_cluster_is_whole() -> None:
    found = verify(require_shared(), "br-raw-v5.2.1")
    assert (found.status, found.files, found.checked_bytes) == ("ok", 2, 6122 + 6161)


@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_backups_of_real_stores_are_whole_and_what_the_store_has(name: str, tmp_path: Path) -> None:
    stores = require_shared() / "stores"
    region_map = stores / f"{name}.regions.json"
    for number, line in enumerate(read_oracle(stores / f"{name}.oracle")[3:6]):
        backup(
            stores / name,
            tmp_path,
            start_ts=line.start_ts,
            end_ts=line.end_ts,
            name=f"b{number}",
            sst_max_size=200_000,
        )
        found = verify(tmp_path, f"b{number}", jobs=2, against=against(stores / name, region_map))
        assert found.status == "ok"
        assert found.differences is not None
        assert found.differences.total == 0
        assert found.files == len(files_of(tmp_path, f"b{number}"))


@pytest.mark.parametrize("level", list(Level))
def test_each_level_finds_its_share(level: Level, repository: Path) -> None:
    folder = repository / "b"
    first, second, third = sorted(folder.glob("*_write.sst"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-7])
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 4
    third.write_bytes(content)
    shutil.copy(second, folder / "stray.sst")
    found = verify(repository, level=level, jobs=2)
    assert found.status == "damaged"
    expected = {first.name, second.name, "stray.sst"}
    assert {damage.file for damage in found.damages} >= expected
    assert (third.name in {damage.file for damage in found.damages}) == (level != Level.SIZE)
    assert len(set(found.damages)) == len(found.damages)
    assert sum(damage.what == "is missing" for damage in found.damages) == 1


def test_flips_at_many_places_are_all_named_in_one_run(repository: Path) -> None:
    rng = random.Random(1)
    files = sorted((repository / "b").glob("*.sst"))
    for path in files:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    for level in (Level.SHA256, Level.DEEP):
        found = verify(repository, level=level)
        assert {damage.file for damage in found.damages} == {path.name for path in files}


def test_levels_tell_what_they_read(repository: Path) -> None:
    size = sum(path.stat().st_size for path in (repository / "b").glob("*.sst"))
    assert verify(repository, level=Level.SIZE).checked_bytes == 0
    assert verify(repository, level=Level.SHA256).checked_bytes == size
    assert verify(repository, level=Level.DEEP).checked_bytes == size


def test_a_backup_without_files_is_whole(sample_store: SampleStore, tmp_path: Path) -> None:
    backup(sample_store.path, tmp_path / "repo", end_ts=1, name="b")
    assert verify(tmp_path / "repo").status == "ok"


def test_a_listener_hears_of_every_pair_and_its_damage(repository: Path) -> None:
    damaged = min((repository / "b").glob("*_write.sst"))
    damaged.write_bytes(b"no sst file")
    events: list[str] = []
    listener = Quiet(events.append)
    verify(repository, listener=listener)
    assert events[0] == "started"
    assert events[-1] == "finished"
    pairs = {(file.start_key, file.end_key) for file in files_of(repository, "b")}
    assert events.count("range_started") == len(pairs)
    assert events.count("range_done") == len(pairs) - 1
    [message] = listener.failed
    assert message.startswith(damaged.name)


def test_the_newest_is_the_one_completed_last(sample_store: SampleStore, repository: Path) -> None:
    backup(sample_store.path, repository, end_ts=MID_TS, name="a")
    os.utime(repository / "b" / "backupmeta", (1, 1))
    (repository / "unfinished").mkdir()
    (repository / "unfinished" / "backup.lock").write_bytes(b"{}")
    with Verifier(parse_storage(str(repository)), Level.SIZE, 1) as verifier:
        assert verifier.newest() == "a"
        assert verifier.all_names() == ["a", "b"]


def test_a_repository_without_a_backup_is_a_usage_error(tmp_path: Path) -> None:
    with (
        Verifier(parse_storage(str(tmp_path)), Level.SIZE, 1) as verifier,
        pytest.raises(UsageError, match="no complete backup"),
    ):
        verifier.newest()
    with pytest.raises(UsageError, match="does not exist"):
        verify(tmp_path, "x")


def test_a_worker_that_dies_is_an_error_and_the_others_go_on(repository: Path) -> None:
    killed: list[int] = []

    def kill_first(event: str) -> None:
        if event == "range_started" and not killed:
            killed.extend(_workers())
            os.kill(killed[0], signal.SIGSTOP)  # so that it cannot end before the kill
            os.kill(killed[0], signal.SIGKILL)

    listener = Quiet(kill_first)
    found = verify(repository, listener=listener)
    assert not found.damages
    if found.errors:  # the worker may have sent its result before
        assert found.status == "failed"
        assert "the worker process died: killed by SIGKILL" in found.errors[0]
        assert len(found.errors) == 1


def _workers() -> list[int]:
    pid = os.getpid()
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [
        child
        for child in map(int, text.split())
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_a_file_that_cannot_be_read_is_an_error(repository: Path) -> None:
    path = min((repository / "b").glob("*_write.sst"))
    path.unlink()
    path.symlink_to(path.name)
    found = verify(repository, level=Level.SHA256)
    assert [error.split(": ")[0] for error in found.errors] == ["storage"]
    assert path.name in found.errors[0]


def test_a_store_that_has_collected_what_was_backed_up_differs(
    sample_store: SampleStore, repository: Path, tmp_path: Path
) -> None:
    assert verify(repository, against=against(sample_store.path)).status == "ok"
    other = TikvStore(tmp_path / "other")
    other.close()
    found = verify(repository, level=Level.SIZE, against=against(other.path))
    assert found.status == "differs"
    assert found.differences is not None
    kvs = sum(file.total_kvs for file in files_of(repository, "b"))
    assert found.differences.total == kvs
    assert len(found.differences.first) == 10
    assert sorted(d.raw_key for d in found.differences.first) == [
        d.raw_key for d in found.differences.first
    ]


def test_what_has_no_file_is_missed_only_with_a_region_map(tmp_path: Path) -> None:
    store = TikvStore(tmp_path / "store")
    for raw_key in (b"a", b"b"):
        store.must_prewrite_put(raw_key, b"v", raw_key, 5)
        store.must_commit(raw_key, 5, 10)
    store.set_regions([(1, b"", b"b", 1), (2, b"b", b"", 1)])
    store.write_region_map(tmp_path / "map.json")
    store.close()
    made = MadeBackup(tmp_path)
    made.publish()

    def differing(given: Against) -> int | None:
        found = verify(made.repository, against=given)
        assert found.differences is not None
        return found.differences.total

    source = SourceOptions(tmp_path / "store")
    assert differing(Against(source)) == 0
    assert differing(Against(source, regions_from(tmp_path / "map.json"))) == 2
    assert differing(Against(source, whole)) == 2


def test_only_the_window_that_was_backed_up_is_compared(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    cut = b"t\x80\x00\x00\x00\x00\x00\x00\x65"
    backup(sample_store.path, tmp_path / "repo", end_ts=END_TS, name="b", end_key=cut)
    given = against(sample_store.path, sample_store.region_map)
    found = verify(tmp_path / "repo", against=given)
    assert found.status == "ok"


def test_raw_backups_are_compared_by_pairs(tmp_path: Path) -> None:
    store = TikvStore(tmp_path / "store")
    for i in range(2000):
        store.put_raw(b"k%04d" % i, b"v%d" % i)
    store.close()
    backup(tmp_path / "store", tmp_path / "repo", end_ts=1, is_raw=True, name="b")
    given = Against(SourceOptions(tmp_path / "store"), whole)
    found = verify(tmp_path / "repo", against=given)
    assert (found.status, found.files) == ("ok", 1)
    other = TikvStore(tmp_path / "other")
    other.put_raw(b"k0001", b"else")
    other.close()
    found = verify(tmp_path / "repo", against=Against(SourceOptions(tmp_path / "other"), whole))
    assert found.status == "differs"
    assert found.differences is not None
    assert found.differences.total == 2000


def test_damage_in_the_store_is_an_error(
    sample_store: SampleStore, repository: Path, flip_bytes: Callable[[Path, int, int], None]
) -> None:
    largest = max(sample_store.path.glob("*.sst"), key=lambda path: path.stat().st_size)
    flip_bytes(largest, largest.stat().st_size // 3, 64)
    found = verify(repository, level=Level.SIZE, against=against(sample_store.path))
    assert found.status == "failed"
    assert all(error.startswith("corruption: ") for error in found.errors)


def test_versioned_raw_pairs_are_held_against_their_layout(tmp_path: Path) -> None:
    made = MadeBackup(tmp_path, is_raw_kv=True, api_version=2)
    made.add("default", [(b"zk", b"v")])
    made.publish()
    found = verify(made.repository, level=Level.DEEP)
    assert [damage.what for damage in found.damages if "versioned" in damage.what]
    assert verify(made.repository, level=Level.SHA256).status == "ok"


def test_an_error_ends_the_workers(repository: Path) -> None:
    def fail(verifier: Verifier) -> None:
        with verifier:
            verifier.verify("b", Quiet())
            assert _workers()
            raise StorageError("x")

    with pytest.raises(StorageError):
        fail(Verifier(parse_storage(str(repository)), Level.DEEP, 1))
    assert not _workers()
