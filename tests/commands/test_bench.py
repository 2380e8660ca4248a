from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bkctl.bench.results import parse_findings
from bkctl.bench.stores import END_TS, INCREMENT_TS, KINDS, make_store, region_map_of
from bkctl.bench.table import BEGIN, END
from examples.make_store import make_store as make_sample
from tests.bench.peers import write_directory_peers, write_refscan, write_script
from tests.commands.console import Outcome, bkctl
from tests.conftest import SampleStore

QUICK = ("--rows", 40, "--runs", 1, "--codec", "none", "--jobs", 1, "--progress", "none")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory for temporary files, which must be empty in the end."""
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """The only folder on the PATH."""
    path = tmp_path / "peers"
    path.mkdir()
    return path


@pytest.fixture
def run(work: Path, peers: Path) -> Callable[..., Outcome]:
    """Runs the command with its PATH, and finds nothing left of it."""

    def call(*args: object) -> Outcome:
        outcome = bkctl("bench", "--work-dir", work, *args, env={"PATH": str(peers), "REFSCAN": ""})
        assert list(work.iterdir()) == []
        return outcome

    return call


def contents(tmp_path: Path) -> list[str]:
    """What refscan would find in the store of short values, in full and of the last hour."""
    path = tmp_path / "same"
    make_store(KINDS[0], 40, path)
    found = []
    for start_ts in (0, INCREMENT_TS):
        outcome = bkctl(
            *("backup", "--db", path, "--region-map", region_map_of(path), "--end-ts", END_TS),
            *("--storage", tmp_path / "same-backups", "--start-ts", start_ts, "--json"),
        )
        report = outcome.document
        crc = int(report["crc64xor"], 16)
        found.append(f"{report['total_kvs']} {report['total_bytes']} {crc}")
    return found


def by_tool(document: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for result in document["results"]:
        found.setdefault(result["tool"], []).append(result)
    return found


def test_every_kind_of_store_is_measured(run: Callable[..., Outcome]) -> None:
    outcome = run(*QUICK, "--json")
    assert outcome.code == 0, outcome.stderr
    document = outcome.document
    assert [store["name"] for store in document["stores"]] == [kind.name for kind in KINDS]
    assert [(each["store"], each["backup"]) for each in document["results"]] == [
        (name, backup)
        for name in ("short values", "long values", "many versions")
        for backup in ("full", "incremental", "incremental_read_all")
    ] + [("raw", "full")]
    assert document["peers"] == {}
    assert [note.split()[0] for note in document["notes"]] == ["refscan", "ldb", "tar"]
    parse_findings(document)


def test_peers_run_in_the_same_rounds_and_never_in_the_store(
    run: Callable[..., Outcome], peers: Path, tmp_path: Path
) -> None:
    write_directory_peers(peers)
    write_refscan(peers, *contents(tmp_path))
    output, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    outcome = run(
        *QUICK, "--runs", 2, "--store", "short", "--output", output, "--chart", chart
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "short values: 40 rows" in outcome.stdout
    assert "/refscan" in outcome.stdout
    document = json.loads(output.read_text())
    found = by_tool(document)
    assert {tool: len(results) for tool, results in found.items()} == {
        "bkctl": 3,
        "refscan": 2,
        "ldb": 1,
        "tar": 1,
    }
    assert all(len(each["wall"]["runs"]) == 2 for each in document["results"])
    full, incremental, read_all = found["bkctl"]
    assert set(full["ratios"]) == {"refscan", "ldb", "tar"}
    assert full["ratios"]["refscan"]["seconds"]["median"] > 0
    assert full["ratios"]["ldb"]["seconds"] is None
    assert set(incremental["ratios"]) == set(read_all["ratios"]) == {"refscan"}
    assert found["refscan"][0]["seconds"]["runs"] == [0.5, 0.5]
    assert document["peers"]["tar"] == "tar, not the real one"
    assert document["notes"] == []
    assert str(tmp_path) not in output.read_text()
    ElementTree.fromstring(chart.read_text())


def test_a_peer_that_fails_is_left_out_with_a_note(
    run: Callable[..., Outcome], peers: Path
) -> None:
    write_directory_peers(peers)
    write_script(peers / "ldb", "echo no thanks >&2; exit 7\n")
    outcome = run(*QUICK, "--store", "raw", "--json")
    assert outcome.code == 0
    assert set(by_tool(outcome.document)) == {"bkctl", "tar"}
    note = "raw: ldb is left out: ldb ended with exit code 7: no thanks"
    assert note in outcome.document["notes"]
    assert f"bkctl: {note}\n" in outcome.stderr


@pytest.mark.parametrize("says", ["1 2 3", "nothing", "40 4760"])
def test_a_peer_that_found_something_else_is_not_compared(
    run: Callable[..., Outcome], peers: Path, says: str
) -> None:
    write_refscan(peers, says, says)
    outcome = run(*QUICK, "--store", "short", "--json")
    assert outcome.code == 0
    assert set(by_tool(outcome.document)) == {"bkctl"}
    assert any("refscan is left out" in note for note in outcome.document["notes"])


def test_ones_own_store_is_measured_and_only_read(
    run: Callable[..., Outcome], peers: Path, sample_store: SampleStore
) -> None:
    write_directory_peers(peers)
    before = {path.name: path.stat().st_mtime_ns for path in sample_store.path.iterdir()}
    counts = sample_store.made.full_at_mid
    own = ("--db", sample_store.path, "--region-map", sample_store.region_map)
    outcome = run(*QUICK, *own, "--end-ts", "2026-01-01T01:00:00Z", "--json")
    assert outcome.code == 0, outcome.stderr
    full = by_tool(outcome.document)["bkctl"]
    assert [(each["store"], each["kvs"]) for each in full] == [("own store", counts.kvs)]
    assert set(by_tool(outcome.document)) == {"bkctl", "ldb", "tar"}
    assert before == {path.name: path.stat().st_mtime_ns for path in sample_store.path.iterdir()}
    assert str(sample_store.path) not in outcome.stdout


def test_an_incremental_backup_of_ones_own_store(
    run: Callable[..., Outcome], sample_store: SampleStore
) -> None:
    own = ("--db", sample_store.path, "--region-map", sample_store.region_map)
    window = ("--start-ts", "2026-01-01T01:00:00Z", "--end-ts", "2026-01-01T02:00:00Z")
    outcome = run(*QUICK, *own, *window, "--json")
    assert outcome.code == 0, outcome.stderr
    kvs = {each["backup"]: each["kvs"] for each in outcome.document["results"]}
    made = sample_store.made
    changed = made.incremental.kvs
    assert kvs == {
        "full": made.full_at_end.kvs,
        "incremental": changed,
        "incremental_read_all": changed,
    }


def test_a_store_whose_backup_fails_is_an_error(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "locked"
    make_sample(path, 200, 7, is_locked=True)
    own = ("--db", path, "--region-map", f"{path}.regions.json")
    outcome = run(*QUICK, *own, "--end-ts", "2026-01-01T02:00:00Z")
    assert outcome.code == 1
    first, last = outcome.stderr.splitlines()
    assert first.startswith(f"bkctl: measuring {path}")
    assert last.startswith("bkctl: own store cannot be backed up: region ")
    assert "key_is_locked: " in last


def test_a_damaged_store_is_an_error(
    run: Callable[..., Outcome], sample_store: SampleStore, flip_bytes: Callable[..., None]
) -> None:
    for file in sample_store.path.glob("*.sst"):
        flip_bytes(file, 20, 4)
    own = ("--db", sample_store.path, "--region-map", sample_store.region_map)
    outcome = run(*QUICK, *own, "--end-ts", "2026-01-01T01:00:00Z")
    assert outcome.code == 1
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("bkctl: ")
    assert str(sample_store.path) in last


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--store", "shorts"], "--store shorts: choose of short, long"),
        (["--store", ""], "--store names nothing"),
        (["--codec", "gzip"], "--codec gzip: choose of zstd"),
        (["--jobs", "1,x"], "--jobs 1,x: give numbers"),
        (["--jobs", "0"], "--jobs 0: give numbers"),
        (["--store", "own"], "--db is missing"),
        (["--db", "/nonexistent"], "--region-map is missing"),
        (["--db", "/nonexistent", "--region-map", "none"], "/nonexistent: no such directory"),
        (["--output", "/nonexistent/x"], "/nonexistent/x: cannot be written"),
        (["--page", "/nonexistent/x"], "/nonexistent/x: cannot be written"),
        (["--from", "/nonexistent/x"], "/nonexistent/x: cannot be read"),
        (["--cf", "default", "--db", "/x", "--region-map", "none"], "--cf default is for raw"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Outcome], args: list[str], says: str) -> None:
    outcome = run(*args, "--progress", "none")
    assert outcome.code == 2
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith(f"bkctl: {says}"), outcome.stderr


def test_a_refscan_that_is_none(work: Path) -> None:
    outcome = bkctl("bench", *QUICK, "--work-dir", work, env={"REFSCAN": "/nonexistent"})
    assert (outcome.code, outcome.stderr) == (
        2,
        "bkctl: REFSCAN=/nonexistent: no program; correct it, or unset it\n",
    )


def test_no_place_for_temporary_files(tmp_path: Path) -> None:
    outcome = bkctl("bench", *QUICK, "--work-dir", tmp_path / "nonesuch")
    assert outcome.code == 1
    assert outcome.stderr.endswith("set TMPDIR or --work-dir to a directory with space\n")


def test_stores_are_kept_where_asked(work: Path, peers: Path) -> None:
    outcome = bkctl(
        *("bench", *QUICK, "--store", "raw", "--keep", "--work-dir", work),
        env={"PATH": str(peers), "REFSCAN": ""},
    )
    assert outcome.code == 0
    (folder,) = work.iterdir()
    assert f"the stores are kept in {folder}" in outcome.stderr
    assert (folder / "raw" / "CURRENT").exists()
    assert (folder / "raw.regions.json").exists()


def test_earlier_results_are_shown_and_drawn_again(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    first, page, chart = (tmp_path / name for name in ("first.json", "page.md", "chart.svg"))
    page.write_text(f"# Page\n{BEGIN}\n{END}\n")
    measured = run(*QUICK, "--store", "raw", "--output", first)
    again = run("--from", first, "--page", page, "--chart", chart)
    assert (again.code, again.stdout) == (0, measured.stdout)
    assert "### raw: 40 rows" in page.read_text()
    ElementTree.fromstring(chart.read_text())
    assert run("--from", first, "--json").document == json.loads(first.read_text())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\xff", '{"bkctl": 1}'])
def test_what_is_no_result_file_is_refused(
    run: Callable[..., Outcome], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    outcome = run("--from", path)
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"bkctl: {path}: ")
    assert len(outcome.stderr.splitlines()) == 1


def test_a_page_without_marks_is_refused_at_once(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    outcome = run(*QUICK, "--page", page)
    assert outcome.code == 2
    assert BEGIN in outcome.stderr


def test_progress_in_lines(work: Path, peers: Path) -> None:
    outcome = bkctl(
        *("bench", *QUICK, "--store", "raw", "--work-dir", work, "--progress", "plain"),
        env={"PATH": str(peers), "REFSCAN": ""},
    )
    assert "raw: making 40 rows (step 1 of 1)\n" in outcome.stderr
    assert "raw: once to warm up (step 1 of 2)\n" in outcome.stderr


def test_progress_on_a_terminal(work: Path, peers: Path) -> None:
    outcome = bkctl(
        *("bench", *QUICK, "--store", "raw", "--work-dir", work, "--progress", "rich"),
        env={"PATH": str(peers), "REFSCAN": "", "TERM": "xterm"},
    )
    assert outcome.code == 0
    assert "raw: making 40 rows" in outcome.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_no_process_and_no_file(work: Path, signum: int, code: int) -> None:
    command = [sys.executable, "-m", "bkctl", "bench", "--store", "raw", "--progress", "plain"]
    running = subprocess.Popen(
        [*command, "--rows", "1000", "--runs", "1000", "--work-dir", str(work)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "warm up" in line:
            break
    running.send_signal(signum)
    # All that it started write to this, too: its end is the end of them all.
    assert running.stderr.read().endswith("bkctl: interrupted\n")
    assert running.wait() == code
    assert list(work.iterdir()) == []
