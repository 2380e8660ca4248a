"""What a service's answer or a broken connection means: which error, and what to check.

Exceptions of HTTP clients quote URLs, and those may hold signatures and upload tickets. So nothing
here repeats an exception's text; a service's own message is shown, shortened, on one line.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from bkctl.errors import StorageError
from bkctl.storage.base import TransientError, failure

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_CHECKS = {
    400: "check the options in the storage URL",
    401: "check the credentials",
    403: "check that these credentials may list, read, write and delete in this bucket",
    404: "check the bucket's name and the endpoint",
    408: "check the network",
    411: "check that the endpoint is an object storage",
    412: "another run writes there at the same time; let one of them finish",
    429: "the service limits requests; lower --jobs or --rate-limit",
    501: "the service lacks what is needed; use another endpoint",
}
_WHAT = {
    401: "credentials are missing or refused",
    403: "permission denied",
    404: "no such bucket",
    429: "too many requests",
}


def status_failure(
    url: str,
    name: str,
    what: str,
    status: int,
    message: str = "",
    *,
    transient: bool = False,
    check: str = "",
) -> StorageError:
    """Build the error of an HTTP status; `what` says what failed, `message` is the service's.

    `check` is what to check where more is known than the status tells.
    """
    reason = _WHAT.get(status, "the service failed" if status >= 500 else "the request is refused")
    said = _shortened(message)
    reason = f"{what} ({reason}, status {status}{': ' + said if said else ''})"
    fallback = "check the service's state" if status >= 500 else _CHECKS[400]
    check = check or _CHECKS.get(status, fallback)
    error = failure(url, name, reason, check)
    if transient or status in TRANSIENT_STATUSES:
        return TransientError(str(error))
    return error


def damaged(url: str, name: str, what: str) -> TransientError:
    """Build the error of a transfer whose checksum or length is wrong."""
    error = failure(url, name, what, "check the network and its proxies if this comes again")
    return TransientError(str(error))


def network_failure(
    url: str, name: str, what: str, endpoint: str, error: BaseException
) -> StorageError:
    """Build the error of a request that got no answer, or only a part of one."""
    host = urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint
    reason, check, is_final = _network_reason(error)
    line = failure(url, name, f"{what} ({host}: {reason})", check)
    return line if is_final else TransientError(str(line))


def _network_reason(error: BaseException) -> tuple[str, str, bool]:
    chain = tuple(_chain(error))
    names = {type(e).__name__ for e in chain}
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return "its certificate is not trusted", "check the endpoint and the CA certificates", True
    if any(isinstance(e, socket.gaierror) for e in chain) or "NameResolutionError" in names:
        return "host name not found", "check the endpoint and DNS", False
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        return "connection refused", "check the endpoint and its port", False
    if any(isinstance(e, TimeoutError) for e in chain) or any("Timeout" in n for n in names):
        return "no answer in time", "check the endpoint, the network and firewalls", False
    if any(isinstance(e, ssl.SSLError) for e in chain):
        return "no encrypted connection", "check http:// or https:// in the endpoint", False
    return "connection cut", "check the endpoint and the network", False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give the error and what it was made from; HTTP clients wrap in many ways."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        e = waiting.pop()
        if not isinstance(e, BaseException) or id(e) in seen:
            continue
        seen.add(id(e))
        yield e
        waiting += [e.__cause__, e.__context__, getattr(e, "reason", None), *e.args]
        waiting += getattr(e, "kwargs", {}).values()


def _shortened(message: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return text if len(text) <= 200 else text[:197] + "..."
