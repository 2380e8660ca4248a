"""The upload of a file to Google Cloud Storage in chunks, under a resumable session.

    PUT <session>  Content-Range: bytes 0-8388607/20971520    308  Range: bytes=0-8388607
    PUT <session>  Content-Range: bytes */20971520            308  Range: bytes=0-N   (how far?)
    PUT <session>  Content-Range: bytes 16777216-…/20971520   200  the object's metadata

`Range` tells the bytes that are stored, which may be fewer than were sent. All chunks but the last
are multiples of 256 KiB. The session's URL is a ticket by itself: it is shown nowhere.

Source: Google Cloud Storage documentation, "Perform resumable uploads".
"""

from __future__ import annotations

import base64
import http.client
import os
import re
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import requests
import urllib3
from google.auth.exceptions import GoogleAuthError, TransportError

from bkctl.errors import StorageError
from bkctl.shortage import reason_of
from bkctl.storage.base import TransientError, failure
from bkctl.storage.cloud import Stored, UploadLostError
from bkctl.storage.failures import status_failure
from bkctl.storage.file_part import FileBody, FilePart, crc32c

CHUNK_MULTIPLE = 256 << 10

_WHAT = "cannot be uploaded"
_LOST = frozenset({404, 410})
_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """Where a session's requests go, and how."""

    url: str
    http: requests.Session
    timeout: tuple[float, float]


class Owner(Protocol):
    """What an upload needs of the storage it belongs to."""

    @property
    def url(self) -> str:
        """For errors."""

    def answer_failure(self, name: str, what: str, status: int, message: str) -> StorageError:
        """Build the error of an answer that refuses a request."""

    def network_failure(self, name: str, what: str, error: BaseException) -> StorageError:
        """Build the error of a request without a whole answer."""

    def accept_if_ours(self, name: str, size: int, crc: int) -> None:
        """Return if the object that stands there is the one that was to be written."""

    def check_stored(self, name: str, stored: Stored, size: int, crc: int) -> None:
        """Raise TransientError, and remove the object, if it is not what was sent."""


class SessionUpload:
    """See cloud.Upload. `crc` is always that of the first `offset` bytes of the file."""

    def __init__(self, owner: Owner, session: Session, name: str, size: int) -> None:
        self._owner, self._session, self._name, self._size = owner, session, name, size
        self._offset = self._crc = 0
        self._stored: Stored | None = None
        self._is_ours = False

    @property
    def offset(self) -> int:
        """Bytes that the service has stored."""
        return self._offset

    def send(self, part: FilePart) -> None:
        """Send one chunk; the last one makes the object."""
        end = self._offset + len(part)
        headers = {"Content-Range": f"bytes {self._offset}-{end - 1}/{self._size}"}
        crc = part.crc32c(self._crc)
        if end == self._size:
            # So the service refuses a damaged file before anyone can see it.
            headers["X-Goog-Hash"] = "crc32c=" + base64.b64encode(crc.to_bytes(4, "big")).decode()
        response = self._put(FileBody(part), headers)
        if response.status_code == http.client.PRECONDITION_FAILED and end == self._size:
            self._owner.accept_if_ours(self._name, self._size, crc)
            self._is_ours = True
            self._offset, self._crc = end, crc
            return
        reached = self._reached(response)
        if not self._offset <= reached <= end:
            raise self._lost(f"{_WHAT} (the service has {reached} bytes of {end})")
        if reached == self._offset:
            what = f"{_WHAT} (the service took nothing of a chunk)"
            raise status_failure(self._owner.url, self._name, what, 503)
        self._crc = crc if reached == end else part.crc32c(self._crc, reached - self._offset)
        self._offset = reached

    def resume(self, file: BinaryIO) -> None:
        """Ask how far the service has come, and compute the checksum of up to there."""
        if self._offset == self._size:
            return
        response = self._put(b"", {"Content-Range": f"bytes */{self._size}"})
        reached = self._reached(response)
        if not self._offset <= reached <= self._size:
            raise self._lost(f"{_WHAT} (the service has forgotten a part of it)")
        while self._offset < reached:
            length = min(_READ_SIZE, reached - self._offset)
            try:
                data = os.pread(file.fileno(), length, self._offset)
            except OSError as e:
                what = f"{_WHAT} ({file.name} cannot be read: {reason_of(e)})"
                check = "check the temporary directory"
                raise failure(self._owner.url, self._name, what, check) from e
            if not data:
                raise self._lost(f"{_WHAT} ({file.name} became shorter)")
            self._crc = crc32c(data, self._crc)
            self._offset += len(data)

    def complete(self) -> None:
        """Compare the object with what was read here."""
        if self._is_ours:
            return
        if self._stored is None:
            raise self._lost(f"{_WHAT} (the service did not complete it)")
        try:
            self._owner.check_stored(self._name, self._stored, self._size, self._crc)
        except TransientError as e:
            raise UploadLostError(str(e)) from e

    def abort(self) -> None:
        """Cancel the session."""
        if self._stored is None:
            self._request("DELETE", b"", {})

    def _put(self, data: bytes | FileBody, headers: dict[str, str]) -> requests.Response:
        return self._request("PUT", data, headers)

    def _request(
        self, method: str, data: bytes | FileBody, headers: dict[str, str]
    ) -> requests.Response:
        session = self._session
        try:
            return session.http.request(
                method,
                session.url,
                data=data,
                headers=headers,
                timeout=session.timeout,
                allow_redirects=False,
            )
        except GoogleAuthError as e:
            if isinstance(e, TransportError) or getattr(e, "retryable", False):
                raise self._owner.network_failure(self._name, _WHAT, e) from e
            check = "check the credentials, and that they are neither expired nor revoked"
            what = f"{_WHAT} (no access token)"
            raise failure(self._owner.url, self._name, what, check) from e
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as e:
            raise self._owner.network_failure(self._name, _WHAT, e) from e

    def _reached(self, response: requests.Response) -> int:
        """Read from an answer how many bytes are stored; keeps what it says of the object."""
        status = response.status_code
        if status in (http.client.OK, http.client.CREATED):
            self._stored = self._read_metadata(response)
            return self._size
        if status == http.client.PERMANENT_REDIRECT:
            found = re.fullmatch(r"bytes=0-([0-9]+)", response.headers.get("Range", ""))
            return int(found[1]) + 1 if found else 0
        error = self._owner.answer_failure(self._name, _WHAT, status, _message(response))
        if status in _LOST or (status == 400 and isinstance(error, TransientError)):
            raise UploadLostError(str(error)) from None
        raise error

    def _read_metadata(self, response: requests.Response) -> Stored:
        try:
            body: dict[str, Any] = response.json()
            return Stored(
                size=int(body["size"]),
                modified=0.0,  # of no interest here
                version=str(int(body["generation"])),
                crc32c=int.from_bytes(base64.b64decode(body["crc32c"]), "big"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise self._lost(f"{_WHAT} (the answer came damaged)") from e

    def _lost(self, what: str) -> UploadLostError:
        line = failure(self._owner.url, self._name, what, "check the network if this comes again")
        return UploadLostError(str(line))


def _message(response: requests.Response) -> str:
    try:
        body = response.json()["error"]
        return str(body["message"] if isinstance(body, dict) else body)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
