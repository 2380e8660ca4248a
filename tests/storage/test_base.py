from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bkctl.errors import StorageError
from bkctl.storage.base import MAX_NAME_BYTES, check_name, folder_parts


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
