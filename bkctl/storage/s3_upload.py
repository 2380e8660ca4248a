"""The upload of a file to S3 in parts.

    create_multipart_upload             an upload id
    upload_part 1, 2, …                 an ETag and a checksum each; a part may be sent again
    complete_multipart_upload           the object, in one step, of all parts by ETag and checksum

Parts but the last have at least 5 MiB, and there are at most 10,000. Source: Amazon S3 user guide,
"Uploading and copying objects using multipart upload".
"""

from __future__ import annotations

import hashlib
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from botocore.exceptions import ClientError

from bkctl.storage.base import failure
from bkctl.storage.cloud import Stored, UploadLostError
from bkctl.storage.failures import damaged
from bkctl.storage.file_part import FilePart
from bkctl.storage.s3_checks import encoded_crc32c, is_stored

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIN_PART_SIZE = 5 << 20

_WHAT = "cannot be uploaded"


class Owner(Protocol):
    """What an upload needs of the storage it belongs to."""

    @property
    def url(self) -> str:
        """For errors."""

    def head(self, name: str) -> Stored | None:
        """Look up an object."""

    def reporting(self, name: str, what: str) -> AbstractContextManager[None]:
        """Turn the client's exceptions into StorageError."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is stored, as completing names it."""

    etag: str
    crc32c: str


class MultipartUpload:
    """See cloud.Upload."""

    def __init__(
        self, owner: Owner, client: S3Client, bucket: str, key: str, upload_id: str, name: str
    ) -> None:
        self._owner, self._client, self._name = owner, client, name
        self._place: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
        self._parts: list[Part] = []
        self._offset = 0

    @property
    def offset(self) -> int:
        """Bytes in the parts that are stored."""
        return self._offset

    def resume(self, file: BinaryIO) -> None:
        """Nothing to ask: a part whose answer was lost is sent again."""

    def send(self, part: FilePart) -> None:
        """Send one part."""
        data = part.data()
        crc = encoded_crc32c(data)
        with self._owner.reporting(self._name, _WHAT):
            try:
                answer = self._client.upload_part(
                    **self._place, PartNumber=len(self._parts) + 1, Body=data, ChecksumCRC32C=crc
                )
            except ClientError as e:
                if _is_unknown(e):
                    raise self._lost("the service has forgotten it") from e
                raise
        if not is_stored(data, crc, answer):
            raise damaged(self._owner.url, self._name, "a part was stored damaged")
        self._parts.append(Part(answer["ETag"], crc))
        self._offset += len(data)

    def complete(self) -> None:
        """Make the object; after a lost answer, find out whether it was made."""
        parts: list[Any] = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumCRC32C": part.crc32c}
            for number, part in enumerate(self._parts, 1)
        ]
        with self._owner.reporting(self._name, _WHAT):
            try:
                self._client.complete_multipart_upload(
                    **self._place, MultipartUpload={"Parts": parts}
                )
            except ClientError as e:
                if not _is_unknown(e):
                    raise
                if not self._is_made():
                    raise self._lost("the service has forgotten it") from e
                return
        stored = self._owner.head(self._name)
        if stored is None or stored.size != self._offset:
            raise self._lost("the object has not the size of its file")

    def _is_made(self) -> bool:
        stored = self._owner.head(self._name)
        if stored is None or stored.size != self._offset:
            return False
        etags = [part.etag.strip('"') for part in self._parts]
        if not all(re.fullmatch("[0-9a-f]{32}", etag) for etag in etags):
            return False
        digest = hashlib.md5(bytes.fromhex("".join(etags)), usedforsecurity=False).hexdigest()
        return stored.version.strip('"') == f"{digest}-{len(etags)}"

    def abort(self) -> None:
        """Let the service throw the parts away."""
        with self._owner.reporting(self._name, "its unfinished upload cannot be removed"):
            self._client.abort_multipart_upload(**self._place)

    def _lost(self, why: str) -> UploadLostError:
        check = "check the network and the service if this comes again"
        return UploadLostError(str(failure(self._owner.url, self._name, f"{_WHAT} ({why})", check)))


def _is_unknown(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") == "NoSuchUpload"
