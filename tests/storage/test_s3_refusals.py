"""What S3 refuses is told in one line: buckets, credentials, rights, endpoints, options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest

from bkctl.errors import StorageError, UsageError
from bkctl.storage.s3 import open_bucket
from bkctl.storage.url import open_storage, parse_storage
from tests.storage.refusals import refused, retrying
from tests.storage.servers import (
    Fault,
    FaultProxy,
    answering,
    first,
    free_port,
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


def test_a_wrong_bucket_is_told(server: str) -> None:
    storage, clock = retrying(f"s3://bukket/p?endpoint={server}&{KEYS}")
    refused(storage, r"s3://bukket/p.*no such bucket, status 404: NoSuchBucket.*check the bucket")
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "code", "match"),
    [
        (403, "AccessDenied", "permission denied, status 403.*check that these credentials may"),
        (403, "InvalidAccessKeyId", "InvalidAccessKeyId.*check the access key"),
        (403, "RequestTimeTooSkewed", "set this machine's clock"),
        (400, "AuthorizationHeaderMalformed", "check the region option"),
        (501, "NotImplemented", "status 501.*use another endpoint"),
    ],
)
def test_refused_credentials_and_rights_are_told(status: int, code: str, match: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>No\nway</Message></Error>".encode()
    with answering(status, body, "application/xml") as endpoint:
        storage, clock = retrying(f"s3://bucket/p?endpoint={endpoint}&{KEYS}")
        refused(storage, match)
    assert clock.slept == []


@pytest.mark.parametrize("status", [301, 302, 307])
@pytest.mark.parametrize("code", ["", "PermanentRedirect", "TemporaryRedirect"])
def test_an_endpoint_that_redirects_for_ever_is_told(status: int, code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>on</Message></Error>".encode() if code else b""
    with answering(status, body, "application/xml") as endpoint:
        storage, clock = retrying(f"s3://bucket/p?endpoint={endpoint}&{KEYS}")
        refused(storage, f"the request is refused, status {status}.*check the")
        with pytest.raises(StorageError, match=f"status {status}"):
            storage.stat("report")
    assert clock.slept == []


@pytest.mark.parametrize("code", ["SlowDown", "RequestTimeout", "BadDigest"])
def test_what_may_pass_is_tried_again(code: str) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    with answering(400, body, "application/xml") as endpoint:
        storage, clock = retrying(f"s3://bucket/p?endpoint={endpoint}&{KEYS}")
        with pytest.raises(StorageError, match=f"{code}.*gave up after"):
            list(storage.list())
    assert len(clock.slept) >= 5


def test_an_endpoint_that_does_not_answer_is_told() -> None:
    storage, clock = retrying(f"s3://bucket/p?endpoint=http://127.0.0.1:{free_port()}&{KEYS}")
    with pytest.raises(StorageError, match=r"127.0.0.1:\d+: connection refused\); check.*gave up"):
        list(storage.list())
    assert 10 < sum(clock.slept) <= 30


def test_an_endpoint_that_stalls_is_told(proxy: FaultProxy) -> None:
    proxy.plan = first(Fault.STALL, 1000, lambda request: True)
    storage, _ = retrying(f"s3://bucket/p?endpoint={proxy.endpoint}&{KEYS}&timeout=0.2")
    with pytest.raises(StorageError, match=r"no answer in time\); check the endpoint"):
        storage.stat("x")


def test_an_unknown_host_is_told() -> None:
    storage, _ = retrying(f"s3://bucket/p?endpoint=http://nowhere.invalid&{KEYS}")
    with pytest.raises(StorageError, match=r"nowhere.invalid: host name not found\); check"):
        storage.stat("x")


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("no_environment")
def test_missing_credentials_are_told(server: str) -> None:
    storage, clock = retrying(f"s3://bucket/p?endpoint={server}")
    refused(storage, "there are no credentials.*AWS_ACCESS_KEY_ID")
    assert clock.slept == []


@pytest.mark.usefixtures("no_environment")
def test_credentials_come_from_the_environment_or_a_profile(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    keys = "aws_access_key_id = a\naws_secret_access_key = b\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[backup]\n{keys}")
    with open_storage(parse_storage(f"s3://bucket/p?endpoint={server}&profile=backup")) as storage:
        storage.write("x", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with open_storage(parse_storage(f"s3://bucket/p?endpoint={server}")) as storage:
        assert storage.read("x") == b"1"


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ("profile=none", StorageError, "no such profile; check"),
        ("access-key=HIDDEN", UsageError, "access-key and secret-access-key belong together"),
        ("endpoint=host:80", UsageError, "endpoint must be"),
        ("force-path-style=maybe", UsageError, "force-path-style must be true or false"),
        ("chunk-size=0", UsageError, "chunk-size must be"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: str, error: type[StorageError] | type[UsageError], match: str
) -> None:
    with pytest.raises(error, match=match) as e:
        open_storage(parse_storage(f"s3://bucket?{options}"))
    assert "HIDDEN" not in str(e.value)


class SentError(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ("", "https://bucket.s3.eu-west-1.amazonaws.com/x"),
        ("&force-path-style=true", "https://s3.eu-west-1.amazonaws.com/bucket/x"),
        ("&endpoint=https://minio.example", "https://minio.example/bucket/x"),
        ("&endpoint=https://a.example&force-path-style=false", "https://bucket.a.example/x"),
    ],
)
def test_buckets_are_addressed_as_their_service_wants(options: str, address: str) -> None:
    def stop(request: AWSPreparedRequest, **_: object) -> None:
        raise SentError(request.url)

    url = f"s3://bucket?access-key=a&secret-access-key=b&region=eu-west-1{options}"
    with open_bucket(parse_storage(url)) as storage:
        storage._client.meta.events.register("before-send.s3", stop)
        with pytest.raises(SentError) as e:
            storage._client.head_object(Bucket="bucket", Key="x")
    assert str(e.value) == address
