"""What the real service does with resumable uploads and fake-gcs-server does not.

It keeps count of the bytes each session has, answers `Content-Range: bytes */N` with that count (or
with the finished object), checks X-Goog-Hash and the session's ifGenerationMatch before the object
is made.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

import google_crc32c


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


Send = Callable[[str, str, dict[str, str], bytes], Answer]


@dataclass(slots=True)
class _Session:
    target: str
    generation: str | None
    reached: int = 0
    crc: int = 0
    final: Answer | None = None


class GcsSessions:
    """Sessions by their upload id; `checks_hash` False stores damaged files as if nothing were."""

    def __init__(self, *, checks_hash: bool = True) -> None:
        self.checks_hash = checks_hash
        self.forgets = False
        self.queries = 0
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def forward(
        self, method: str, target: str, headers: dict[str, str], body: bytes, send: Send
    ) -> Answer:
        query = parse_qs(urlsplit(target).query)
        if "upload_id" in query:
            with self._lock:
                return self._in_session(query["upload_id"][0], method, headers, body, send)
        answer = send(method, target, headers, body)
        if query.get("uploadType") == ["resumable"] and "Location" in answer.headers:
            location = parse_qs(urlsplit(answer.headers["Location"]).query)
            bucket = urlsplit(target).path.split("/b/")[1].split("/")[0]
            place = f"/storage/v1/b/{bucket}/o/{quote(location['name'][0], safe='')}"
            generation = query.get("ifGenerationMatch", [None])[0]
            self._sessions[location["upload_id"][0]] = _Session(place, generation)
        return answer

    def _in_session(
        self, upload_id: str, method: str, headers: dict[str, str], body: bytes, send: Send
    ) -> Answer:
        session = self._sessions.get(upload_id)
        if session is None:
            return _refusal(404, "no such upload")
        if method == "DELETE":
            del self._sessions[upload_id]
            return _refusal(499, "cancelled")
        if self.forgets:
            del self._sessions[upload_id]
            return _refusal(410, "the upload is gone")
        content_range = headers.get("content-range", "")
        if content_range.startswith("bytes */"):
            self.queries += 1
            return session.final or _incomplete(session)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
        assert found, content_range
        start, end, total = int(found[1]), int(found[2]) + 1, int(found[3])
        assert len(body) == end - start
        if session.final is not None or start != session.reached:
            return session.final or _incomplete(session)
        crc = int(google_crc32c.extend(session.crc, body))
        if end == total and (refusal := self._refused(session, crc, headers, send)):
            del self._sessions[upload_id]
            return refusal
        target = f"/upload/storage/v1{session.target.split('/storage/v1')[1].split('/o/')[0]}/o"
        answer = send("PUT", f"{target}?uploadType=resumable&upload_id={upload_id}", headers, body)
        if answer.status in (200, 308):
            session.reached, session.crc = end, crc
        if answer.status == 200:
            session.final = answer
        return answer

    def _refused(
        self, session: _Session, crc: int, headers: dict[str, str], send: Send
    ) -> Answer | None:
        if session.generation is not None:
            found = send("GET", session.target, {}, b"")
            now = str(json.loads(found.body)["generation"]) if found.status == 200 else "0"
            if now != session.generation:
                return _refusal(412, "conditionNotMet")
        told = headers.get("x-goog-hash")
        ours = "crc32c=" + base64.b64encode(crc.to_bytes(4, "big")).decode()
        if self.checks_hash and told != ours:
            return _refusal(400, f"Provided {told} doesn't match calculated CRC32C {ours}.")
        return None


def _incomplete(session: _Session) -> Answer:
    headers = {"Range": f"bytes=0-{session.reached - 1}"} if session.reached else {}
    return Answer(308, headers, b"")


def _refusal(status: int, message: str) -> Answer:
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return Answer(status, {"Content-Type": "application/json"}, body)
