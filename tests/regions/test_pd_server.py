"""Several PDs, of which some do not answer, or not as they should."""

from __future__ import annotations

import gzip
import time

import pytest

from bkctl.errors import UsageError
from bkctl.regions import pd_server
from bkctl.regions.keyspace_names import fetch_keyspace_id
from bkctl.regions.safe_point import fetch_gc_safe_point
from tests.regions.fake_pd import (
    Behaviour,
    answering,
    dripping,
    fake_pd,
    resetting,
    silent,
    stalling,
)

SOUND = answering(b'{"gc_safe_point": 440000000000000000}')
SECONDS = 2.0
CHUNKED = "Transfer-Encoding: chunked\r\nX-No-Length: 0"

BAD: dict[str, Behaviour] = {
    "cut": answering(b'{"gc_safe', "200 OK", "Content-Length: 500"),
    "bad gzip": answering(b"no gzip at all", "200 OK", "Content-Encoding: gzip"),
    "cut gzip": answering(gzip.compress(bytes(5000))[:-9], "200 OK", "Content-Encoding: gzip"),
    "bad chunks": answering(b"zz\r\n", "200 OK", CHUNKED),
    "reset": resetting,
    "silence": silent,
    "stall": stalling,
    "drops of a head": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "drops of a body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
    "redirects": answering(b"", "302 Found", "Location: /again"),
    "no server": answering(b"", "302 Found", "Location: http://127.0.0.1:1/"),
    "no scheme": answering(b"", "302 Found", "Location: file:///etc/passwd"),
    "error": answering(b'"not leader"', "503 Unavailable"),
    "nested": answering(b"[" * 200_000),
    "digits": answering(b'{"gc_safe_point": %s}' % (b"9" * 10_000)),
    "too large": answering(b" " * (5 << 20)),
    "no HTTP": answering(b"", "\x00\xff"),
}


@pytest.fixture(autouse=True)
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd_server, "DEADLINE_SECONDS", SECONDS)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.mark.parametrize("kind", BAD)
def test_after_a_bad_server_the_next_one_is_asked(kind: str) -> None:
    with fake_pd(BAD[kind]) as bad, fake_pd(SOUND) as sound:
        assert fetch_gc_safe_point(f"{bad.address},{sound.address}") == 440000000000000000


@pytest.mark.parametrize("kind", ["silence", "stall", "drops of a head", "drops of a body"])
def test_one_deadline_is_over_all(kind: str) -> None:
    with fake_pd(BAD[kind]) as first, fake_pd(BAD[kind]) as second:
        begun = time.monotonic()
        with pytest.raises(UsageError) as raised:
            fetch_gc_safe_point(f"{first.address},{second.address}")
        assert time.monotonic() - begun < 2 * SECONDS
        told = str(raised.value)
        assert first.address in told
        assert second.address in told


def test_what_a_server_says_of_an_error_is_told() -> None:
    with (
        fake_pd(BAD["error"]) as bad,
        pytest.raises(UsageError, match="HTTP 503: not leader; check --pd"),
    ):
        fetch_gc_safe_point(bad.address)


def test_a_redirect_is_followed() -> None:
    with fake_pd(SOUND) as leader:
        moved = answering(b"", "307 Moved", f"Location: http://{leader.address}/there")
        with fake_pd(moved) as follower:
            assert fetch_gc_safe_point(follower.address) == 440000000000000000
        assert leader.paths == ["/there"]


def test_a_keyspace_is_looked_up_by_its_name() -> None:
    with fake_pd(answering(b'{"id": 4242, "name": "orders", "state": "ENABLED"}')) as pd:
        assert fetch_keyspace_id(pd.address, "orders") == 4242
        assert pd.paths == ["/pd/api/v2/keyspaces/orders"]
        with pytest.raises(UsageError, match="about another keyspace"):
            fetch_keyspace_id(pd.address, "others")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answering(b'"keyspace does not exist"', "500 Error"), "keyspace does not exist"),
        (answering(b"{}"), "holds no id"),
        (answering(b"[]"), "holds no id"),
        (answering(b'{"id": true}'), "holds no id"),
        (answering(b'{"id": 16777216}'), "16777216, which no keyspace has"),
    ],
)
def test_another_answer_about_a_keyspace_is_refused(answer: Behaviour, says: str) -> None:
    with fake_pd(answer) as pd, pytest.raises(UsageError, match=f"--keyspace orders: .*{says}"):
        fetch_keyspace_id(pd.address, "orders")


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "", "x" * 65, "ä"])
def test_what_can_be_no_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(UsageError, match="neither an id from 0 to 16777215 nor a name"):
        fetch_keyspace_id("127.0.0.1:1", name)
