from __future__ import annotations

import dataclasses
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import AlreadyExistsError, TransientError
from bkctl.storage.gcs import GcsStorage, open_bucket
from bkctl.storage.limit import RateLimit, TokenBucket
from bkctl.storage.retry import RetryStorage
from bkctl.storage.url import parse_storage
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.refusals import retrying
from tests.storage.servers import (
    Clock,
    Fault,
    FaultProxy,
    Request,
    first,
    gcs_server,
)

pytestmark = pytest.mark.xdist_group("object-stores")

CHUNK = 256 << 10


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with gcs_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(server: str) -> Iterator[FaultProxy]:
    with FaultProxy(server, sessions=GcsSessions()).running() as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: FaultProxy) -> Iterator[GcsStorage]:
    with open_gcs(proxy) as storage:
        yield storage


def open_gcs(proxy: FaultProxy, options: str = "") -> GcsStorage:
    url = f"gcs://bucket/{uuid4().hex}?endpoint={proxy.endpoint}&chunk-size={CHUNK}&timeout=5"
    return open_bucket(parse_storage(url + options))


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / uuid4().hex
    path.write_bytes(content)
    return path


def is_chunk(number: int) -> Callable[[Request], bool]:
    return lambda request: f"bytes {number * CHUNK}-" in request.headers.get("content-range", "")


@pytest.mark.parametrize("fault", [Fault.STATUS_503, Fault.CUT_REQUEST, Fault.LOST_ANSWER])
@pytest.mark.parametrize("chunk", [0, 2, 4])
def test_an_upload_that_is_cut_goes_on_where_it_was(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path, fault: Fault, chunk: int
) -> None:
    content = os.urandom(4 * CHUNK + 999)
    path = file_of(tmp_path, content)
    proxy.plan = first(fault, 1, is_chunk(chunk))
    with pytest.raises(TransientError, match="x: cannot be uploaded") as e:
        storage.save_file("x", path)
    assert e.value.progressed
    assert "upload_id" not in str(e.value)
    assert path.exists()
    before = proxy.requests["PUT"]
    storage.save_file("x", path)
    assert storage.read("x") == content
    assert proxy.sessions is not None
    assert proxy.sessions.queries == 1
    stored = chunk + (fault is Fault.LOST_ANSWER)
    assert proxy.requests["PUT"] - before == 1 + 5 - stored
    assert proxy.requests["POST"] == 1


def test_a_failure_without_progress_says_so(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    path = file_of(tmp_path, bytes(3 * CHUNK))
    proxy.plan = first(Fault.STATUS_503, 3, is_chunk(1))
    progressed = []
    for _ in range(3):
        with pytest.raises(TransientError) as e:
            storage.save_file("x", path)
        progressed.append(e.value.progressed)
    assert progressed == [True, False, False]


def test_an_upload_that_the_service_forgot_begins_anew(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    path = file_of(tmp_path, bytes(2 * CHUNK))
    assert proxy.sessions is not None
    proxy.sessions.forgets = True
    with pytest.raises(TransientError, match="gone") as e:
        storage.save_file("x", path)
    assert not e.value.progressed
    proxy.sessions.forgets = False
    storage.save_file("x", path)
    assert storage.read("x") == bytes(2 * CHUNK)


def test_a_file_that_was_replaced_between_tries_is_sent_from_its_start(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    path = file_of(tmp_path, bytes(3 * CHUNK))
    proxy.plan = first(Fault.STATUS_503, 1, is_chunk(1))
    with pytest.raises(TransientError):
        storage.save_file("x", path)
    content = os.urandom(3 * CHUNK)
    path.unlink()
    path.write_bytes(content)
    storage.save_file("x", path)
    assert storage.read("x") == content


@pytest.mark.parametrize("checks_hash", [True, False])
@pytest.mark.parametrize("size", [CHUNK - 1, 2 * CHUNK + 1])
def test_a_file_damaged_on_its_way_is_never_left_and_is_sent_again(
    server: str, tmp_path: Path, size: int, checks_hash: bool
) -> None:
    sessions = GcsSessions(checks_hash=checks_hash)
    content = os.urandom(size)
    path = file_of(tmp_path, content)
    with FaultProxy(server, sessions=sessions).running() as proxy, open_gcs(proxy) as storage:
        proxy.plan = first(Fault.DAMAGED_REQUEST, 1, lambda request: request.data_at is not None)
        with pytest.raises(TransientError, match=r"damaged|doesn't match"):
            storage.save_file("x", path)
        assert proxy.faults[Fault.DAMAGED_REQUEST] == 1
        assert storage.stat("x") is None
        storage.save_file("x", path)
        assert storage.read("x") == content


def test_content_damaged_on_its_way_back_is_noticed(storage: GcsStorage, proxy: FaultProxy) -> None:
    storage.write("x", b"content")
    proxy.plan = first(Fault.DAMAGED_ANSWER, 2, lambda request: "alt=media" in request.target)
    with pytest.raises(TransientError, match="came damaged"):
        storage.read("x")
    with storage.open("x") as reader, pytest.raises(TransientError, match="came damaged"):
        reader.read_at(0, 100)
    assert storage.read("x") == b"content"


@pytest.mark.parametrize("size", [10, 2 * CHUNK + 1])
def test_no_writer_replaces_what_another_wrote_meanwhile(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path, size: int
) -> None:
    storage.write("x", b"old")
    done: list[bool] = []

    def overtaking(request: Request) -> None:
        # Just before ours is made, after it looked at what is there.
        is_last = "uploadType=multipart" in request.target or is_chunk(2)(request)
        if is_last and not done:
            done.append(True)
            storage.write("x", b"theirs")

    proxy.plan = overtaking
    path = file_of(tmp_path, os.urandom(size))
    with pytest.raises(StorageError, match=r"replaced by another writer.*412.*another run") as e:
        storage.save_file("x", path)
    assert not isinstance(e.value, TransientError)
    assert storage.read("x") == b"theirs"
    assert path.exists()


def test_a_precondition_that_our_own_lost_answer_broke_is_no_failure(
    storage: GcsStorage, proxy: FaultProxy
) -> None:
    done: list[bool] = []

    def overtaking(request: Request) -> None:
        if "uploadType=multipart" in request.target and not done:
            done.append(True)
            storage.write("x", b"ours")

    proxy.plan = overtaking
    storage.write("x", b"ours")
    assert storage.read("x") == b"ours"


def test_a_reader_stays_with_the_version_it_opened(storage: GcsStorage) -> None:
    storage.write("x", b"first")
    with storage.open("x") as reader:
        storage.write("x", b"other")
        with pytest.raises(StorageError, match="no such object"):
            reader.read_at(0, 5)


def test_listings_go_page_by_page_and_are_taken_up_again(
    proxy: FaultProxy, storage: GcsStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [f"a/{number}" for number in range(7)]
    for name in expected:
        storage.write(name, b"")
    plain = storage._client.list_blobs
    monkeypatch.setattr(storage._client, "list_blobs", lambda *a, **k: plain(*a, **k, page_size=2))
    clock = Clock()
    retrying = RetryStorage(storage, clock=clock, sleep=clock.sleep)
    proxy.plan = first(Fault.STATUS_503, 2, lambda request: "pageToken" in request.target)
    assert [info.name for info in retrying.list("a")] == expected
    assert proxy.faults[Fault.STATUS_503] == 2
    assert storage.list_folders() == ("a",)


def test_options_are_sent_with_every_object(proxy: FaultProxy, tmp_path: Path) -> None:
    seen: list[Request] = []
    proxy.plan = seen.append
    with open_gcs(proxy, "&storage-class=NEARLINE&predefined-acl=private") as storage:
        storage.write("x", b"1")
        storage.save_file("y", file_of(tmp_path, bytes(CHUNK + 1)))
    begun = [request for request in seen if request.method == "POST"]
    assert len(begun) == 2
    for request in begun:
        query = parse_qs(urlsplit(request.target).query)
        assert query["predefinedAcl"] == ["private"]
        assert query["ifGenerationMatch"] == ["0"]
        assert b'"storageClass": "NEARLINE"' in request.body


def test_memory_is_bounded_by_the_chunk_not_the_file(server: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(24 << 20)
    url = f"gcs://bucket/{uuid4().hex}?endpoint={server}&chunk-size=1MiB"
    with open_bucket(parse_storage(url)) as storage:
        tracemalloc.start()
        try:
            storage.save_file("x", path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 6 << 20


def test_uploads_hold_to_the_rate_within_a_file(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(TokenBucket, "take", lambda self, nbytes: taken.append(nbytes))
    url = f"gcs://bucket/{uuid4().hex}?endpoint={proxy.endpoint}&chunk-size={CHUNK}"
    spec = dataclasses.replace(parse_storage(url), rate_limit=RateLimit(1, tmp_path / "rate"))
    content = os.urandom(3 * CHUNK)
    with open_bucket(spec) as storage:
        storage.save_file("x", file_of(tmp_path, content))
        assert sum(taken) == len(content)
        assert max(taken) <= 65536
        storage.write("y", bytes(100_000))
        assert 100_000 <= sum(taken) - len(content) < 101_000
        assert storage.read("x") == content


def test_many_threads_share_a_storage(storage: GcsStorage, tmp_path: Path) -> None:
    contents = {f"t/{number}": os.urandom(CHUNK * 2 + number) for number in range(8)}

    def save(name: str) -> None:
        storage.save_file(name, file_of(tmp_path, contents[name]))

    threads = [threading.Thread(target=save, args=(name,)) for name in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: storage.read(name) for name in contents} == contents


def test_uploads_that_were_given_up_are_cancelled(
    storage: GcsStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.plan = first(Fault.STATUS_503, 1, is_chunk(1))
    with pytest.raises(TransientError):
        storage.save_file("x", file_of(tmp_path, bytes(3 * CHUNK)))
    storage.close()
    assert proxy.requests["DELETE"] == 1


# What goes wrong at the start: each is one clear line within half a minute.


def test_a_create_whose_answer_was_lost_is_a_success(proxy: FaultProxy) -> None:
    storage, clock = retrying(f"gcs://bucket/{uuid4().hex}?endpoint={proxy.endpoint}")
    proxy.plan = first(Fault.LOST_ANSWER, 1, lambda request: request.method == "POST")
    storage.create("claim", b"mine")
    assert len(clock.slept) == 1
    with pytest.raises(AlreadyExistsError):
        storage.create("claim", b"mine")
