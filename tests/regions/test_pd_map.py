"""The region map as PD serves it, a piece at a time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import pytest

from bkctl.errors import UsageError
from bkctl.regions import pd
from bkctl.regions.pd_map import fetch_regions
from bkctl.regions.region import Region
from tests.regions.fake_pd import Behaviour, FakePd, answering, fake_pd
from tests.regions.maps import txn_region

REGIONS = [
    txn_region(1, b"", b"b"),
    txn_region(2, b"b", b"c"),
    txn_region(3, b"c", b"t\x80\x00/%"),
    txn_region(4, b"t\x80\x00/%", b""),
]


def listing(found: list[FakePd], told: Callable[[bytes], list[Region]]) -> Behaviour:
    """Answers as `told` has it of the key that is asked for."""

    def answer(connection: socket.socket, ended: threading.Event) -> None:
        query = urlsplit(found[0].paths[-1]).query
        key = next((part[4:] for part in query.split("&") if part.startswith("key=")), "")
        assert parse_qs(query)["limit"]
        content = pd.dump(told(unquote_to_bytes(key))).encode()
        answering(content)(connection, ended)

    return answer


def fetched(told: Callable[[bytes], list[Region]]) -> list[Region]:
    found: list[FakePd] = []
    with fake_pd(listing(found, told)) as server:
        found.append(server)
        return fetch_regions(server.address)


def test_pieces_are_asked_for_until_the_last_region() -> None:
    def two_from(key: bytes) -> list[Region]:
        return [each for each in REGIONS if not each.end_key or each.end_key > key][:2]

    assert fetched(two_from) == REGIONS
    assert fetched(lambda key: REGIONS) == REGIONS


def test_what_is_behind_a_gap_is_left_out_and_a_gap() -> None:
    assert fetched(lambda key: REGIONS[:2] if not key else []) == REGIONS[:2]


def test_a_list_that_does_not_go_on_is_an_error() -> None:
    with pytest.raises(UsageError, match="does not end"):
        fetched(lambda key: REGIONS[:1])


@pytest.mark.parametrize("content", [b"{}", b"3", b'{"regions": [{"id": 0}]}'])
def test_what_is_no_list_is_an_error(content: bytes) -> None:
    with fake_pd(answering(content)) as server, pytest.raises(UsageError, match="check --pd"):
        fetch_regions(server.address)
