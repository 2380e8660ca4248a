from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bkctl.errors import StorageError
from bkctl.storage.base import MAX_NAME_BYTES, check_name, folder_parts, side_by_side


@pytest.mark.parametrize(
    "name", ["a", "a/b", "20261123T101500.000Z-full/backupmeta", ".x", "ä/ö", "a b", "n" * 1024]
)
def test_plain_relative_names_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a/.",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\x7f",
        "a\u202eb",
        "\udcff",
        "n" * 1025,
        "ä" * 513,
        "a/.bkctl-tmp-1",
        "a/.bkctl-staging/b",
    ],
)
def test_names_that_could_lead_elsewhere_are_refused_on_one_line(name: str) -> None:
    with pytest.raises(StorageError) as e:
        check_name(name)
    assert str(e.value).isprintable()
    assert str(e.value).isascii()
    assert len(str(e.value)) < 600


@given(st.text() | st.text("./\\ab\0"))
@example("a/" * 600)
def test_a_name_is_refused_or_stays_below_its_root(name: str) -> None:
    try:
        check_name(name)
    except StorageError:
        return
    parts = name.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert name.isprintable()


def test_a_folder_may_be_given_with_or_without_its_slash() -> None:
    assert folder_parts("") == folder_parts("/") == ()
    assert folder_parts("a/b") == folder_parts("a/b/") == ("a", "b")
    with pytest.raises(StorageError):
        folder_parts("a/../..")


def test_calls_side_by_side_answer_in_order() -> None:
    assert side_by_side(str, range(100)) == [str(number) for number in range(100)]
    assert side_by_side(str, ()) == []


def test_once_one_call_failed_those_that_wait_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def tell_and_shut_down(threads: ThreadPoolExecutor, *args: Any, **options: Any) -> None:
        told.set()
        shutdown(threads, *args, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", tell_and_shut_down)
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise StorageError("the storage is gone")
        told.wait()

    with pytest.raises(StorageError, match="is gone"):
        side_by_side(call, range(1000))
    assert len(begun) < 20
