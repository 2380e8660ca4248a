"""The sample program: what it says of its store is what the model finds in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bkctl.errors import UsageError
from bkctl.regions import pd
from examples.make_store import END_TS, MID_TS, Counts, main, make_store, populate
from tests.conftest import SAMPLE_ROWS, SAMPLE_SEED, SampleStore
from tests.examples.stores import history_of, read_family
from tests.model import History
from tests.oracles import bench_tool

ROOT = Path(__file__).resolve().parents[2]


def counts(history: History, start_ts: int, end_ts: int) -> Counts:
    expected = history.expected(start_ts, end_ts)
    return Counts(expected.kvs, expected.bytes)


def test_the_counts_told_are_those_of_the_model() -> None:
    history = History()
    told = populate(history, 300, 3)
    assert told.full_at_mid == counts(history, 0, MID_TS)
    assert told.full_at_end == counts(history, 0, END_TS)
    assert told.incremental == counts(history, MID_TS, END_TS)
    assert history.blocking_locks(END_TS) == []


def test_the_sample_has_something_of_everything() -> None:
    history = History()
    populate(history, 300, 3)
    kinds = {v.kind for versions in history.versions.values() for v in versions.values()}
    assert kinds == {*"PDLR"}
    full, incremental = history.expected(0, END_TS), history.expected(MID_TS, END_TS)
    assert 0 < full.default_kvs < full.puts
    assert incremental.deletes > 0
    assert any(len(versions) > 3 for versions in history.versions.values())


def test_the_store_holds_the_history(sample_store: SampleStore) -> None:
    history = History()
    assert populate(history, SAMPLE_ROWS, SAMPLE_SEED) == sample_store.made
    found = history_of(sample_store.path)
    assert found.versions == history.versions
    assert found.long_values == history.long_values


def test_the_region_map_tiles_the_rows(sample_store: SampleStore) -> None:
    regions = pd.load(sample_store.region_map)
    assert len(regions) == 8
    assert [region.end_key for region in regions[:-1]] == [r.start_key for r in regions[1:]]
    assert (regions[0].start_key, regions[-1].end_key) == (b"", b"")
    bounds = [(b"z" + r.start_key, b"z" + r.end_key if r.end_key else b"{") for r in regions]
    keys = read_family(sample_store.path, "write")
    assert all(any(low <= key < high for key in keys) for low, high in bounds)


def test_a_locked_store_blocks_its_end_only() -> None:
    history = History()
    populate(history, 20, 1, is_locked=True)
    assert len(history.blocking_locks(END_TS)) == 1
    assert history.blocking_locks(MID_TS) == []


def test_the_program_refuses_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    assert main([str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is there already" in error
    with pytest.raises(UsageError, match="too few"):
        make_store(tmp_path / "other", 7, 1)
    assert not (tmp_path / "other").exists()


def test_the_program_prints_the_timestamps_and_counts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/make_store.py", tmp_path / "s", "--rows", "40", "--locked"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["mid_ts"].split()[1] == str(MID_TS)
    assert lines["end_ts"].split()[1] == str(END_TS)
    history = history_of(tmp_path / "s")
    found = counts(history, MID_TS, END_TS)
    assert f"{found.kvs} kvs, {found.bytes} bytes" in lines["incremental"]
    assert "locked" in lines
    assert done.stderr == ""


def test_the_demo_is_a_valid_script() -> None:
    subprocess.run(["sh", "-n", ROOT / "examples" / "demo.sh"], check=True)


def test_an_independent_reader_takes_the_store(sample_store: SampleStore) -> None:
    out = sample_store.path.parent / "refscan"
    out.mkdir()
    done = subprocess.run(
        [bench_tool("refscan"), sample_store.path, out, "0", str(END_TS), "1", "zstd"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = history_of(sample_store.path).expected(0, END_TS)
    found = [int(number) for number in done.stdout.split()[:3]]
    assert found == [expected.kvs, expected.bytes, expected.crc64xor]


def test_copies_are_writable_and_damage_is_where_it_is_asked_for(
    sample_store: SampleStore,
    copy_store: Callable[[Path], Path],
    flip_bytes: Callable[[Path, int, int], None],
) -> None:
    copy = copy_store(sample_store.path)
    assert (copy.parent / "store.regions.json").read_bytes() == sample_store.region_map.read_bytes()
    before = (copy / "CURRENT").read_bytes()
    flip_bytes(copy / "CURRENT", -2, 1)
    after = (copy / "CURRENT").read_bytes()
    assert [i for i in range(len(before)) if before[i] != after[i]] == [len(before) - 2]
