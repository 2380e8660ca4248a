"""`bkctl merge` as a user or a script meets it, and as a kill or a signal leaves it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bkctl.archive.report import RangeError, Report
from bkctl.merge.merge import MergeRequest, MergeResult, plan_merge
from tests.commands.console import bkctl, process
from tests.commands.test_kill import moment, wait_until_gone
from tests.merge.chains import END, WEEK, shared_chain
from tests.oracles import read_oracle, require_shared

FULL = "20230310T164636.878Z-full"


@pytest.fixture(scope="module")
def made_week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("week") / "repo"
    shared_chain("mvcc-short", repository)
    return repository


@pytest.fixture
def week(made_week: Path, tmp_path: Path) -> Path:
    """A full backup and six incrementals, b0 to b6."""
    return shutil.copytree(made_week, tmp_path / "repo")


def assert_exact(report: dict[str, object]) -> None:
    line = read_oracle(require_shared() / "stores" / "mvcc-short.oracle")[3]
    assert report["status"] == "ok"
    assert (report["total_kvs"], report["total_bytes"]) == (line.kvs, line.bytes)
    assert int(str(report["crc64xor"]), 16) == line.crc64xor


def test_a_merge_says_what_it_made(week: Path) -> None:
    done = bkctl("merge", "--storage", week, "--progress", "none")
    assert done.code == 0, done.stderr
    assert f"{FULL}: published" in done.stdout
    assert "b0 → b1 → b2 → b3 → b4 → b5 → b6" in done.stdout
    assert "17,389 keys" in done.stdout
    assert done.stderr == ""
    assert_exact(json.loads((week / FULL / "report.json").read_text()))
    shown = bkctl("show", FULL, "--storage", week)
    assert "merged from b0 → b1" in shown.stdout
    assert bkctl("verify", FULL, "--storage", week, "--level", "deep").code == 0
    again = bkctl("merge", "--storage", week)
    assert again.code == 0
    assert "there is nothing to merge" in again.stdout


def test_json_is_the_report(week: Path) -> None:
    done = bkctl("merge", "--storage", week, "--json", "--name", "m", "--compression", "lz4")
    assert done.code == 0, done.stderr
    assert done.document == json.loads((week / "m" / "report.json").read_text())
    assert_exact(done.document)
    assert done.document["merged_from"] == [f"b{number}" for number in range(7)]
    assert done.document["codec"] == "lz4"
    nothing = bkctl("merge", "m", "--storage", week, "--json")
    assert (nothing.code, nothing.document["status"]) == (0, "nothing")


def test_a_dry_run_says_what_would_be_made(week: Path) -> None:
    planned = bkctl("merge", "b2", "--storage", week, "--dry-run", "--json")
    assert planned.code == 0
    assert planned.document["status"] == "planned"
    assert planned.document["merged_from"] == ["b0", "b1", "b2"]
    assert planned.document["end_ts"] == WEEK[3]
    assert (planned.document["ranges"], planned.document["files"]) == (8, 24)
    told = bkctl("merge", "--storage", week, "--dry-run")
    assert f"{FULL}: would be made, nothing is done" in told.stdout
    assert len(list(week.iterdir())) == 7


def test_a_damaged_chain_ends_with_5_and_names_the_file(week: Path) -> None:
    path = min((week / "b3").glob("*.sst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told = bkctl("merge", "--storage", week, "--progress", "none")
    assert told.code == 5
    assert told.stdout.count(f"b3/{path.name}: its SHA-256 is not the one in backupmeta") == 1
    assert "nothing is published" in told.stdout
    document = bkctl("merge", "--storage", week, "--name", "other", "--json").document
    assert document["status"] in ("partial", "failed")
    assert all(path.name in error["message"] for error in document["errors"])
    path.unlink()
    planned = bkctl("merge", "--storage", week, "--dry-run", "--json")
    assert planned.code == 5
    assert planned.document["damages"][0]["file"] == f"b3/{path.name}"
    told = bkctl("merge", "--storage", week)
    assert told.code == 5
    assert f"{FULL}: not made, as the chain is damaged" in told.stdout
    assert not (week / FULL / "backupmeta").exists()


def test_ranges_that_fail_for_another_reason_end_with_3(
    week: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: MergeRequest, *_: object) -> MergeResult:
        done = plan_merge(request)
        report = Report.from_json((week / "b0" / "report.json").read_bytes(), "b0")
        error = RangeError(2, b"", b"", "storage", "no space left")
        return replace(done, report=replace(report, status="partial", errors=(error,)))

    monkeypatch.setattr("bkctl.merge.merge.merge", fail)
    told = bkctl("merge", "--storage", week)
    assert told.code == 3
    assert "no space left" in told.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["b9"], "there is no backup"),
        (["b3"], "needs one that ends at"),
        (["--name", "b0"], "exists already"),
        (["--name", "a/b"], "more than one part of a path"),
        (["--compression", "brotli"], "brotli"),
        (["--sst-max-size", "none"], "--sst-max-size"),
        (["--name", "m", "--resume"], "was never begun"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], told: str, week: Path) -> None:
    # What b3 builds on is gone; b4 to b6 do too.
    if args == ["b3"]:
        (week / "b2" / "backupmeta").unlink()
    done = bkctl("merge", *args, "--storage", week, "--progress", "none")
    assert done.code == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1 or "Usage" in done.stderr


def test_a_raw_backup_has_no_chain() -> None:
    done = bkctl("merge", "--storage", require_shared() / "br-raw-v5.2.1")
    assert done.code == 2
    assert "whole by itself" in done.stderr


def test_without_a_repository_it_says_what_is_missing(tmp_path: Path) -> None:
    assert "--storage is missing" in bkctl("merge").stderr
    done = bkctl("merge", "--storage", tmp_path / "nowhere")
    assert done.code in (1, 2)
    assert done.stderr.count("\n") == 1


def start(repository: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bkctl", "merge", "b6", "--storage", str(repository)),
            *("--jobs", "2", "--json", "--progress", "none", *args),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listed_as_complete(repository: Path) -> list[str]:
    document = bkctl("list", "--storage", repository, "--json").document
    return [entry["name"] for entry in document["backups"] if entry["state"] == "complete"]


def duration_of(repository: Path) -> float:
    begun = time.monotonic()
    running = start(repository, "--name", "first")
    _, err = running.communicate()
    assert running.returncode == 0, err
    return time.monotonic() - begun


def test_killed_at_random_moments_nothing_half_done_looks_whole(week: Path) -> None:
    rng = random.Random(5)
    duration = duration_of(week)
    for _ in range(5):
        begun = time.monotonic()
        running = start(week, "--name", "m")
        moment(begun, rng.uniform(0.3, 1.0) * duration)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        wait_until_gone(running.pid)
        if (week / "m" / "backupmeta").exists():
            break
    else:
        # The machine knows that the last one is dead, and takes its work up.
        running = start(week, "--name", "m")
        out, err = running.communicate()
        assert running.returncode == 0, err
        assert json.loads(out)["status"] == "ok"
    assert_exact(json.loads((week / "m" / "report.json").read_text()))
    names = listed_as_complete(week)
    assert set(names) == {*(f"b{number}" for number in range(7)), "first", "m"}
    assert process("verify", *names, "--level", "deep", "--storage", week).returncode == 0
    assert not list((week / "m").rglob(".bkctl*"))
    # Who is killed while it writes the repository's lock leaves a file beside it, for prune to
    # remove when nobody can be writing it any more.
    for left in week.glob(".bkctl*"):
        os.utime(left, (0, 0))
    assert process("prune", "--keep-last", 50, "--storage", week).returncode == 0
    assert not list(week.rglob(".bkctl*"))
    assert listed_as_complete(week) == names


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_cleans_up_and_publishes_nothing(
    signum: signal.Signals, code: int, week: Path
) -> None:
    rng = random.Random(int(signum))
    duration = duration_of(week)
    seen = set()
    for turn in range(4):
        begun = time.monotonic()
        running = start(week, "--name", f"m{turn}")
        moment(begun, rng.uniform(0.4, 0.9) * duration)
        os.killpg(running.pid, signum)
        _, err = running.communicate(timeout=60)
        wait_until_gone(running.pid)
        assert "Traceback" not in err, err[-1500:]
        if (week / f"m{turn}" / "backupmeta").exists():
            # A signal may come when all is done and the process is only on its way out.
            assert json.loads((week / f"m{turn}" / "report.json").read_text())["status"] == "ok"
        else:
            assert running.returncode != 0
        if running.returncode != -signum:  # before the program was up, or on its way out
            seen.add(running.returncode)
        assert not list(week.rglob(".bkctl-staging"))
    assert seen <= {0, code}
    done = bkctl("merge", "b6", "--storage", week, "--name", "last", "--json")
    assert_exact(done.document)


def test_a_full_backup_at_the_end_is_not_in_its_way(week: Path) -> None:
    store = require_shared() / "stores" / "mvcc-short"
    taken = bkctl(
        *("backup", "--db", store, "--region-map", f"{store}.regions.json", "--storage", week),
        *("--end-ts", END, "--progress", "none"),
    )
    assert taken.code == 0
    assert "nothing to merge" in bkctl("merge", "--storage", week).stdout
    refused = bkctl("merge", "b6", "--storage", week)
    assert refused.code == 2
    assert "exists already" in refused.stderr
