from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import STAGING_FOLDER, AlreadyExistsError, NotFoundError
from bkctl.storage.local import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "deep" / "root")


def root_of(storage: LocalStorage) -> Path:
    return Path(storage.url.removeprefix("local://"))


def all_files(storage: LocalStorage) -> set[str]:
    root = root_of(storage)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def names(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [info.name for info in storage.list(prefix)]


def test_what_is_written_is_read_back_and_replaced_whole(storage: LocalStorage) -> None:
    storage.write("a/b", b"one")
    storage.write("a/b", b"second")
    assert storage.read("a/b") == b"second"
    info = storage.stat("a/b")
    assert info is not None
    assert (info.name, info.size) == ("a/b", 6)
    assert info.modified == os.stat(root_of(storage) / "a/b").st_mtime
    assert all_files(storage) == {"a/b"}


def test_create_refuses_a_name_that_is_taken_and_keeps_its_content(storage: LocalStorage) -> None:
    storage.create("a/lock", b"first")
    with pytest.raises(AlreadyExistsError, match=r"local:///.*: a/lock: exists already"):
        storage.create("a/lock", b"second")
    assert storage.read("a/lock") == b"first"
    assert all_files(storage) == {"a/lock"}


def test_create_works_where_there_are_no_hard_links(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", raising(errno.EPERM))
    storage.create("lock", b"first")
    with pytest.raises(AlreadyExistsError):
        storage.create("lock", b"second")
    assert storage.read("lock") == b"first"
    assert all_files(storage) == {"lock"}


def test_a_saved_file_is_moved_without_a_copy(storage: LocalStorage) -> None:
    staging = storage.staging_dir("backup")
    assert stat.S_IMODE(staging.stat().st_mode) == 0o700
    source = staging / "x"
    source.write_bytes(b"content")
    inode = source.stat().st_ino
    storage.save_file("backup/x.sst", source)
    assert not source.exists()
    assert (root_of(storage) / "backup/x.sst").stat().st_ino == inode
    assert storage.read("backup/x.sst") == b"content"


@pytest.mark.parametrize("kind", ["link", "folder", "file"])
def test_a_staging_directory_is_made_anew_whatever_has_its_name(
    kind: str, storage: LocalStorage, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    found = root_of(storage) / "backup" / STAGING_FOLDER
    found.parent.mkdir(parents=True)
    if kind == "link":
        found.symlink_to(victim)
    elif kind == "file":
        found.write_bytes(b"")
    else:
        found.mkdir(0o777)
        (found / "link").symlink_to(victim)
    staging = storage.staging_dir("backup")
    assert (stat.S_IMODE(staging.lstat().st_mode), list(staging.iterdir())) == (0o700, [])
    assert (victim / "file").read_bytes() == b"precious"


def test_a_file_from_another_file_system_is_copied_and_deleted(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"content" * 500_000)
    rename = os.rename

    def rename_within(src: str, dst: str, **handles: int) -> None:
        if "src_dir_fd" not in handles:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(src, dst, **handles)

    monkeypatch.setattr(os, "rename", rename_within)
    storage.save_file("backup/x.sst", source)
    assert not source.exists()
    assert storage.read("backup/x.sst") == b"content" * 500_000
    assert all_files(storage) == {"backup/x.sst"}


def test_a_saved_file_must_be_a_file(storage: LocalStorage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(__file__)
    for source in ("pipe", "link", "missing", "."):
        with pytest.raises(StorageError):
            storage.save_file("x", tmp_path / source)
    assert names(storage) == []


def test_temporary_files_are_never_listed_and_can_be_discarded(storage: LocalStorage) -> None:
    storage.write("backup/x", b"1")
    folder = root_of(storage) / "backup"
    staging = storage.staging_dir("backup")
    assert staging == folder / STAGING_FOLDER
    (staging / "half").write_bytes(b"")
    (staging / "sub").mkdir()
    (staging / "sub" / "link").symlink_to(folder)
    (staging / "folder-link").symlink_to(folder)
    (folder / ".bkctl-tmp-1").write_bytes(b"")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / ".bkctl-tmp-2").write_bytes(b"")
    elsewhere = root_of(storage) / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".bkctl-tmp-3").write_bytes(b"")
    (folder / "link").symlink_to(elsewhere)
    assert names(storage) == ["backup/x"]
    assert storage.list_folders("backup") == ("checkpoint",)
    storage.discard_staging("backup")
    storage.discard_staging("backup")
    storage.discard_staging("other")
    assert sorted(path.name for path in folder.iterdir()) == ["link", "x"]
    assert [path.name for path in elsewhere.iterdir()] == [".bkctl-tmp-3"]


def test_listing_is_sorted_by_whole_names_and_recursive(storage: LocalStorage) -> None:
    for name in ("b", "a/z", "a-b/x", "a/c/y", "a.x"):
        storage.write(name, b"")
    assert names(storage) == ["a-b/x", "a.x", "a/c/y", "a/z", "b"]
    assert names(storage, "a") == names(storage, "a/") == ["a/c/y", "a/z"]
    assert storage.list_folders() == ("a", "a-b")
    assert storage.list_folders("a") == ("c",)


def test_what_is_not_there_is_none_or_nothing_or_named(storage: LocalStorage) -> None:
    storage.write("x", b"")
    assert storage.stat("y") is None
    assert storage.stat("a/b/c") is None
    assert names(storage, "a") == []
    assert storage.list_folders("a") == ()
    storage.delete("y")
    storage.delete("a/b/c")
    for missing in ("y", "a/b"):
        with pytest.raises(NotFoundError, match=f"{missing}: no such object"):
            storage.read(missing)


def test_a_missing_root_is_an_error_to_list_but_not_to_look_into(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "mistyped")
    with pytest.raises(StorageError, match="mistyped: cannot be listed"):
        storage.list_folders()
    with pytest.raises(StorageError, match="mistyped: cannot be listed"):
        names(storage)
    assert storage.stat("a/b") is None
    assert names(storage, "a") == []
    assert not (tmp_path / "mistyped").exists()


def test_delete_takes_empty_folders_along_but_never_the_root(storage: LocalStorage) -> None:
    storage.write("a/b/c", b"")
    storage.write("a/d", b"")
    storage.delete("a/b/c")
    assert storage.list_folders("a") == ()
    assert names(storage) == ["a/d"]
    storage.delete("a/d")
    assert storage.list_folders() == ()
    assert root_of(storage).is_dir()


def test_any_part_of_an_object_can_be_read(storage: LocalStorage) -> None:
    storage.write("x", b"0123456789")
    with storage.open("x") as reader:
        assert reader.size == 10
        assert reader.read_at(0, 4) == b"0123"
        assert reader.read_at(8, 1 << 62) == b"89"
        assert reader.read_at(10, 1) == reader.read_at(1 << 62, 5) == b""
        with pytest.raises(ValueError, match="-1"):
            reader.read_at(-1, 2)
    reader.close()
    with pytest.raises(StorageError, match="x: cannot be read"):
        reader.read_at(0, 1)


def test_an_object_above_the_limit_is_refused_and_not_cut(storage: LocalStorage) -> None:
    storage.write("x", b"12345")
    assert storage.read("x", limit=5) == b"12345"
    with pytest.raises(StorageError, match="x: has 5 bytes where at most 4"):
        storage.read("x", limit=4)


@pytest.mark.parametrize("target", ["outside", "inside"])
def test_symbolic_links_are_not_followed(
    storage: LocalStorage, tmp_path: Path, target: str
) -> None:
    storage.write("inside/secret", b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"outside")
    aim = tmp_path / "outside" if target == "outside" else root_of(storage) / "inside"
    (root_of(storage) / "folder").symlink_to(aim)
    (root_of(storage) / "file").symlink_to(aim / "secret")
    source = tmp_path / "source"
    source.write_bytes(b"new")
    attempts: list[Callable[[], object]] = [
        lambda: storage.read("folder/secret"),
        lambda: storage.read("file"),
        lambda: storage.write("folder/secret", b"new"),
        lambda: storage.create("folder/new", b"new"),
        lambda: storage.save_file("folder/secret", source),
        lambda: storage.delete("folder/secret"),
        lambda: storage.staging_dir("folder"),
        lambda: storage.discard_staging("folder"),
        lambda: names(storage, "folder"),
        lambda: storage.stat("folder/secret"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="symbolic link"):
            attempt()
    assert names(storage) == ["inside/secret"]
    assert storage.list_folders() == ("inside",)
    assert storage.stat("file") is None
    storage.write("file", b"replaces the link, not its target")
    assert (aim / "secret").read_bytes() == target.encode()


def test_names_are_checked_by_every_method(storage: LocalStorage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"")
    attempts: list[Callable[[str], object]] = [
        storage.stat,
        storage.read,
        storage.open,
        storage.delete,
        storage.staging_dir,
        storage.discard_staging,
        storage.list_folders,
        lambda name: list(storage.list(name)),
        lambda name: storage.write(name, b""),
        lambda name: storage.create(name, b""),
        lambda name: storage.save_file(name, source),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="is refused"):
            attempt("../source")
    assert source.exists()


def raising(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "check"),
    [
        (errno.ENOSPC, "No space left on device.*free space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "Permission denied.*permissions"),
        (errno.EROFS, "Read-only file system.*writable"),
        (errno.EIO, "Input/output error.*kernel log"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "open", "mkdir"])
def test_a_full_or_closed_disk_is_one_clear_line_and_leaves_nothing(
    storage: LocalStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    check: str,
    step: str,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, raising(code))
        attempts: list[Callable[[], None]] = [
            lambda: storage.write("a/x", b"1"),
            lambda: storage.create("a/x", b"1"),
            lambda: storage.save_file("a/x", source),
        ]
        for attempt in attempts:
            with pytest.raises(StorageError, match=check) as e:
                attempt()
            assert str(e.value).startswith(f"{storage.url}: a/x: cannot be ")
            assert "\n" not in str(e.value)
    assert source.read_bytes() == b"kept"
    assert not root_of(storage).exists() or all_files(storage) == set()


def test_a_file_in_the_place_of_a_folder_is_one_clear_line(storage: LocalStorage) -> None:
    storage.write("a", b"")
    with pytest.raises(StorageError, match=r"a/x: cannot be written \(Not a directory\)"):
        storage.write("a/x", b"")
    storage.write("b/c", b"")
    with pytest.raises(StorageError, match=r"b: cannot be written \(Is a directory\)"):
        storage.write("b", b"")
    with pytest.raises(StorageError, match="b: is not a regular file"):
        storage.read("b")
    with pytest.raises(StorageError, match="File name too long"):
        storage.write("n" * 300, b"")
    assert all_files(storage) == {"a", "b/c"}


def test_a_replacement_that_fails_leaves_the_old_object(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("x", b"old")
    for step in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, raising(errno.ENOSPC))
            with pytest.raises(StorageError):
                storage.write("x", b"new")
        assert storage.read("x") == b"old"
        assert all_files(storage) == {"x"}


def test_the_name_of_a_folder_is_made_durable_once_each_time_it_is_made(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("x", b"")
    synced: list[int] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    root = root_of(storage).stat().st_ino
    for _ in range(2):
        synced.clear()
        storage.write("a/x", b"")
        storage.write("a/y", b"")
        assert synced.count(root) == 1
        storage.delete("a/x")
        storage.delete("a/y")
    # One that somebody else made may not be durable yet.
    (root_of(storage) / "b").mkdir()
    synced.clear()
    storage.write("b/x", b"")
    storage.write("b/y", b"")
    assert synced.count(root) == 1


def test_files_that_cannot_be_objects_are_passed_over(storage: LocalStorage) -> None:
    storage.write("x", b"")
    root = root_of(storage)
    (root / "lost+found").mkdir()
    (root / "new\nline").write_bytes(b"")
    (Path(os.fsdecode(bytes(root) + b"/\xff"))).write_bytes(b"")
    os.mkfifo(root / "pipe")
    assert names(storage) == ["x"]
    assert storage.list_folders() == ()
    assert storage.stat("pipe") is None
    with pytest.raises(StorageError, match="regular file"):
        storage.read("pipe")


def test_many_calls_keep_no_file_open(storage: LocalStorage, tmp_path: Path) -> None:
    def call_everything() -> None:
        storage.write("a/b/x", b"1")
        storage.create("a/b/y", b"1")
        (tmp_path / "source").write_bytes(b"1")
        storage.save_file("a/z", tmp_path / "source")
        storage.staging_dir("a")
        storage.discard_staging("a")
        storage.read("a/z")
        names(storage)
        storage.list_folders("a")
        for bad in ("a", "a/none", "a/z/w"):
            with pytest.raises(StorageError):
                storage.read(bad)
        storage.delete("a/b/y")

    call_everything()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        call_everything()
    assert len(os.listdir("/proc/self/fd")) == before
