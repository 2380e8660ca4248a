"""Files are found in the dictionary wherever the data directory is now, or told to be ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import SourceError
from bkctl.store.atrest.paths import PathFinder

SEEN = "/var/lib/tikv/a"
NAMES = [f"{SEEN}/db/000012.sst", f"{SEEN}/db/CURRENT", f"{SEEN}/raft-engine/1.raftlog"]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "copy" / "db").mkdir(parents=True)
    return tmp_path / "copy"


def found(finder: PathFinder, path: Path, names: list[str]) -> list[str]:
    """What of the paths to look under is in the dictionary."""
    return [name for name in finder.find(path, iter(names)) if name in names]


def finder(data_dir: Path, told: str = "") -> PathFinder:
    return PathFinder(data_dir, data_dir / "db", told)


def test_a_moved_directory_is_found_by_what_is_in_it(data_dir: Path) -> None:
    paths = finder(data_dir)
    assert found(paths, data_dir / "db" / "000012.sst", NAMES) == [NAMES[0]]
    assert found(paths, data_dir / "raft-engine" / "1.raftlog", NAMES) == [NAMES[2]]
    # A plain file beside them.
    assert found(paths, data_dir / "db" / "000013.sst", NAMES) == []


def test_files_below_the_rocksdb_are_of_the_same_directory(data_dir: Path) -> None:
    names = [*NAMES, f"{SEEN}/db/titandb/000007.blob", "/other/x/titandb/000007.blob"]
    assert found(finder(data_dir), data_dir / "db/titandb/000007.blob", names) == [names[3]]


def test_paths_may_be_relative_to_the_data_directory(data_dir: Path) -> None:
    names = ["db/000012.sst", "db/titandb/000007.blob", "raft-engine/1.raftlog"]
    paths = finder(data_dir)
    for name in names:
        assert found(paths, data_dir / name, names) == [name]
    dotted = [f"./{name}" for name in names]
    paths = finder(data_dir)
    for name in dotted:
        assert found(paths, data_dir / name, dotted) == [name]


def test_the_very_same_path_comes_first(data_dir: Path) -> None:
    here = f"{data_dir}/db/000012.sst"
    assert found(finder(data_dir), data_dir / "db" / "000012.sst", [*NAMES, here])[0] == here


def test_a_link_to_the_directory_is_the_directory(data_dir: Path, tmp_path: Path) -> None:
    here = [f"{data_dir}/db/000012.sst", f"{data_dir}/db/000013.sst"]
    link = tmp_path / "link"
    link.symlink_to(data_dir)
    assert found(finder(link), link / "db" / "000012.sst", here) == here[:1]


def test_several_data_directories_are_ambiguous_unless_tikv_says_which(data_dir: Path) -> None:
    names = [*NAMES, "/mnt/b/db/000012.sst"]
    with pytest.raises(SourceError, match=r"db of several data directories \(/mnt/b, /var"):
        finder(data_dir).find(data_dir / "db" / "000012.sst", names)
    path = data_dir / "db" / "000012.sst"
    assert found(finder(data_dir, "/mnt/b"), path, names) == ["/mnt/b/db/000012.sst"]
    assert found(finder(data_dir, SEEN), path, names) == [NAMES[0]]


def test_folders_may_have_lain_on_disks_of_their_own(data_dir: Path) -> None:
    names = ["/disk2/db/000012.sst", "/disk3/raft-engine/1.raftlog"]
    assert found(finder(data_dir), data_dir / "db" / "000012.sst", names) == names[:1]
    assert found(finder(data_dir), data_dir / "raft-engine" / "1.raftlog", names) == names[1:]


def test_dictionaries_beside_the_rocksdb_files(tmp_path: Path) -> None:
    paths = PathFinder(tmp_path, tmp_path, "")
    assert found(paths, tmp_path / "000012.sst", NAMES) == [NAMES[0]]


def test_logs_elsewhere_are_found_by_name(data_dir: Path, tmp_path: Path) -> None:
    wal = tmp_path / "wal"
    names = [*NAMES, "/fast/wal/000004.log"]
    assert found(finder(data_dir), wal / "000004.log", names) == names[3:]
    with pytest.raises(SourceError, match=r"000004\.log: file\.dict knows 2 files of that name"):
        finder(data_dir).find(wal / "000004.log", [*names, "/slow/wal/000004.log"])
    here = f"{wal}/000004.log"
    assert found(finder(data_dir), wal / "000004.log", [*names, here]) == [here]
