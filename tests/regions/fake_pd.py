"""A PD on loopback that answers well, badly, by the byte, or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Behaviour = Callable[[socket.socket, threading.Event], None]
"""Takes a connection whose request has been read; the event is set when all is to end."""


def answering(content: bytes, status: str = "200 OK", *headers: str) -> Behaviour:
    """Sends an answer; of a length that the headers claim, if they claim one."""
    lines = list(headers)
    if not any("length" in line.lower() for line in lines):
        lines.append(f"Content-Length: {len(content)}")
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""])

    def answer(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(head.encode() + content)

    return answer


def silent(connection: socket.socket, ended: threading.Event) -> None:
    """Never says a word."""
    ended.wait()


def stalling(connection: socket.socket, ended: threading.Event) -> None:
    """Begins its answer and stops."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"gc')
    ended.wait()


def dripping(before: bytes, drop: bytes) -> Behaviour:
    """Sends something again and again, so that no single read waits for long."""

    def drip(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(before)
        while not ended.wait(0.05):
            connection.sendall(drop)

    return drip


def resetting(connection: socket.socket, ended: threading.Event) -> None:
    """Resets the connection within its answer."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"gc')
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


class FakePd:
    """Where it listens, and what it was asked for."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.paths: list[str] = []


@contextmanager
def fake_pd(behaviour: Behaviour) -> Iterator[FakePd]:
    """Serve, one connection at a time, until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    pd, ended = FakePd(listener), threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    request = connection.recv(64 << 10)
                    if request:
                        pd.paths.append(request.split()[1].decode())
                        behaviour(connection, ended)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield pd
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
