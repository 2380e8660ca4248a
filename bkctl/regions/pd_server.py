"""Asks PD's HTTP API: several servers in turn, within one deadline over all.

Whatever a server does (answer something else, cut its answer, send it a byte at a time, or none at
all), it costs its share of the time, and the next one is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar

from bkctl.codec.json_text import loads
from bkctl.errors import UsageError

if TYPE_CHECKING:
    import requests

DEADLINE_SECONDS = 20.0
"""For the answer of any of the servers."""

_CONNECT_SECONDS = 3.0
_MAX_ANSWER = 4 << 20
_MAX_TOLD = 200
_MAX_REDIRECTS = 5
_PIECE = 64 << 10

_Answer = TypeVar("_Answer")


def ask_pd(urls: str, path: str, read: Callable[[object], _Answer]) -> _Answer:
    """Ask for `path`; `urls` are one or more, separated by commas, and tried in turn.

    `read` takes the JSON document of an answer, and raises ValueError for one that it cannot be.
    Raises UsageError, which says what each server answered.
    """
    endpoints = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
    if not endpoints:
        raise UsageError(f"--pd {urls!a} names no PD; check --pd: a URL like http://10.0.0.1:2379")
    end = time.monotonic() + DEADLINE_SECONDS
    problems = []
    for number, endpoint in enumerate(endpoints):
        if not endpoint.startswith(("http://", "https://")):
            endpoint = f"http://{endpoint}"
        share = (end - time.monotonic()) / (len(endpoints) - number)
        try:
            return read(_within(share, endpoint + path))
        except ValueError as e:
            problems.append(f"{endpoint}: {e}")
    raise UsageError(f"{'; '.join(problems)}; check --pd")


def _within(seconds: float, url: str) -> object:
    """A server's answer; ValueError says why there is none."""
    outcome: list[bytes | ValueError] = []

    def fetch() -> None:
        try:
            outcome.append(_fetch(url, seconds))
        except ValueError as e:
            outcome.append(e)

    # A thread of its own, as a timeout of sockets is one of each read: a byte a second meets it.
    thread = threading.Thread(target=fetch, daemon=True, name="pd")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise ValueError(f"PD does not answer within {seconds:.0f} s")
    answer = outcome[0]
    if isinstance(answer, ValueError):
        raise answer
    try:
        return loads(answer)
    except ValueError:
        raise ValueError("the answer is no JSON; is this PD?") from None


def _fetch(url: str, seconds: float) -> bytes:
    """The content of an answer; ValueError for anything else."""
    import requests
    import urllib3

    try:
        with requests.Session() as session:
            return _content(session, url, time.monotonic() + seconds)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, HTTPException) as e:
        raise ValueError(f"PD does not answer ({type(e).__name__})") from None


def _content(session: requests.Session, url: str, end: float) -> bytes:
    import requests

    request = session.prepare_request(requests.Request("GET", url))
    settings = session.merge_environment_settings(url, {}, True, None, None)
    for _ in range(_MAX_REDIRECTS + 1):
        left = max(0.1, end - time.monotonic())
        with session.send(
            request, timeout=(min(left, _CONNECT_SECONDS), left), allow_redirects=False, **settings
        ) as answer:
            if answer.next is not None:
                # Followed here, as requests reads the whole content of a redirect.
                request = answer.next
                continue
            content = _read(answer, end)
            if answer.status_code != 200:
                raise ValueError(f"PD answers HTTP {answer.status_code}{_told(content)}")
            return content
    raise ValueError(f"PD redirects more than {_MAX_REDIRECTS} times")


def _read(answer: requests.Response, end: float) -> bytes:
    content = bytearray()
    for piece in answer.iter_content(_PIECE):
        content += piece
        if len(content) > _MAX_ANSWER:
            raise ValueError(f"the answer has more than {_MAX_ANSWER:,} bytes; is this PD?")
        if time.monotonic() > end:
            raise ValueError("PD does not end its answer")
    return bytes(content)


def _told(content: bytes) -> str:
    """What a server says of an error, if it is one short line."""
    text = content.decode("utf-8", "replace").strip().strip('"')
    return f": {text}" if 0 < len(text) <= _MAX_TOLD and text.isprintable() else ""
