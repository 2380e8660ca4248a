from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import AlreadyExistsError, TransientError
from bkctl.storage.limit import RateLimit, TokenBucket
from bkctl.storage.retry import RetryStorage
from bkctl.storage.s3 import S3Storage, open_bucket
from bkctl.storage.s3_checks import encoded_crc32c, is_stored, whole_crc32c
from bkctl.storage.url import parse_storage
from tests.storage.servers import (
    Clock,
    Fault,
    FaultProxy,
    Request,
    answering,
    first,
    s3_server,
)

pytestmark = pytest.mark.xdist_group("object-stores")

CHUNK = 5 << 20
KEYS = "access-key=AK&secret-access-key=HIDDEN&region=us-east-1"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(server: str) -> Iterator[FaultProxy]:
    with FaultProxy(server).running() as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: FaultProxy) -> Iterator[S3Storage]:
    with open_s3(proxy) as storage:
        yield storage


def open_s3(proxy: FaultProxy, options: str = "") -> S3Storage:
    url = f"s3://bucket/{uuid4().hex}?endpoint={proxy.endpoint}&{KEYS}&chunk-size=1&timeout=5"
    return open_bucket(parse_storage(url + options))


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / uuid4().hex
    path.write_bytes(content)
    return path


def is_part(request: Request) -> bool:
    return "partNumber=2" in request.target


def is_completion(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.target


@pytest.mark.parametrize(
    "fault", [Fault.STATUS_503, Fault.CUT_REQUEST, Fault.LOST_ANSWER, Fault.DAMAGED_REQUEST]
)
def test_an_upload_that_is_cut_goes_on_with_the_part_it_was_at(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    content = os.urandom(2 * CHUNK + 99)
    path = file_of(tmp_path, content)
    proxy.plan = first(fault, 1, is_part)
    with pytest.raises(TransientError, match=r"x: (cannot be uploaded|a part was stored dam)") as e:
        storage.save_file("x", path)
    assert e.value.progressed
    assert path.exists()
    assert storage.stat("x") is None
    before = proxy.requests["PUT"]
    storage.save_file("x", path)
    assert proxy.requests["PUT"] - before == 2
    assert storage.read("x") == content


@pytest.mark.parametrize("fault", [Fault.STATUS_503, Fault.LOST_ANSWER, Fault.CUT_ANSWER])
def test_a_completion_without_an_answer_is_found_out(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    content = os.urandom(CHUNK + 99)
    path = file_of(tmp_path, content)
    proxy.plan = first(fault, 1, is_completion)
    with pytest.raises(TransientError):
        storage.save_file("x", path)
    storage.save_file("x", path)
    assert storage.read("x") == content
    assert not path.exists()


@pytest.mark.parametrize("was_made", [True, False])
def test_an_upload_that_the_service_forgot_is_looked_for_before_it_begins_anew(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path, was_made: bool
) -> None:
    content = os.urandom(CHUNK + 99)
    path = file_of(tmp_path, content)
    proxy.plan = first(Fault.LOST_ANSWER if was_made else Fault.STATUS_503, 1, is_completion)
    with pytest.raises(TransientError):
        storage.save_file("x", path)
    if not was_made:
        storage.write("x", b"of another run")
    plain = proxy.forward
    gone = b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>"
    with answering(404, gone, "application/xml") as nowhere:
        broken = FaultProxy(nowhere)
        proxy.forward = (  # type: ignore[method-assign]
            lambda request: broken.forward(request) if is_completion(request) else plain(request)
        )
        if was_made:
            storage.save_file("x", path)
        else:
            with pytest.raises(TransientError, match="the service has forgotten it") as e:
                storage.save_file("x", path)
            assert not e.value.progressed
    proxy.forward = plain  # type: ignore[method-assign]
    if not was_made:
        storage.save_file("x", path)
    assert storage.read("x") == content


def test_content_of_many_parts_damaged_on_its_way_back_is_noticed(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    content = os.urandom(CHUNK + 99)
    storage.save_file("x", file_of(tmp_path, content))
    proxy.plan = first(Fault.DAMAGED_ANSWER, 1, lambda request: request.method == "GET")
    with pytest.raises(TransientError, match="came damaged"):
        storage.read("x")
    assert storage.read("x") == content


@pytest.mark.parametrize("exclusive", [True, False])
def test_content_damaged_on_its_way_is_noticed_and_can_be_sent_again(
    storage: S3Storage, proxy: FaultProxy, exclusive: bool
) -> None:
    put = storage.create if exclusive else storage.write
    proxy.plan = first(Fault.DAMAGED_REQUEST, 1, lambda request: request.method == "PUT")
    with pytest.raises(TransientError, match="damaged"):
        put("x", b"content")
    put("x", b"content")
    assert storage.read("x") == b"content"
    proxy.plan = first(Fault.DAMAGED_ANSWER, 1, lambda request: request.method == "GET")
    with pytest.raises(TransientError, match="came damaged"):
        storage.read("x")
    assert storage.read("x") == b"content"


def test_a_create_whose_answer_was_lost_is_a_success(storage: S3Storage, proxy: FaultProxy) -> None:
    clock = Clock()
    retrying = RetryStorage(storage, clock=clock, sleep=clock.sleep)
    proxy.plan = first(Fault.LOST_ANSWER, 1, lambda request: request.method == "PUT")
    retrying.create("claim", b"mine")
    with pytest.raises(AlreadyExistsError):
        retrying.create("claim", b"mine")
    assert len(clock.slept) == 1


def test_create_is_conditional_at_the_service_itself(storage: S3Storage, proxy: FaultProxy) -> None:
    def overtaking(request: Request) -> None:
        # After our look at what is there, before our object is made.
        if request.headers.get("if-none-match") == "*":
            proxy.plan = lambda request: None
            storage.write("claim", b"theirs")

    proxy.plan = overtaking
    with pytest.raises(AlreadyExistsError):
        storage.create("claim", b"mine")
    assert storage.read("claim") == b"theirs"


def test_a_reader_stays_with_the_version_it_opened(storage: S3Storage) -> None:
    storage.write("x", b"first")
    with storage.open("x") as reader:
        storage.write("x", b"other")
        with pytest.raises(StorageError, match="no such object"):
            reader.read_at(0, 5)


def test_listings_go_page_by_page_and_are_taken_up_again(
    proxy: FaultProxy, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [f"a/{number}" for number in range(7)]
    for name in expected:
        storage.write(name, b"")
    plain = storage._client.list_objects_v2
    monkeypatch.setattr(storage._client, "list_objects_v2", lambda **k: plain(**k, MaxKeys=2))
    clock = Clock()
    retrying = RetryStorage(storage, clock=clock, sleep=clock.sleep)
    proxy.plan = first(Fault.STATUS_503, 2, lambda request: "continuation-token" in request.target)
    assert [info.name for info in retrying.list("a")] == expected
    assert proxy.faults[Fault.STATUS_503] == 2
    assert storage.list_folders() == ("a",)


def test_options_are_sent_with_every_object(proxy: FaultProxy, tmp_path: Path) -> None:
    seen: list[Request] = []
    proxy.plan = seen.append
    with open_s3(proxy, "&storage-class=STANDARD_IA&acl=private&sse=AES256") as storage:
        storage.write("x", b"1")
        storage.save_file("y", file_of(tmp_path, bytes(CHUNK + 1)))
    begun = [r for r in seen if r.target.endswith(("/x", "?uploads"))]
    assert [r.method for r in begun] == ["PUT", "POST"]
    for request in begun:
        assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
        assert request.headers["x-amz-acl"] == "private"
        assert request.headers["x-amz-server-side-encryption"] == "AES256"


def test_uploads_that_were_given_up_are_aborted(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    for end in (storage.close, lambda: storage.discard_staging("b")):
        proxy.plan = first(Fault.STATUS_503, 1, is_part)
        with pytest.raises(TransientError):
            storage.save_file("b/x", file_of(tmp_path, bytes(2 * CHUNK)))
        assert len(unfinished(storage)) == 1
        end()
        assert unfinished(storage) == []


def unfinished(storage: S3Storage) -> list[str]:
    prefix = storage._root
    found = storage._client.list_multipart_uploads(Bucket="bucket", Prefix=prefix)
    return [upload["Key"] for upload in found.get("Uploads", ())]


def test_uploads_hold_to_the_rate_within_a_file(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(TokenBucket, "take", lambda self, nbytes: taken.append(nbytes))
    url = f"s3://bucket/{uuid4().hex}?endpoint={proxy.endpoint}&{KEYS}&chunk-size=1"
    spec = dataclasses.replace(parse_storage(url), rate_limit=RateLimit(1, tmp_path / "rate"))
    content = os.urandom(CHUNK + 100_000)
    with open_bucket(spec) as storage:
        storage.save_file("x", file_of(tmp_path, content))
        assert sum(taken) == len(content)
        assert max(taken) <= 65536
        assert storage.read("x") == content


def test_many_threads_share_a_storage(storage: S3Storage, tmp_path: Path) -> None:
    contents = {f"t/{number}": os.urandom(100_000 + number) for number in range(8)}

    def save(name: str) -> None:
        storage.save_file(name, file_of(tmp_path, contents[name]))

    threads = [threading.Thread(target=save, args=(name,)) for name in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: storage.read(name) for name in contents} == contents


def test_checksums_are_believed_only_where_they_tell_of_the_whole() -> None:
    crc = encoded_crc32c(b"123456789")
    assert crc == "4waSgw=="
    one = {"ETag": '"x"', "ChecksumCRC32C": crc}
    assert whole_crc32c(one) == 0xE3069283
    assert whole_crc32c({**one, "ETag": '"x-2"'}) is None
    assert whole_crc32c({**one, "ETag": '"x-2"', "ChecksumType": "FULL_OBJECT"}) == 0xE3069283
    assert whole_crc32c({**one, "ChecksumCRC32C": crc + "-2"}) is None
    assert whole_crc32c({"ETag": '"x"'}) is None
    ours = {"Metadata": {"bkctl-crc32c": crc}}
    assert whole_crc32c({"ETag": '"x-2"', "ChecksumCRC32C": "AAAAAA==", **ours}) == 0xE3069283
    assert whole_crc32c({"ETag": '"x"', "Metadata": {"bkctl-crc32c": "none"}}) is None
    assert is_stored(b"123456789", crc, one)
    assert not is_stored(b"123456789", crc, {**one, "ChecksumCRC32C": "AAAAAA=="})
    plain = {"ETag": '"25f9e794323b453885f5181f1b624d0b"'}
    assert is_stored(b"123456789", crc, plain)
    assert not is_stored(b"12345678x", crc, plain)
    # There, an ETag is no MD5 of the content.
    assert is_stored(b"12345678x", crc, {**plain, "ServerSideEncryption": "aws:kms"})


# What goes wrong at the start: each is one clear line within half a minute.
