from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.names import backup_file_name, check_backup_name, default_backup_name
from bkctl.errors import UsageError
from bkctl.storage.base import check_name


def test_file_names_are_those_of_a_real_backup() -> None:
    assert backup_file_name(4, 8, 2, b"test", 1633919546278, "default") == (
        "4_8_2_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        "_1633919546278_default.sst"
    )
    assert backup_file_name(1, 2, 2, b"test_-009965169116504", 1633919546277, "default") == (
        "1_2_2_7154800cc311f03afd1532e961b9a878dfbb119b104cf4daad5d0c7c0eacb502"
        "_1633919546277_default.sst"
    )


@given(st.binary(), st.integers(0, 2**64 - 1))
def test_every_file_name_is_an_object_name(raw_start_key: bytes, number: int) -> None:
    check_name(backup_file_name(number, number, number, raw_start_key, number, "write"))


def test_default_names_tell_time_and_kind() -> None:
    end_ts = 1_795_428_900_000 << 18
    assert default_backup_name(end_ts, "full") == "20261123T101500.000Z-full"
    assert default_backup_name(end_ts + (7 << 18) + 99, "incr") == "20261123T101500.007Z-incr"


@given(st.integers(0, 2**64 - 1), st.sampled_from(["full", "incr", "raw"]))
def test_every_default_name_can_be_used(end_ts: int, kind: str) -> None:
    check_backup_name(default_backup_name(end_ts, kind))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
def test_default_names_sort_by_time(stamps: list[int]) -> None:
    early, late = sorted(stamps)
    assert default_backup_name(early, "raw") <= default_backup_name(late, "raw")


@pytest.mark.parametrize("name", ["a", "before-upgrade", "20261123T101500.000Z-full", "ü 1"])
def test_plain_names_can_be_given(name: str) -> None:
    check_backup_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "/a", "a\\b", "a\0", "a\n", "\udcff", "n" * 201, "ü" * 101]
)
def test_other_names_are_refused_on_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="backup name") as e:
        check_backup_name(name)
    assert str(e.value).isprintable()


@given(st.text())
def test_a_name_that_passes_is_one_part_of_an_object_name(name: str) -> None:
    try:
        check_backup_name(name)
    except UsageError:
        return
    check_name(name)
    assert "/" not in name
