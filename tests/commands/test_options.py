from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.commands import options
from bkctl.commands.jobs import default_jobs
from bkctl.commands.options import KeyFormat, parse_key
from bkctl.errors import RegionMapError, UsageError
from bkctl.regions.region import Peer, Region, RegionEpoch
from tests.commands.console import write_map


@given(st.binary(max_size=40))
def test_hex_keys_are_read_in_either_case(raw_key: bytes) -> None:
    assert parse_key(raw_key.hex(), KeyFormat.HEX) == raw_key
    assert parse_key(raw_key.hex().upper(), KeyFormat.HEX) == raw_key


@pytest.mark.parametrize("text", ["7", "7g", "74 80", "0x74", " 74", "７４"])  # noqa: RUF001
def test_what_is_no_hex_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="two digits a byte"):
        parse_key(text, KeyFormat.HEX)


@pytest.mark.parametrize(
    ("text", "raw_key"),
    [
        ("abc", b"abc"),
        (r"a\x00b\xFf", b"a\x00b\xff"),
        (r"t\200\000\000", b"t\x80\x00\x00"),
        (r"\377", b"\xff"),
        (r"\a\b\f\n\r\t\v", b"\a\b\f\n\r\t\v"),
        (r"\"\'\\", b"\"'\\"),
        (r"\\x41", b"\\x41"),
        ("ü", "ü".encode()),
        ("", b""),
    ],
)
def test_escaped_keys_are_read_as_tikv_ctl_prints_them(text: str, raw_key: bytes) -> None:
    assert parse_key(text, KeyFormat.ESCAPED) == raw_key


@pytest.mark.parametrize("text", ["\\", r"a\x0", r"\xzz", r"\400", r"\777", r"\08", r"\q", "\\ü"])
def test_bad_escapes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no escape"):
        parse_key(text, KeyFormat.ESCAPED)


@given(st.binary(max_size=40))
def test_raw_keys_are_the_bytes_of_the_argument(raw_key: bytes) -> None:
    assert parse_key(os.fsdecode(raw_key), KeyFormat.RAW) == raw_key


def test_a_bad_key_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--end-key: 'zz' is no hexadecimal key"):
        options.parse_key_window("00", "zz", KeyFormat.HEX)


@pytest.mark.parametrize(("start", "end"), [("61", "61"), ("62", "61"), ("6100", "61")])
def test_a_window_of_no_keys_is_refused(start: str, end: str) -> None:
    with pytest.raises(UsageError, match="--end-key 61 is not after --start-key"):
        options.parse_key_window(start, end, KeyFormat.HEX)


def test_missing_keys_are_no_bounds() -> None:
    assert options.parse_key_window(None, None, KeyFormat.HEX) == (b"", b"")
    assert options.parse_key_window("61", None, KeyFormat.HEX) == (b"a", b"")


def test_a_window_of_time_must_not_run_backwards() -> None:
    options.check_ts_window(5, 5)
    with pytest.raises(UsageError, match=r"--start-ts 6 .* lies after --end-ts 5"):
        options.check_ts_window(6, 5)


def test_a_missing_option_says_all_ways_to_give_it() -> None:
    assert options.required("--db", 0) == 0
    with pytest.raises(UsageError, match=r"--wal-dir.*BKCTL_WAL_DIR.*wal-dir in bkctl\.toml"):
        options.required("--wal-dir", None)


def test_a_column_family_is_for_raw_stores() -> None:
    assert options.family_of(True, None) == "default"
    assert options.family_of(True, "write") == "write"
    with pytest.raises(UsageError, match="--cf write"):
        options.family_of(False, "write")


@pytest.mark.parametrize(("cores", "jobs"), [(1, 1), (2, 1), (3, 1), (8, 4), (64, 8)])
def test_default_jobs_are_half_of_the_cores(
    cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert default_jobs() == jobs


def test_region_map_none_is_one_region_over_all_keys() -> None:
    region_map, skipped = options.load_region_map("none", None)
    assert [(region.start_key, region.end_key) for region in region_map.regions] == [(b"", b"")]
    assert skipped == []


def test_region_map_of_a_file_keeps_what_it_drops(tmp_path: Path) -> None:
    peer = Peer(1, 1)
    newer = Region(2, b"a", b"c", RegionEpoch(1, 9), (peer,), peer)
    older = Region(3, b"b", b"d", RegionEpoch(1, 8), (peer,), peer)
    path = write_map(tmp_path / "regions.json", newer, older)
    region_map, skipped = options.load_region_map(str(path), None)
    assert region_map.regions == (newer,)
    assert [entry.region_id for entry in region_map.skipped] == [3]
    assert skipped == []


def test_a_region_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegionMapError, match=r"nowhere\.json"):
        options.load_region_map(str(tmp_path / "nowhere.json"), None)


def test_region_map_store_needs_a_store() -> None:
    with pytest.raises(UsageError, match=r"--region-map store .* give --db"):
        options.load_region_map("store", None)
