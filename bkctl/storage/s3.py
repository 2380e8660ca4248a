"""S3, and services that speak its protocol.

Bodies are sent with their CRC-32C, which the service checks and repeats in its answer; one that
does not is held to the MD5 in its ETag instead. Of an object in parts a service has no checksum of
the whole, so ours goes into the object's metadata, and whole reads are checked against it. The
client's own retries are off: retry.py has the one policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from bkctl.errors import StorageError, UsageError
from bkctl.storage.base import Storage, already_exists, changed, failure, not_found
from bkctl.storage.cloud import CloudStorage, Page, Stored, Upload
from bkctl.storage.cloud_options import check_options, endpoint_option, timeouts_option
from bkctl.storage.failures import damaged, network_failure, status_failure
from bkctl.storage.limit import ThrottledBody
from bkctl.storage.retry import RetryStorage
from bkctl.storage.s3_checks import (
    CRC32C_METADATA,
    encode,
    encoded_crc32c,
    is_content,
    is_stored,
    whole_crc32c,
)
from bkctl.storage.s3_upload import MIN_PART_SIZE, MultipartUpload
from bkctl.storage.url import StorageSpec

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECTIONS = 16
_THROTTLED_FROM = 4096
_DEFAULT_REGION = "us-east-1"
_PUT_OPTIONS = {
    "acl": "ACL",
    "sse": "ServerSideEncryption",
    "sse-kms-key-id": "SSEKMSKeyId",
    "storage-class": "StorageClass",
}
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_DAMAGES = (IncompleteReadError, ResponseParserError, ValueError, KeyError, RecursionError)
_CREDENTIALS = "check the access key, its secret and the session token"
_CODE_CHECKS = {
    "AuthorizationHeaderMalformed": "check the region option",
    "ExpiredToken": "the session token has expired; get a new one",
    "IllegalLocationConstraintException": "check the region option",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "PermanentRedirect": "check the region and endpoint options",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": _CREDENTIALS,
}


def open_storage(spec: StorageSpec) -> Storage:
    """Open a bucket, with retries and the rate limit of `spec`. Sends no request for objects.

    Raises UsageError for a bad option, StorageError for a profile that is not there.
    """
    return RetryStorage(open_bucket(spec))


def open_bucket(spec: StorageSpec) -> S3Storage:
    """Open a bucket without retries."""
    return S3Storage(spec, _client(spec))


def _client(spec: StorageSpec) -> S3Client:
    endpoint = endpoint_option(spec)
    connect, read = timeouts_option(spec)
    check_options(spec)
    if (spec.option("access-key") is None) != (spec.option("secret-access-key") is None):
        raise UsageError(f"{spec.display}: access-key and secret-access-key belong together")
    config = Config(
        connect_timeout=connect,
        read_timeout=read,
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": _addressing_style(spec, endpoint)},
    )
    try:
        session = boto3.Session(
            profile_name=spec.option("profile"),
            aws_access_key_id=spec.option("access-key"),
            aws_secret_access_key=spec.option("secret-access-key"),
            aws_session_token=spec.option("session-token"),
            region_name=spec.option("region"),
        )
        region = session.region_name or _DEFAULT_REGION
        client = session.client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except ProfileNotFound as e:
        check = "check the option profile and ~/.aws/config"
        raise failure(spec.display, "", "there is no such profile", check) from e
    except (BotoCoreError, ValueError) as e:
        # The exception's text may quote keys.
        what = f"the storage cannot be opened ({type(e).__name__})"
        raise failure(spec.display, "", what, "check the options and ~/.aws/config") from e
    client.meta.events.register("before-call.s3.HeadBucket", _take_redirects_as_answers)
    return client


def _take_redirects_as_answers(params: dict[str, Any], **_: object) -> None:
    """Let a redirect of the library's own HEAD of a bucket be its answer.

    It asks so where a bucket is once it is redirected, of this request as of others: for ever, if
    an endpoint does nothing but redirect.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _addressing_style(
    spec: StorageSpec, endpoint: str | None
) -> Literal["auto", "path", "virtual"]:
    text = spec.option("force-path-style")
    if text is None:
        # Few services but Amazon's have a host name for each bucket.
        return "auto" if endpoint is None or ".amazonaws." in endpoint else "path"
    if text.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"{spec.display}: force-path-style must be true or false")
    return "path" if text.lower() in ("true", "1") else "virtual"


class _Throttle:
    """Makes the HTTP client read bodies no faster than granted; called once all is signed."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take

    def __call__(self, request: Any, **_: object) -> None:
        body = request.body
        # The client wraps what it is given as bytes.
        data = body.getbuffer() if isinstance(body, BytesIO) else body
        if isinstance(data, (bytes, bytearray, memoryview)) and len(data) >= _THROTTLED_FROM:
            request.body = ThrottledBody(data, self._take)


class S3Storage(CloudStorage):
    """Objects in a bucket of S3."""

    chunk_multiple = MIN_PART_SIZE

    def __init__(self, spec: StorageSpec, client: S3Client) -> None:
        super().__init__(spec)
        self._client = client
        if self._take is not None:
            client.meta.events.register("before-send.s3", _Throttle(self._take))
        self._bucket = spec.bucket
        self._put_options: dict[str, Any] = {
            parameter: value
            for option, parameter in _PUT_OPTIONS.items()
            if (value := spec.option(option)) is not None
        }

    def _head(self, name: str) -> Stored | None:
        key = self._key(name)
        with self.reporting(name, "cannot be looked up"):
            try:
                found = self._client.head_object(
                    Bucket=self._bucket, Key=key, ChecksumMode="ENABLED"
                )
            except ClientError as e:
                if _status(e) == 404:
                    return None
                raise
            return Stored(
                size=found["ContentLength"],
                modified=found["LastModified"].timestamp(),
                version=found["ETag"],
                crc32c=whole_crc32c(found),
            )

    def _pages(self, prefix: str, folder: str, start: str, delimiter: str = "") -> Iterator[Page]:
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": folder}
        if start:
            arguments["StartAfter"] = start
        if delimiter:
            arguments["Delimiter"] = delimiter
        while True:
            with self.reporting(prefix, "cannot be listed"):
                found = self._client.list_objects_v2(**arguments)
                page = Page(
                    tuple(
                        (
                            entry["Key"],
                            Stored(entry["Size"], entry["LastModified"].timestamp(), entry["ETag"]),
                        )
                        for entry in found.get("Contents", ())
                    ),
                    tuple(entry["Prefix"] for entry in found.get("CommonPrefixes", ())),
                )
                token = found.get("NextContinuationToken") if found["IsTruncated"] else None
            yield page
            if not token:
                return
            arguments["ContinuationToken"] = token

    def _get(self, name: str, stored: Stored, offset: int, length: int) -> bytes:
        key = self._key(name)
        with self.reporting(name, "cannot be read"):
            try:
                found = self._client.get_object(
                    Bucket=self._bucket,
                    Key=key,
                    IfMatch=stored.version,
                    Range=f"bytes={offset}-{offset + length - 1}",
                )
            except ClientError as e:
                if _status(e) in (404, 412):
                    raise not_found(self.url, name) from None
                raise
            with found["Body"] as body:
                data = body.read()
        if len(data) != length:
            raise damaged(self.url, name, f"{len(data)} bytes came of {length}")
        if length == stored.size and not is_content(data, stored, found):
            raise damaged(self.url, name, "came damaged (its checksum is wrong)")
        return data

    def _put(self, name: str, data: bytes, *, exclusive: bool, version: str | None = None) -> None:
        key = self._key(name)
        if exclusive and self._head(name) is not None:
            # Some services ignore the condition below; this helps where nobody races.
            raise already_exists(self.url, name)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if exclusive else {}
        if version is not None:
            condition = {"IfMatch": version}
        crc = encoded_crc32c(data)
        with self.reporting(name, "cannot be written"):
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=data,
                    ChecksumCRC32C=crc,
                    Metadata={CRC32C_METADATA: crc},
                    **condition,
                    **self._put_options,
                )
            except ClientError as e:
                if exclusive and _status(e) == 412:
                    raise already_exists(self.url, name) from None
                if version is not None and _status(e) in (404, 412):
                    raise changed(self.url, name) from None
                raise
        if not is_stored(data, crc, answer):
            # Only a service that checks nothing stores such a thing; better no object than that.
            self._delete(name)
            raise damaged(self.url, name, "was stored damaged (its checksum is wrong) and removed")

    def _begin_upload(self, name: str, file: BinaryIO, size: int) -> Upload:
        key = self._key(name)
        crc = encode(self._file_crc32c(name, file, size))
        with self.reporting(name, "cannot be uploaded"):
            begun = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                ChecksumAlgorithm="CRC32C",
                Metadata={CRC32C_METADATA: crc},
                **self._put_options,
            )
            return MultipartUpload(self, self._client, self._bucket, key, begun["UploadId"], name)

    def head(self, name: str) -> Stored | None:
        """Look up an object, for its upload."""
        return self._head(name)

    def _delete(self, name: str) -> None:
        key = self._key(name)
        with self.reporting(name, "cannot be deleted"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _delete_version(self, name: str, version: str) -> None:
        key = self._key(name)
        with self.reporting(name, "cannot be deleted"):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key, IfMatch=version)
            except ClientError as e:
                if _status(e) == 501:
                    # Younger than all other conditions, so some services refuse it.
                    self._delete(name)
                elif _status(e) in (404, 412):
                    raise changed(self.url, name) from None
                else:
                    raise

    def discard_staging(self, backup_name: str) -> None:
        """See Storage. Aborts the uploads that killed runs left, as their parts are paid for."""
        if not backup_name:
            return  # nothing is uploaded in parts there
        folder = self._folder(backup_name)
        with self.reporting(backup_name, "its unfinished uploads cannot be removed"):
            try:
                pages = self._client.get_paginator("list_multipart_uploads").paginate(
                    Bucket=self._bucket, Prefix=folder
                )
                for upload in [upload for page in pages for upload in page.get("Uploads", ())]:
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            except ClientError as e:
                # A right that few grant and a call that some services lack: a lifecycle rule of
                # the bucket has to do it there.
                if _status(e) not in (403, 404, 405, 501):
                    raise

    def _disconnect(self) -> None:
        self._client.close()

    @contextmanager
    def reporting(self, name: str, what: str) -> Iterator[None]:
        """Turn the client's exceptions into StorageError; `what` says what cannot be done."""
        try:
            yield
        except StorageError:
            raise
        except ClientError as e:
            raise self._answer_failure(name, what, e) from e
        except (NoCredentialsError, PartialCredentialsError) as e:
            check = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the options"
            raise failure(self.url, name, f"{what} (there are no credentials)", check) from e
        except (CredentialRetrievalError, TokenRetrievalError, SSOError) as e:
            check = "log in again, or check the profile"
            raise failure(self.url, name, f"{what} (credentials cannot be got)", check) from e
        except _DAMAGES as e:
            raise damaged(self.url, name, f"{what} (the answer came damaged)") from e
        except (
            ConnectionError,
            HTTPClientError,
            ResponseStreamingError,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as e:
            endpoint = self._client.meta.endpoint_url
            raise network_failure(self.url, name, what, endpoint, e) from e
        except BotoCoreError as e:
            what = f"{what} ({type(e).__name__})"
            raise failure(self.url, name, what, "check the options in the storage URL") from e

    def _answer_failure(self, name: str, what: str, error: ClientError) -> StorageError:
        said = error.response.get("Error", {})
        code = str(said.get("Code", ""))
        message = str(said.get("Message", ""))
        return status_failure(
            self.url,
            name,
            what,
            _status(error),
            f"{code} {message}" if code and not code.isdigit() else message,
            transient=code in _TRANSIENT_CODES,
            check=_CODE_CHECKS.get(code, ""),
        )


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
