"""The options that all clouds have in a storage URL's query.

chunk-size   bytes in one request of an upload: gcs 64MiB (read as they are sent), s3 8MiB
endpoint     where the service is, if not at its maker's
timeout      seconds to wait for the next bytes of an answer, 20
"""

from __future__ import annotations

from urllib.parse import urlsplit

from bkctl.codec.size import parse_size
from bkctl.errors import UsageError
from bkctl.storage.url import StorageSpec

MAX_CHUNK_SIZE = 1 << 30
DEFAULT_TIMEOUT = 20.0
MAX_CONNECT_TIMEOUT = 5.0


def check_options(spec: StorageSpec) -> None:
    """Raise UsageError for options that cannot be meant, before anything is looked up."""
    endpoint_option(spec)
    timeouts_option(spec)
    chunk_size_option(spec)


def chunk_size_option(spec: StorageSpec, multiple: int = 1, default: int = 0) -> int:
    """Read the `chunk-size` option: bytes in one request, rounded up to what the service takes."""
    text = spec.option("chunk-size")
    if text is None:
        return default
    size = parse_size(text)
    if not 0 < size <= MAX_CHUNK_SIZE:
        raise UsageError(f"{spec.display}: chunk-size must be between 1 byte and 1GiB")
    return -(-size // multiple) * multiple


def timeouts_option(spec: StorageSpec) -> tuple[float, float]:
    """Read the `timeout` option: seconds to wait for a connection, and for the next bytes."""
    text = spec.option("timeout")
    try:
        seconds = DEFAULT_TIMEOUT if text is None else float(text)
    except ValueError:
        seconds = -1
    if not 0 < seconds <= 3600:
        raise UsageError(f"{spec.display}: timeout must be a number of seconds up to 3600")
    return min(seconds, MAX_CONNECT_TIMEOUT), seconds


def endpoint_option(spec: StorageSpec) -> str | None:
    """Read the `endpoint` option: an http:// or https:// URL, without a slash at its end."""
    endpoint = spec.option("endpoint")
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(f"{spec.display}: the endpoint must be http://host or https://host")
    return endpoint.rstrip("/")
