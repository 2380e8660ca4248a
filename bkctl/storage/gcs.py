"""Google Cloud Storage, or an emulator of it.

Every object is written under a generation precondition (0: there must be none), so no two writers
can replace each other's object unnoticed; and the CRC-32C of what was read here is compared with
that of what is stored there. The client's own retries are off: retry.py has the one policy.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import google.auth
import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from requests.adapters import HTTPAdapter

from bkctl.errors import StorageError
from bkctl.files.small import UnfitFileError, read_small
from bkctl.storage.base import Storage, already_exists, changed, failure, not_found
from bkctl.storage.cloud import CloudStorage, Page, Stored, Upload
from bkctl.storage.cloud_options import check_options, endpoint_option, timeouts_option
from bkctl.storage.failures import damaged, network_failure, status_failure
from bkctl.storage.file_part import BLOCK, FileBody, crc32c
from bkctl.storage.gcs_upload import CHUNK_MULTIPLE, Session, SessionUpload
from bkctl.storage.limit import ThrottledBody
from bkctl.storage.retry import RetryStorage
from bkctl.storage.url import StorageSpec

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_DEFAULT_ENDPOINT = "https://storage.googleapis.com"
# Its warnings come before every error that we raise, and would be printed beside it.
logging.getLogger("google.auth").addHandler(logging.NullHandler())

_CONTENT_TYPE = "application/octet-stream"
_CONNECTIONS = 16
_THROTTLED_FROM = 4096
_MAX_CREDENTIALS = 1 << 20


def open_storage(spec: StorageSpec) -> Storage:
    """Open a bucket, with retries and the rate limit of `spec`. Sends no request for objects.

    Raises UsageError for a bad option, StorageError where there are no credentials.
    """
    return RetryStorage(open_bucket(spec))


def open_bucket(spec: StorageSpec) -> GcsStorage:
    """Open a bucket without retries."""
    endpoint = endpoint_option(spec)
    check_options(spec)
    session = AuthorizedSession(_credentials(spec, endpoint))  # type: ignore[no-untyped-call]
    return GcsStorage(spec, session, endpoint)


def _credentials(spec: StorageSpec, endpoint: str | None) -> Any:
    path = spec.option("credentials-file")
    try:
        if path is not None:
            return _loaded(path)
        host = urlsplit(endpoint or _DEFAULT_ENDPOINT).hostname or ""
        if host != "googleapis.com" and not host.endswith(".googleapis.com"):
            # An emulator; the real credentials are none of its business.
            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        return google.auth.default(scopes=_SCOPES)[0]
    except (DefaultCredentialsError, GoogleAuthError, ValueError, RecursionError, OSError) as e:
        # The exception's text quotes paths and, at times, contents.
        if path is not None:
            what, check = "the credentials file cannot be used", "check its path and content"
        else:
            what = "there are no credentials"
            check = (
                "set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, "
                "or give ?credentials-file="
            )
        why = e.strerror if isinstance(e, UnfitFileError) else type(e).__name__
        raise failure(spec.display, "", f"{what} ({why})", check) from e


def _loaded(path: str) -> Any:
    document = json.loads(read_small(path, _MAX_CREDENTIALS))
    with warnings.catch_warnings():
        # It warns of files from strangers, as a file may name the server that gets its secret;
        # this one is the user's own choice.
        warnings.simplefilter("ignore", DeprecationWarning)
        return google.auth.load_credentials_from_dict(document, scopes=_SCOPES)[0]  # type: ignore[no-untyped-call]


class _Adapter(HTTPAdapter):
    """Sends request bodies no faster than granted; does not try again."""

    def __init__(self, take: Callable[[int], None] | None) -> None:
        self._take = take
        super().__init__(pool_connections=4, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **kwargs, blocksize=BLOCK)

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """See HTTPAdapter."""
        body: Any = request.body
        if isinstance(body, FileBody):
            # A request sent a second time, with a fresh token, begins its body anew.
            body.seek(0)
            body.take = self._take
            request.headers.pop("Transfer-Encoding", None)
            request.headers["Content-Length"] = str(len(body))
        elif self._take is not None and isinstance(body, bytes) and len(body) >= _THROTTLED_FROM:
            request.body = ThrottledBody(body, self._take)  # type: ignore[assignment]
        return super().send(request, *args, **kwargs)


class GcsStorage(CloudStorage):
    """Objects in a bucket of Google Cloud Storage."""

    chunk_multiple = CHUNK_MULTIPLE
    default_chunk_size = 64 << 20

    def __init__(
        self, spec: StorageSpec, session: requests.Session, endpoint: str | None = None
    ) -> None:
        super().__init__(spec)
        self._endpoint = endpoint or _DEFAULT_ENDPOINT
        self._timeout = timeouts_option(spec)
        self._storage_class = spec.option("storage-class")
        self._acl = spec.option("predefined-acl")
        self._session = session
        adapter = _Adapter(self._take)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        self._client = storage.Client(
            project="none",
            credentials=getattr(session, "credentials", None),
            _http=session,
            client_options={"api_endpoint": self._endpoint},
        )
        self._bucket = self._client.bucket(spec.bucket)

    def _blob(self, name: str, generation: str | None = None) -> Any:
        number = None if generation is None else int(generation)
        return self._bucket.blob(self._key(name), generation=number)

    def _head(self, name: str) -> Stored | None:
        blob = self._blob(name)
        with self._reporting(name, "cannot be looked up"):
            try:
                blob.reload(retry=None, timeout=self._timeout)
            except NotFound:
                return None
            return _stored(blob)

    def _pages(self, prefix: str, folder: str, start: str, delimiter: str = "") -> Iterator[Page]:
        with self._reporting(prefix, "cannot be listed"):
            listing = self._client.list_blobs(
                self._bucket,
                prefix=folder or None,
                start_offset=start or None,
                delimiter=delimiter or None,
                retry=None,
                timeout=self._timeout,
            )
            for page in listing.pages:
                objects = tuple((str(blob.name), _stored(blob)) for blob in page)
                # The client gathers the prefixes of all pages so far.
                yield Page(objects, tuple(str(key) for key in listing.prefixes))

    def _get(self, name: str, stored: Stored, offset: int, length: int) -> bytes:
        with self._reporting(name, "cannot be read"):
            try:
                data = self._blob(name, stored.version).download_as_bytes(
                    start=offset,
                    end=offset + length - 1,
                    raw_download=True,
                    checksum=None,
                    retry=None,
                    timeout=self._timeout,
                )
            except NotFound:
                raise not_found(self.url, name) from None
        if len(data) != length:
            raise damaged(self.url, name, f"{len(data)} bytes came of {length}")
        if length == stored.size and stored.crc32c not in (None, crc32c(data)):
            raise damaged(self.url, name, "came damaged (its crc32c is wrong)")
        return bytes(data)

    def _put(self, name: str, data: bytes, *, exclusive: bool, version: str | None = None) -> None:
        blob = self._blob(name)
        if version is not None:
            generation = int(version)
        else:
            generation = 0 if exclusive else self._generation(name)
        blob.storage_class = self._storage_class
        crc = crc32c(data)
        with self._reporting(name, "cannot be written"):
            try:
                blob.upload_from_string(
                    data,
                    content_type=_CONTENT_TYPE,
                    predefined_acl=self._acl,
                    if_generation_match=generation,
                    checksum="crc32c",
                    retry=None,
                    timeout=self._timeout,
                )
            except PreconditionFailed:
                if exclusive:
                    raise already_exists(self.url, name) from None
                if version is not None:
                    raise changed(self.url, name) from None
                self.accept_if_ours(name, len(data), crc)
                return
            stored = _stored(blob)
        self.check_stored(name, stored, len(data), crc)

    def _generation(self, name: str) -> int:
        stored = self._head(name)
        return 0 if stored is None else int(stored.version)

    def _begin_upload(self, name: str, file: BinaryIO, size: int) -> Upload:
        blob = self._blob(name)
        blob.storage_class = self._storage_class
        generation = self._generation(name)
        with self._reporting(name, "cannot be written"):
            url = blob.create_resumable_upload_session(
                content_type=_CONTENT_TYPE,
                size=size,
                predefined_acl=self._acl,
                if_generation_match=generation,
                retry=None,
                timeout=self._timeout,
            )
        return SessionUpload(self, Session(str(url), self._session, self._timeout), name, size)

    def accept_if_ours(self, name: str, size: int, crc: int) -> None:
        """After a refused precondition: return if what is there is what we wanted there.

        An attempt of ours may have come through without an answer. Raises StorageError if another
        writer was there.
        """
        stored = self._head(name)
        if stored is None or (stored.size, stored.crc32c) != (size, crc):
            raise status_failure(self.url, name, "was replaced by another writer meanwhile", 412)

    def check_stored(self, name: str, stored: Stored, size: int, crc: int) -> None:
        """Compare what was stored with what was sent; remove it, as a TransientError, if wrong."""
        if stored.size == size and stored.crc32c in (None, crc):
            return
        doing = "was stored damaged and cannot be removed"
        # Gone, or replaced by someone else's: nothing to remove.
        with self._reporting(name, doing), suppress(NotFound, PreconditionFailed):
            self._blob(name).delete(
                if_generation_match=int(stored.version), retry=None, timeout=self._timeout
            )
        raise damaged(self.url, name, "was stored damaged (its crc32c is wrong) and removed")

    def _delete(self, name: str) -> None:
        with self._reporting(name, "cannot be deleted"), suppress(NotFound):
            self._blob(name).delete(retry=None, timeout=self._timeout)

    def _delete_version(self, name: str, version: str) -> None:
        with self._reporting(name, "cannot be deleted"):
            try:
                self._blob(name).delete(
                    if_generation_match=int(version), retry=None, timeout=self._timeout
                )
            except (NotFound, PreconditionFailed):
                raise changed(self.url, name) from None

    def _disconnect(self) -> None:
        self._client.close()

    @contextmanager
    def _reporting(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except GoogleAPICallError as e:
            status = int(e.code or 0)
            raise self.answer_failure(name, what, status, _message(e)) from e
        except DataCorruption as e:
            raise damaged(self.url, name, "was sent or received damaged (wrong checksum)") from e
        except TransportError as e:
            raise network_failure(self.url, name, what, "the token server", e) from e
        except GoogleAuthError as e:
            if getattr(e, "retryable", False):
                raise network_failure(self.url, name, what, "the token server", e) from e
            check = "check the credentials, and that they are neither expired nor revoked"
            raise failure(self.url, name, f"{what} (no access token)", check) from e
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as e:
            raise self.network_failure(name, what, e) from e
        except (ValueError, KeyError, RecursionError) as e:
            # An answer that is no JSON, nested without end, or lacks what every answer has.
            raise damaged(self.url, name, f"{what} (the answer came damaged)") from e

    def answer_failure(self, name: str, what: str, status: int, message: str) -> StorageError:
        """Build the error of an answer that refuses a request."""
        text = message.lower()
        was_damaged = status == 400 and any(word in text for word in ("crc32c", "checksum", "hash"))
        return status_failure(self.url, name, what, status, message, transient=was_damaged)

    def network_failure(self, name: str, what: str, error: BaseException) -> StorageError:
        """Build the error of a request without a whole answer."""
        return network_failure(self.url, name, what, self._endpoint, error)


def _stored(blob: Any) -> Stored:
    encoded = blob.crc32c
    return Stored(
        size=int(blob.size),
        modified=blob.updated.timestamp(),
        version=str(blob.generation),
        crc32c=None if encoded is None else int.from_bytes(base64.b64decode(encoded), "big"),
    )


def _message(error: GoogleAPICallError) -> str:
    """Give the service's own words; the exception's text would show the URL."""
    try:
        body = error.response.json()["error"]
        return str(body["message"] if isinstance(body, dict) else body)
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        return ""
