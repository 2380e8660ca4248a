"""Checksums of S3: a CRC-32C in answers, else the MD5 that an ETag is where nothing is encrypted.

    x-amz-checksum-crc32c   base64 of 4 bytes, big-endian; of parts and of objects made in one step
    x-amz-meta-bkctl-crc32c the same of the whole object, written by bkctl
    ETag                    hex MD5 in quotes; "<hex MD5 of the parts' MD5s>-<parts>" of many parts

Source: Amazon S3 user guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from bkctl.storage.cloud import Stored
from bkctl.storage.file_part import crc32c

CRC32C_METADATA = "bkctl-crc32c"


def encoded_crc32c(data: bytes) -> str:
    """Compute the CRC-32C of bytes as S3 writes it."""
    return encode(crc32c(data))


def encode(crc: int) -> str:
    """Write a CRC-32C as S3 does: base64 of 4 bytes, big-endian."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def is_stored(data: bytes, crc: str, answer: Mapping[str, Any]) -> bool:
    """Whether the answer to a body that was sent fits it, as far as the service tells."""
    echoed = answer.get("ChecksumCRC32C")
    if echoed is not None:
        return bool(echoed == crc)
    return _fits_md5(data, answer)


def is_content(data: bytes, stored: Stored, answer: Mapping[str, Any]) -> bool:
    """Whether a body that came is the whole object's content, as far as the service tells."""
    if stored.crc32c is not None:
        return stored.crc32c == crc32c(data)
    return _fits_md5(data, answer)


def _fits_md5(data: bytes, answer: Mapping[str, Any]) -> bool:
    etag = str(answer.get("ETag", "")).strip('"')
    encryption = answer.get("ServerSideEncryption", "AES256")
    if encryption != "AES256" or "SSECustomerAlgorithm" in answer:
        return True  # the ETag is no MD5 of the content
    if not re.fullmatch(r"[0-9a-f]{32}", etag):
        return True
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == etag


def whole_crc32c(found: Mapping[str, Any]) -> int | None:
    """Read the checksum of a whole object, ours or the service's.

    The service's is of no use where it is made of the checksums of parts.
    """
    ours = str(found.get("Metadata", {}).get(CRC32C_METADATA, ""))
    if re.fullmatch(r"[A-Za-z0-9+/]{6}==", ours):
        return int.from_bytes(base64.b64decode(ours), "big")
    encoded = str(found.get("ChecksumCRC32C", ""))
    is_whole = "-" not in found["ETag"] or found.get("ChecksumType") == "FULL_OBJECT"
    if not encoded or not is_whole or "-" in encoded:
        return None
    return int.from_bytes(base64.b64decode(encoded), "big")
