"""Ends of backups as those hear of them who are asleep: metrics, hooks and JSON lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from bkctl.codec.memcomparable import encode
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.repository.lock import repository_lock
from bkctl.storage.url import open_storage, parse_storage
from bkctl.ui.metrics_file import Samples, read_samples
from examples.tikv_store import TikvStore
from tests.commands.console import NO_HOME, process, write_map

END = 100


class Night:
    """A small store, a repository, and where each run's watchers leave what they heard."""

    def __init__(self, base: Path) -> None:
        self.base, self.repository = base, base / "repo"
        self.metrics_file = base / "bkctl.prom"
        self.store = TikvStore(base / "store")
        for key in (b"a", b"b"):
            self.store.must_prewrite_put(key, key * 3, key, 10)
            self.store.must_commit(key, 10, 20)
        self.store.set_regions([(1, b"", b"m", 1), (2, b"m", b"", 1)])

    def command(self, *arguments: object) -> list[str]:
        self.store.close()
        options = {
            "--db": self.store.path,
            "--region-map": "store",
            "--storage": self.repository,
            "--end-ts": END,
            "--metrics-file": self.metrics_file,
            "--on-success": self.hook("success"),
            "--on-failure": self.hook("failure"),
        }
        given = [str(argument) for argument in arguments]
        chosen = [str(word) for pair in options.items() if pair[0] not in given for word in pair]
        return ["backup", *chosen, *given]

    def run(self, *arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
        for old in self.base.glob("heard.*"):
            old.unlink()
        return process(*self.command(*arguments), **settings)

    def hook(self, which: str) -> str:
        heard = self.base / f"heard.{which}"
        return f'cat >{heard}; echo "$BKCTL_STATUS $BKCTL_EXIT_CODE $BKCTL_BACKUP_NAME" >>{heard}'

    def heard(self) -> tuple[str, dict[str, Any], str]:
        """Which hook ran, the report it got, and its variables."""
        (path,) = self.base.glob("heard.*")
        document, _, variables = path.read_text().rstrip("\n").rpartition("\n")
        return path.suffix[1:], json.loads(document), variables

    def samples(self) -> Samples:
        return read_samples(self.metrics_file)

    def value(self, name: str, **labels: str) -> float:
        return self.samples()[f"bkctl_backup_{name}", frozenset(labels.items())]

    def events(self, text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_a_success_is_told_to_all(night: Night) -> None:
    done = night.run("--name", "first", "--json")
    assert done.returncode == 0, done.stderr
    assert night.heard() == ("success", json.loads(done.stdout), "ok 0 first")
    assert night.value("last_run_status") == 1
    assert night.value("last_success_end_ts") == END
    assert night.value("scan_kv_count", cf="write") == 2
    assert night.value("range_duration_seconds_count", type="scan") == 2
    assert night.value("range_size_bytes_count", cf="write") == 1
    assert night.value("storage_requests_total", operation="save_file") == 1
    assert night.value("storage_requests_total", operation="create") >= 1
    assert night.value("thread_pool_size") >= 1
    assert night.metrics_file.stat().st_mode & 0o777 == 0o644


def test_a_failed_night_keeps_the_last_success(night: Night) -> None:
    assert night.run("--name", "monday", "--end-ts", 50).returncode == 0
    last_success = {k: v for k, v in night.samples().items() if "last_success" in k[0]}
    night.store = TikvStore(night.store.path)
    night.store.must_prewrite_put(b"a", b"new", b"a", 60)
    tuesday = night.run("--name", "tuesday", "--json")
    assert tuesday.returncode == 4
    report = json.loads(tuesday.stdout)
    assert night.heard() == ("failure", report, "partial 4 tuesday")
    assert report["errors"][0]["kind"] == "key_is_locked"
    assert {k: v for k, v in night.samples().items() if "last_success" in k[0]} == last_success
    assert night.value("last_run_status") == 0
    assert night.value("last_run_exit_code") == 4
    assert night.value("last_run_end_ts") == END
    assert night.value("error_counter", error="key_is_locked") == 1
    assert night.value("runs_total", status="partial") == 1
    assert night.value("runs_total", status="ok") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--region-map", "missing.json"], "missing.json"),
        (["--storage", "ftp://x"], "ftp"),
        (["--start-ts", 5000], "--start-ts 5000"),
        (["--db", "/nonexistent"], "/nonexistent"),
        (["--sst-max-size", "huge"], "--sst-max-size"),
        (["--cf", "write"], "--cf"),
    ],
)
def test_bad_options_are_told_too(night: Night, arguments: list[object], words: str) -> None:
    done = night.run("--name", "b", *arguments)
    which, report, variables = night.heard()
    assert (done.returncode, which, variables) == (2, "failure", "failed 2 b")
    assert report["status"] == "failed"
    assert words in report["errors"][0]["message"]
    assert report["errors"][0]["message"] in done.stderr
    assert night.value("last_run_exit_code") == 2
    assert night.value("error_counter", error="other") == 1


def test_a_missing_option_is_told(night: Night) -> None:
    done = process("backup", "--on-failure", night.hook("failure"), env=alone())
    assert done.returncode == 2
    assert "--region-map is missing" in night.heard()[1]["errors"][0]["message"]


def alone() -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("BKCTL_")}
    return outside | {"HOME": NO_HOME, "XDG_CONFIG_HOME": NO_HOME}


def test_a_locked_repository_is_told(night: Night) -> None:
    with open_storage(parse_storage(str(night.repository))) as storage:
        storage.write("folder/x", b"")
        with repository_lock(storage, "backup"):
            done = night.run("--name", "b")
    assert done.returncode == 6
    which, report, variables = night.heard()
    assert (which, variables) == ("failure", "failed 6 b")
    assert "lock" in report["errors"][0]["message"]
    assert night.value("last_run_exit_code") == 6


@contextmanager
def waiting(
    *program: str, night: Night, given: tuple[object, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A backup that waits for its region map, which is to be written into what is given."""
    theirs, ours = os.pipe()
    command = night.command("--name", "b", "--region-map", f"/dev/fd/{theirs}", *given)
    running = subprocess.Popen(
        [*program, *command],
        stderr=subprocess.PIPE,
        text=True,
        env=alone(),
        pass_fds=(theirs,),
    )
    os.close(theirs)
    with open(ours, "w") as region_map:
        # More than a pipe holds: this is over once it is being read.
        region_map.write(" " * (1 << 18))
        region_map.flush()
        yield running, region_map


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_told_as_a_failure(signum: signal.Signals, code: int, night: Night) -> None:
    # The region map comes when the signal has come.
    with waiting(sys.executable, "-m", "bkctl", night=night) as (running, region_map):
        running.send_signal(signum)
        region_map.write(process("regions", "--db", night.store.path).stdout)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    which, report, variables = night.heard()
    assert (which, variables) == ("failure", f"cancelled {code} b")
    assert report["status"] == "cancelled"
    assert night.value("last_run_exit_code") == code


def test_what_runs_in_the_background_hears_no_ctrl_c(night: Night) -> None:
    # What a shell does to "bkctl ... &" in a script.
    ignoring = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "bkctl")
    with waiting(*ignoring, night=night) as (running, region_map):
        running.send_signal(signal.SIGINT)
        region_map.write(process("regions", "--db", night.store.path).stdout)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert night.heard()[0] == "success"


def test_hooks_come_when_the_repository_is_free(night: Night) -> None:
    prune = f"{sys.executable} -m bkctl prune --storage {night.repository} --keep-last 1"
    assert night.run("--name", "a", "--end-ts", 50).returncode == 0
    done = night.run("--name", "b", "--on-success", prune)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    assert "removed: 1 backup" in done.stderr
    assert [path.parent.name for path in night.repository.glob("*/backupmeta")] == ["b"]


def test_a_hook_that_fails_changes_nothing(night: Night) -> None:
    done = night.run("--name", "b", "--on-success", "echo no; exit 9")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-2:] == [
        "no",
        "bkctl: warning: --on-success: the command failed with exit code 9",
    ]


def test_metrics_that_cannot_be_written_are_found_out_before_anything_is_done(night: Night) -> None:
    path = night.base / "missing" / "bkctl.prom"
    done = night.run("--name", "b", "--metrics-file", path)
    assert done.returncode == 2
    line = f"--metrics-file {path}: cannot be written (No such file or directory)"
    assert done.stderr == f"bkctl: {line}\n"
    assert not night.repository.exists()
    which, report, variables = night.heard()
    assert (which, variables) == ("failure", "failed 2 b")
    assert report["errors"][0]["message"] == line


def test_metrics_that_fail_at_the_end_leave_the_backup_published(night: Night) -> None:
    folder = night.base / "textfile"
    folder.mkdir()
    # Its region map comes when the metrics' place has been looked at.
    program = (sys.executable, "-m", "bkctl")
    given = ("--metrics-file", folder / "bkctl.prom")
    with waiting(*program, night=night, given=given) as (running, region_map):
        folder.rmdir()
        region_map.write(process("regions", "--db", night.store.path).stdout)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert (night.repository / "b" / "backupmeta").exists()
    assert err.splitlines()[-1] == (
        f"bkctl: warning: --metrics-file {folder / 'bkctl.prom'}: "
        "cannot be written (No such file or directory)"
    )
    assert night.heard()[0] == "success"


def test_a_damaged_file_of_metrics_is_mended(night: Night) -> None:
    night.metrics_file.write_text("bkctl_backup_last_success_end_ts {\n")
    done = night.run("--name", "b")
    assert done.returncode == 0
    assert f"bkctl: warning: --metrics-file {night.metrics_file}: no metrics" in done.stderr
    assert night.value("last_run_status") == 1


def test_a_log_for_machines_has_a_run_line_by_line(night: Night) -> None:
    night.metrics_file.write_text("{")
    done = night.run("--name", "b", "--log-format", "json", "--json", "--on-success", "exit 1")
    events = night.events(done.stderr)
    assert [event["event"] for event in events] == [
        *("starting", "running", "range_done", "range_done", "progress", "published"),
        *("metrics_file", "hook"),
    ]
    assert all(event["time"].endswith("Z") and event["message"] for event in events)
    report = json.loads(done.stdout)
    published = events[5]
    assert published["level"] == "info"
    for name in ("name", "status", "end_ts", "files", "size", "crc64xor", "seconds", "ranges"):
        assert published[name] == report[name]
    assert sum(event["kvs"] for event in events[2:4]) == report["total_kvs"] == 2
    assert {event["region_id"] for event in events[2:4]} == {1, 2}


def test_a_failing_run_is_json_to_its_end(night: Night) -> None:
    night.store.must_prewrite_put(b"a", b"new", b"a", 60)
    done = night.run(
        "--name", "b", "--progress", "none", env=alone() | {"BKCTL_LOG_FORMAT": "json"}
    )
    events = night.events(done.stderr)
    assert done.returncode == 4
    kinds = [(event["event"], event["level"]) for event in events]
    assert kinds[:2] == [("starting", "info"), ("running", "info")]
    assert sorted(kinds[2:4]) == [("range_done", "info"), ("range_failed", "warning")]
    assert kinds[4:] == [("range_error", "error"), ("not_published", "error")]
    assert (events[4]["kind"], events[4]["region_id"]) == ("key_is_locked", 1)


def test_regions_left_out_are_told_with_the_reason(night: Night) -> None:
    here, there = Peer(1, 1), Peer(2, 2)
    regions = [
        Region(1, b"", encode(b"m"), RegionEpoch(1, 1), (here,), here),
        Region(2, encode(b"m"), b"", RegionEpoch(1, 1), (there,), there),
    ]
    region_map = write_map(night.base / "regions.json", *regions)
    done = night.run(
        *("--name", "b", "--region-map", region_map, "--store-id", 1, "--allow-gaps"),
        *("--log-format", "json"),
    )
    (skipped,) = [e for e in night.events(done.stderr) if e["event"] == "range_skipped"]
    assert skipped["region_id"] == 2
    assert (
        skipped["reason"]
        in json.loads((night.repository / "b/report.json").read_text())["skipped"][0].values()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "--region-map", "x"],
        ["backup", "--nonsense"],
        ["list", "--storage", "/nonexistent/x", "extra"],
        ["verify", "--storage", "/nonexistent/x"],
        ["tso", "nonsense"],
        ["restore", "--storage", "/nonexistent/x", "--to", "y", "--jobs", "0"],
    ],
)
def test_what_ends_a_command_is_one_json_line(arguments: list[str]) -> None:
    done = process(*arguments, "--log-format", "json", env=alone())
    (line,) = done.stderr.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("error", "error")
    assert event["exit_code"] == done.returncode != 0
    assert event["message"]
    assert done.stdout == ""


def test_the_log_format_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "bkctl.toml").write_text('log-format = "json"\n')
    done = process("list", cwd=tmp_path, env=alone() | {"PYTHONPATH": os.getcwd()})
    assert json.loads(done.stderr)["message"].startswith("--storage is missing")
