"""The contract of Storage, held to by every implementation of it alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import AlreadyExistsError, ChangedError, NotFoundError, Storage
from bkctl.storage.metrics import Metrics
from bkctl.storage.url import open_storage, parse_storage
from tests.storage.servers import gcs_server, s3_server

pytestmark = pytest.mark.xdist_group("object-stores")

CHUNK = 5 << 20
KEYS = "access-key=a&secret-access-key=b&region=us-east-1"


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """The URL of each kind, without its prefix; `{}` stands for that."""
    with ExitStack() as stack:
        gcs, s3 = stack.enter_context(gcs_server()), stack.enter_context(s3_server())
        yield {
            "gcs": f"gcs://bucket/{{}}?endpoint={gcs}&chunk-size=1MiB",
            "s3": f"s3://bucket/{{}}?endpoint={s3}&{KEYS}&chunk-size={CHUNK}",
        }


@pytest.fixture(params=["local", "gcs", "s3", "gcs-counted"])
def storage(
    request: pytest.FixtureRequest, urls: dict[str, str], tmp_path: Path
) -> Iterator[Storage]:
    kind, _, counted = str(request.param).partition("-")
    url = str(tmp_path / "root") if kind == "local" else urls[kind].format(uuid4().hex)
    with open_storage(parse_storage(url), Metrics() if counted else None) as opened:
        yield opened


def names(storage: Storage, prefix: str = "", after: str = "") -> list[str]:
    return [info.name for info in storage.list(prefix, after)]


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / uuid4().hex
    path.write_bytes(content)
    return path


def test_what_is_written_is_read_back_and_replaced(storage: Storage) -> None:
    for content in (b"one", b"second", b""):
        storage.write("a/b", content)
        assert storage.read("a/b") == content
        info = storage.stat("a/b")
        assert info is not None
        assert (info.name, info.size) == ("a/b", len(content))
        assert info.modified > 1.7e9
    assert names(storage) == ["a/b"]


def test_what_is_not_there_is_told_so(storage: Storage) -> None:
    assert storage.stat("none") is None
    for read in (storage.read, storage.open):
        with pytest.raises(NotFoundError, match="none: no such object"):
            read("none")
    storage.delete("none")
    assert names(storage, "none") == []
    assert storage.list_folders("none") == ()


def test_create_refuses_a_name_that_is_taken_and_keeps_its_content(storage: Storage) -> None:
    storage.create("a/lock", b"first")
    with pytest.raises(AlreadyExistsError, match="a/lock: exists already"):
        storage.create("a/lock", b"second")
    with pytest.raises(AlreadyExistsError):
        storage.create("a/lock", b"first")
    assert storage.read("a/lock") == b"first"


def test_of_many_threads_that_create_exactly_one_wins(storage: Storage) -> None:
    barrier = threading.Barrier(6)
    won: list[bytes] = []

    def contend(content: bytes) -> None:
        barrier.wait()
        try:
            storage.create("a/lock", content)
        except AlreadyExistsError:
            return
        won.append(content)

    threads = [threading.Thread(target=contend, args=(b"%d" % i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("a/lock") == won[0]


def test_an_exchange_replaces_or_removes_only_what_it_expects(storage: Storage) -> None:
    storage.create("a/lock", b"first")
    storage.exchange("a/lock", b"first", b"second, longer")
    assert storage.read("a/lock") == b"second, longer"
    for old in (b"first", b"second, shorter", b"", b"second, longer and longer"):
        for new in (b"third", None):
            with pytest.raises(ChangedError, match="a/lock: is not as it was"):
                storage.exchange("a/lock", old, new)
    assert storage.read("a/lock") == b"second, longer"
    storage.exchange("a/lock", b"second, longer", None)
    assert storage.stat("a/lock") is None
    for new in (b"third", None):
        with pytest.raises(ChangedError):
            storage.exchange("a/lock", b"second, longer", new)
        with pytest.raises(ChangedError):
            storage.exchange("none", b"", new)
    assert names(storage) == []


def test_of_many_threads_that_exchange_exactly_one_wins(storage: Storage) -> None:
    storage.create("a/lock", b"left behind")
    for turn in range(5):
        barrier = threading.Barrier(6)
        before = storage.read("a/lock")
        won: list[bytes] = []

        def contend(
            content: bytes,
            barrier: threading.Barrier = barrier,
            before: bytes = before,
            won: list[bytes] = won,
        ) -> None:
            barrier.wait()
            try:
                storage.exchange("a/lock", before, content)
            except ChangedError:
                return
            won.append(content)

        threads = [
            threading.Thread(target=contend, args=(b"%d of %d" % (i, turn),)) for i in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read("a/lock") == won[0]


def test_a_larger_object_than_expected_is_refused_not_cut(storage: Storage) -> None:
    storage.write("x", b"12345")
    assert storage.read("x", 5) == b"12345"
    with pytest.raises(StorageError, match="has 5 bytes where at most 4"):
        storage.read("x", 4)


def test_any_part_of_an_object_can_be_read(storage: Storage) -> None:
    content = bytes(range(256)) * 40
    storage.write("x", content)
    with storage.open("x") as reader:
        assert reader.size == len(content)
        for offset, length in ((0, 10), (250, 20), (10235, 100), (0, 1 << 40), (99999, 1), (5, 0)):
            assert reader.read_at(offset, length) == content[offset : offset + length]
        for offset, length in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError, match="read of"):
                reader.read_at(offset, length)
    storage.write("empty", b"")
    with storage.open("empty") as reader:
        assert (reader.size, reader.read_at(0, 10)) == (0, b"")


def test_listings_are_sorted_by_name_and_keep_to_their_folder(storage: Storage) -> None:
    for name in ("b/2", "a/1", "b-c/3", "b/x/4", "5", "bb/6", "ä/7"):
        storage.write(name, name.encode())
    everything = sorted(["b/2", "a/1", "b-c/3", "b/x/4", "5", "bb/6", "ä/7"])
    assert names(storage) == everything
    assert names(storage, "b") == names(storage, "b/") == ["b/2", "b/x/4"]
    assert names(storage, "b", after="b/2") == ["b/x/4"]
    for name in everything:
        assert names(storage, after=name) == [other for other in everything if other > name]
    assert storage.list_folders() == ("a", "b", "b-c", "bb", "ä")
    assert storage.list_folders("b") == ("x",)
    assert [info.size for info in storage.list("b")] == [3, 5]


def test_a_deleted_object_is_gone_and_its_folder_with_it(storage: Storage) -> None:
    storage.write("a/b", b"1")
    storage.write("c", b"1")
    storage.delete("a/b")
    assert storage.stat("a/b") is None
    assert storage.list_folders() == ()
    assert names(storage) == ["c"]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, CHUNK, CHUNK + 1, 2 * CHUNK + 4321])
def test_a_saved_file_is_the_object_and_is_consumed(
    storage: Storage, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    path = file_of(tmp_path, content)
    storage.save_file("b/x.sst", path)
    assert not path.exists()
    assert storage.read("b/x.sst") == content
    with storage.open("b/x.sst") as reader:
        assert reader.read_at(size // 2, 100) == content[size // 2 :][:100]
    storage.save_file("b/x.sst", file_of(tmp_path, b"replaced"))
    assert storage.read("b/x.sst") == b"replaced"
    assert names(storage) == ["b/x.sst"]


def test_a_missing_file_cannot_be_saved(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x: .*missing"):
        storage.save_file("x", tmp_path / "missing")
    assert storage.stat("x") is None


def test_staging_can_be_discarded_and_is_no_object(storage: Storage) -> None:
    staging = storage.staging_dir("b")
    if staging is not None:
        (staging / "left").write_bytes(b"1")
    storage.write("b/x", b"1")
    storage.discard_staging("b")
    assert names(storage) == ["b/x"]


def test_names_are_checked_by_every_method(storage: Storage, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"")
    for name in ("../x", "/x", "a//b", "a\nb"):
        for attempt in (
            lambda name=name: storage.stat(name),
            lambda name=name: storage.read(name),
            lambda name=name: storage.open(name),
            lambda name=name: storage.delete(name),
            lambda name=name: storage.write(name, b""),
            lambda name=name: storage.create(name, b""),
            lambda name=name: storage.exchange(name, b"", None),
            lambda name=name: storage.save_file(name, path),
            lambda name=name: names(storage, name),
            lambda name=name: storage.list_folders(name),
        ):
            with pytest.raises(StorageError, match="is refused"):
                attempt()
    assert path.exists()


def test_a_storage_may_be_closed_twice(storage: Storage) -> None:
    storage.write("x", b"")
    storage.close()
    storage.close()
