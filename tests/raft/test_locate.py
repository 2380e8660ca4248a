"""Which raft log of a data directory counts, and how it is pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import SourceError
from bkctl.raft.locate import EnginePlace, RocksPlace, find_raft_log
from bkctl.raft.pin import pin_raft_log
from tests.raft.logs import indexes, make_log
from tests.raft.test_rocksdb import records, write
from tests.raft.writer import FileWriter

OLD = "/var/lib/old"


def engine(folder: Path) -> EnginePlace:
    folder.mkdir(parents=True)
    FileWriter(folder, 1).write()
    return EnginePlace((folder,))


def rocks(folder: Path) -> RocksPlace:
    folder.mkdir(parents=True)
    (folder / "CURRENT").write_text("MANIFEST-000001\n")
    return RocksPlace(folder, None)


def settings(folder: Path, **sections: dict[str, str]) -> None:
    lines = ["[storage]", f'data-dir = "{OLD}"']
    for section, values in sections.items():
        lines.append(f"[{section.replace('_', '-')}]")
        lines += [f'{name.replace("_", "-")} = "{value}"' for name, value in values.items()]
    (folder / "last_tikv.toml").write_text("\n".join(lines))


def test_a_directory_without_a_raft_log(tmp_path: Path) -> None:
    assert find_raft_log(tmp_path) is None
    (tmp_path / "raft-engine").mkdir()
    (tmp_path / "raft-engine" / "LOCK").write_bytes(b"")
    (tmp_path / "raft").write_bytes(b"a file")
    assert find_raft_log(tmp_path) is None


@pytest.mark.parametrize("name", ["raft-engine", "raft/raft-engine"])
def test_raft_engine_is_found(tmp_path: Path, name: str) -> None:
    place = engine(tmp_path / name)
    assert find_raft_log(tmp_path) == place


def test_a_rocksdb_is_found(tmp_path: Path) -> None:
    place = rocks(tmp_path / "raft")
    assert find_raft_log(tmp_path) == place


def test_directories_that_the_settings_name_are_looked_for_where_the_store_is_now(
    tmp_path: Path,
) -> None:
    place = engine(tmp_path / "logs" / "engine")
    settings(tmp_path, raft_engine={"dir": f"{OLD}/logs/engine"})
    assert find_raft_log(tmp_path) == place


def test_directories_outside_of_the_data_directory_are_taken_as_they_are_named(
    tmp_path: Path,
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    place = engine(other)
    settings(store, raft_engine={"dir": str(other), "spill_dir": str(tmp_path / "spill")})
    assert find_raft_log(store) == EnginePlace((*place.folders, tmp_path / "spill"))
    # A store that was moved, and its log with it, has nothing to do with what is there now.
    beside = engine(store / "raft-engine")
    assert find_raft_log(store) == EnginePlace((*beside.folders, tmp_path / "spill"))


def test_settings_for_the_rocksdb(tmp_path: Path) -> None:
    place = rocks(tmp_path / "elsewhere")
    settings(
        tmp_path,
        raftstore={"raftdb_path": f"{OLD}/elsewhere"},
        raftdb={"wal_dir": f"{OLD}/wal"},
        raft_engine={"dir": "", "spill_dir": ""},
    )
    assert find_raft_log(tmp_path) == RocksPlace(place.path, tmp_path / "wal")


def test_two_logs_are_told(tmp_path: Path) -> None:
    engine(tmp_path / "raft-engine")
    rocks(tmp_path / "raft")
    with pytest.raises(SourceError, match="two raft logs"):
        find_raft_log(tmp_path)


@pytest.mark.parametrize("name", ["raft", "raft-engine"])
def test_of_two_logs_the_one_that_is_being_copied_counts(tmp_path: Path, name: str) -> None:
    engine(tmp_path / "raft-engine")
    rocks(tmp_path / "raft")
    settings(tmp_path)
    (tmp_path / "MIGRATING-RAFT").write_text(f"{OLD}/{name}//")
    found = find_raft_log(tmp_path)
    assert isinstance(found, RocksPlace if name == "raft" else EnginePlace)
    (tmp_path / "MIGRATING-RAFT").write_text(f"{OLD}/{name}")
    with pytest.raises(SourceError, match="two raft logs"):
        find_raft_log(tmp_path)


@pytest.mark.parametrize("content", [b"[storage", b"\xff\xfe", b"raft-engine = 3\nstorage = []"])
def test_settings_that_cannot_be_read_are_told(tmp_path: Path, content: bytes) -> None:
    place = engine(tmp_path / "raft-engine")
    (tmp_path / "last_tikv.toml").write_bytes(content)
    if content.startswith(b"raft"):
        assert find_raft_log(tmp_path) == place
    else:
        with pytest.raises(SourceError, match=r"last_tikv\.toml: damaged"):
            find_raft_log(tmp_path)


@pytest.mark.parametrize("is_live", [False, True])
def test_either_kind_is_pinned_and_read(tmp_path: Path, is_live: bool) -> None:
    stores = tmp_path / "engine", tmp_path / "rocks"
    (stores[0] / "raft-engine").mkdir(parents=True)
    make_log(stores[0] / "raft-engine")
    stores[1].mkdir()
    write(stores[1] / "raft", records(), [])
    work = tmp_path / "work"
    work.mkdir()
    for store in stores:
        place = find_raft_log(store)
        assert place is not None
        with pin_raft_log(place, work, is_live=is_live) as pinned:
            assert indexes(pinned.read({}), 3, 10, 50) == [*range(10, 50)]
        assert not [*work.iterdir()]
