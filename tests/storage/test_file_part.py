"""Parts of files as request bodies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests

from bkctl.errors import StorageError
from bkctl.storage.file_part import FileBody, FilePart, crc32c
from bkctl.storage.gcs import _Adapter


def problem(error: OSError | None) -> StorageError:
    return StorageError("shorter" if error is None else f"unreadable: {error.strerror}")


@pytest.mark.parametrize(("offset", "size"), [(0, 3 << 20), (5, 1), (1 << 20, 1 << 20), (7, 0)])
def test_a_body_is_its_part(offset: int, size: int, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(content)
    wanted = content[offset : offset + size]
    with (tmp_path / "f").open("rb") as file:
        part = FilePart(file, offset, size, problem)
        assert part.data() == wanted
        assert part.crc32c(7) == crc32c(wanted, 7)
        assert part.crc32c(0, size // 2) == crc32c(wanted[: size // 2])
        body = FileBody(part)
        assert len(body) == size
        assert b"".join(body) == wanted
        assert (body.tell(), body.read()) == (size, b"")
        assert body.seek(-1, os.SEEK_END) == max(0, size - 1)
        assert body.read(10) == wanted[-1:]


def test_a_file_that_became_shorter_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    with (tmp_path / "f").open("rb") as file, pytest.raises(StorageError, match="shorter"):
        FileBody(FilePart(file, 4, 7, problem)).read()


def test_a_request_that_is_repeated_sends_all_of_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    sent: list[tuple[str | None, bytes]] = []

    def send(self: object, request: requests.PreparedRequest, **settings: object) -> None:
        assert "Transfer-Encoding" not in request.headers
        body = request.body
        assert isinstance(body, FileBody)
        sent.append((request.headers["Content-Length"], b"".join(body)))

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with (tmp_path / "f").open("rb") as file:
        body = FileBody(FilePart(file, 2, 5, problem))
        for _ in range(2):
            request = requests.Request("PUT", "http://127.0.0.1/x", data=body).prepare()
            _Adapter(None).send(request)
    assert sent == [("5", b"23456"), ("5", b"23456")]
