"""What GCS refuses is told in one line: buckets, credentials, rights, endpoints, options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bkctl.errors import StorageError, UsageError
from bkctl.storage.url import open_storage, parse_storage
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.refusals import refused, retrying
from tests.storage.servers import (
    Fault,
    FaultProxy,
    answering,
    first,
    free_port,
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


def test_a_wrong_bucket_is_told(server: str) -> None:
    storage, clock = retrying(f"gcs://bukket/p?endpoint={server}")
    refused(storage, r"gcs://bukket/p.*no such bucket, status 404.*check the bucket's name")
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (401, "credentials are missing or refused, status 401.*check the credentials"),
        (403, "permission denied, status 403: p is not allowed.*check that these credentials may"),
    ],
)
def test_refused_credentials_and_rights_are_told(status: int, match: str, server: str) -> None:
    body = json.dumps({"error": {"code": status, "message": "p is not\nallowed"}}).encode()
    with answering(status, body) as endpoint:
        storage, clock = retrying(f"gcs://bucket/p?endpoint={endpoint}")
        if status == 401:
            match = f"({match}|no access token.*check the credentials)"
        refused(storage, match)
        assert clock.slept == []


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000])
def test_answers_that_are_nested_without_end_are_damaged(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(CHUNK * 2))
    with answering(200, body) as endpoint:
        storage, _ = retrying(f"gcs://bucket/p?endpoint={endpoint}&chunk-size=256KiB")
        for attempt in (
            lambda: list(storage.list()),
            lambda: storage.stat("report"),
            lambda: storage.write("report", b"1"),
            lambda: storage.save_file("file", path),
        ):
            with pytest.raises(StorageError, match="gave up after"):
                attempt()
    with answering(403, body) as endpoint:
        storage, _ = retrying(f"gcs://bucket/p?endpoint={endpoint}")
        with pytest.raises(StorageError, match="bucket/p"):
            storage.stat("report")


def test_an_endpoint_that_does_not_answer_is_told(server: str) -> None:
    storage, clock = retrying(f"gcs://bucket/p?endpoint=http://127.0.0.1:{free_port()}")
    refused(storage, r"127.0.0.1:\d+: connection refused\); check the endpoint.*gave up after")
    assert 10 < clock.slept[0] + sum(clock.slept[1:6]) < 30


def test_an_endpoint_that_stalls_is_told(proxy: FaultProxy) -> None:
    proxy.plan = first(Fault.STALL, 1000, lambda request: True)
    url = f"gcs://bucket/p?endpoint={proxy.endpoint}&timeout=0.2"
    storage, _ = retrying(url)
    with pytest.raises(StorageError, match=r"no answer in time\); check the endpoint"):
        storage.stat("x")


def test_an_unknown_host_is_told() -> None:
    storage, _ = retrying("gcs://bucket/p?endpoint=http://nowhere.invalid")
    with pytest.raises(StorageError, match=r"nowhere.invalid: host name not found\); check"):
        storage.stat("x")


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    for url in ("gcs://bucket", "gcs://bucket?endpoint=https://storage-x.p.googleapis.com"):
        with pytest.raises(StorageError, match=r"no credentials .*GOOGLE_APPLICATION_CREDENTIALS"):
            open_storage(parse_storage(url))


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"type": "service_account"}', b"\xff"])
def test_a_credentials_file_that_cannot_be_used_is_told(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "HIDDEN.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="the credentials file cannot be used") as e:
        open_storage(parse_storage(f"gcs://bucket?credentials-file={path}"))
    assert "HIDDEN" not in str(e.value)


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("chunk-size=0", "chunk-size must be"),
        ("chunk-size=2GiB", "chunk-size must be"),
        ("chunk-size=x", "is no size"),
        ("timeout=0", "timeout must be"),
        ("timeout=x", "timeout must be"),
        ("timeout=nan", "timeout must be"),
        ("endpoint=host:80", "endpoint must be"),
        ("endpoint=http://u:HIDDEN@host", "endpoint must be"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(option: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as e:
        open_storage(parse_storage(f"gcs://bucket?{option}"))
    assert "HIDDEN" not in str(e.value)
