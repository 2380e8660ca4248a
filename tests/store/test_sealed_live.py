"""An encrypted store that goes on running is read as of one moment."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from bkctl.store.atrest.dictionary import AtRest
from bkctl.store.source import SourceOptions
from tests.store.at_rest import INSERT, EncryptedStore, encrypt_store, record
from tests.store.sealed import (
    fill,
    options_of,
    read,
)

pytestmark = pytest.mark.usefixtures("shared_memory")


@contextlib.contextmanager
def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], None]) -> Iterator[None]:
    """Let a running TiKV act whenever the dictionary is about to be read."""
    refresh, calls = AtRest.refresh, iter(range(1000))

    def changed(self: AtRest) -> None:
        change(next(calls))
        refresh(self)

    with monkeypatch.context() as patched:
        patched.setattr(AtRest, "refresh", changed)
        yield


@pytest.fixture
def moving_store(tmp_path: Path) -> tuple[EncryptedStore, Path]:
    """An encrypted store, and the files of it later: flushed, compacted, with a new data key."""
    data = tmp_path / "data"
    fill(data / "db")
    plain = shutil.copytree(data, tmp_path / "plain")
    store = encrypt_store(data)
    later = shutil.copytree(data, tmp_path / "later")
    families = {name: Options(raw_mode=True) for name in ("lock", "write", "raft")}
    db = Rdict(str(plain / "db"), Options(raw_mode=True), column_families=families)
    write = db.get_column_family("write")
    for i in range(1000):
        write[b"z%06d" % i] = b"newer"
    write.flush()
    write.compact_range(None, None)
    db.close()
    store.path = later
    store.rotate()
    names = {path.name for path in (plain / "db").iterdir()}
    for path in (later / "db").iterdir():
        if path.name not in names:
            path.unlink()
            store.infos.pop(f"{store.seen_at}/db/{path.name}", None)
    for path in (plain / "db").iterdir():
        if path.suffix in (".sst", ".log") or path.name.startswith(("MANIFEST-", "OPTIONS-")):
            if not (later / "db" / path.name).exists():
                shutil.copyfile(path, later / "db" / path.name)
                store.encrypt(f"db/{path.name}")
        elif path.name == "CURRENT":
            shutil.copyfile(path, later / "db" / path.name)
    store.write_file_dict()
    store.path = data
    return store, later


@pytest.mark.parametrize("moment", range(8))
def test_a_store_that_moves_on_is_read_as_of_one_moment(
    moving_store: tuple[EncryptedStore, Path], monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    store, later = moving_store
    before = read(options_of(store))
    behind = read(SourceOptions(later, master_key=store.key_file))
    assert before != behind
    moved = False

    def change(call: int) -> None:
        nonlocal moved
        if call != moment:
            return
        moved = True
        # In TiKV's order: keys and entries come before files, and go after them.
        for name in ("key.dict", "file.dict"):
            shutil.copyfile(later / name, store.path / f"{name}.tmp")
            (store.path / f"{name}.tmp").rename(store.path / name)
        for path in (later / "db").iterdir():
            if not (store.path / "db" / path.name).exists():
                shutil.copyfile(path, store.path / "db" / path.name)
        shutil.copyfile(later / "db" / "CURRENT", store.path / "db" / "CURRENT.tmp")
        (store.path / "db" / "CURRENT.tmp").rename(store.path / "db" / "CURRENT")
        for path in (store.path / "db").iterdir():
            if not (later / "db" / path.name).exists():
                path.unlink()

    with changing(monkeypatch, change):
        found = read(options_of(store))
    assert found == (behind if moved else before)


def test_entries_that_came_after_the_first_look_are_found(
    plain_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(SourceOptions(plain_store))
    store = encrypt_store(plain_store)
    sst = {name: info for name, info in store.infos.items() if name.endswith(".sst")}
    store.infos = {name: info for name, info in store.infos.items() if name not in sst}
    store.write_file_dict()

    def change(call: int) -> None:
        # The MANIFEST is decrypted by now, no SST file looked for yet.
        if call == 3:
            with (store.path / "file.dict").open("ab") as file:
                for name, info in sst.items():
                    file.write(record(INSERT, name, info))

    with changing(monkeypatch, change):
        assert read(options_of(store)) == expected
