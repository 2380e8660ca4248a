"""Asking PD for the GC safe point."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bkctl.errors import UsageError
from bkctl.regions.safe_point import fetch_gc_safe_point


class FakePd(ThreadingHTTPServer):
    answer = (200, b"")
    paths: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: FakePd

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        status, content = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def pd() -> Iterator[FakePd]:
    server = FakePd(("127.0.0.1", 0), _Handler)
    server.paths = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_safe_point_is_read(pd: FakePd) -> None:
    pd.answer = (200, b'{"service_gc_safe_points": [], "gc_safe_point": 440000000000000000}')
    url = f"http://127.0.0.1:{pd.server_port}"
    assert fetch_gc_safe_point(f"{url}/") == 440000000000000000
    assert pd.paths == ["/pd/api/v1/gc/safepoint"]
    # Several are tried in turn, with and without a scheme.
    assert fetch_gc_safe_point(f"http://127.0.0.1:1, 127.0.0.1:{pd.server_port}") > 0


@pytest.mark.parametrize(
    "answer",
    [
        (503, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"gc_safe_point": "1"}'),
        (200, b'{"gc_safe_point": -1}'),
        (200, b'{"gc_safe_point": true}'),
    ],
)
def test_another_answer_is_refused(pd: FakePd, answer: tuple[int, bytes]) -> None:
    pd.answer = answer
    with pytest.raises(UsageError, match=r"127\.0\.0\.1.*check --pd"):
        fetch_gc_safe_point(f"http://127.0.0.1:{pd.server_port}")


@pytest.mark.parametrize("urls", ["http://127.0.0.1:1", "", "http://[", "ftp://x"])
def test_no_answer_is_refused(urls: str) -> None:
    with pytest.raises(UsageError, match="check --pd"):
        fetch_gc_safe_point(urls)
