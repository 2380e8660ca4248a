"""What lies ready in examples/nightly works: its commands, units, schedules, alerts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bkctl.cli import COMMANDS, app
from bkctl.commands.config import load_config
from bkctl.regions import pd
from bkctl.ui.metrics import FAMILIES
from tests.commands.console import NO_HOME, bkctl
from tests.conftest import SampleStore
from tests.oracles import ROOT

NIGHTLY = ROOT / "examples" / "nightly"
SCRIPT = NIGHTLY / "bkctl-nightly.sh"
NAMES = {f"bkctl_backup_{family.name}" for family in FAMILIES}

TOLD = [
    NIGHTLY,
    ROOT / "examples" / "fleet",
    ROOT / "docs",
    ROOT / "README.md",
    ROOT / "examples" / "demo.sh",
]


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's {package})")
    return found


def load_yaml(path: Path) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all(path.read_text()))


def run(*command: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **settings
    )


def command_lines() -> list[list[str]]:
    """Every `bkctl …` line in the examples and guides."""
    files = [file for told in TOLD for file in (told.iterdir() if told.is_dir() else [told])]
    found = []
    for file in files:
        text = file.read_text().replace("\\\n", " ")
        for line in re.findall(r"^(?:\s*run )?\s*(bkctl [a-z].*)$", text, re.M):
            command = line.split(" #")[0].split(" >")[0].split(" 2>")[0]
            found.append(shlex.split(command))
    return found


def test_there_are_command_lines_to_look_at() -> None:
    lines = command_lines()
    assert len(lines) > 15
    assert {line[1] for line in lines} >= {"backup", "prune", "verify", "restore", "merge"}


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_line_is_one_that_bkctl_knows(line: list[str]) -> None:
    command, *arguments = line[1:]
    assert command in COMMANDS
    # With --help at its end, a line is read and not carried out.
    outcome = bkctl(command, *arguments, "--help")
    assert outcome.code == 0, outcome.stderr
    known = set(re.findall(r"--[a-z0-9]+(?:[.-][a-z0-9]+)*", outcome.stdout))
    for argument in arguments:
        if argument.startswith("--"):
            assert argument.partition("=")[0] in known


@pytest.mark.parametrize("command", ["backup", "prune", "verify", "list"])
def test_the_configuration_is_good_for_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = load(command, NIGHTLY / "bkctl.toml")
    assert parsed["storage"].startswith("gcs://")
    assert parsed["log_format"] == "json"
    assert ("metrics_file" in parsed) == (command == "backup")


def load(command: str, path: Path) -> dict[str, Any]:
    import typer

    group: Any = typer.main.get_command(app)
    parent = group.make_context("bkctl", [command], resilient_parsing=True)
    context = type(parent)(group.get_command(parent, command), info_name=command, parent=parent)
    load_config(context, path)
    found: dict[str, Any] = context.default_map
    return found


@pytest.fixture
def host(tmp_path: Path, sample_store: SampleStore) -> dict[str, str]:
    """What the nightly script finds on a host: a configuration, bkctl on the PATH."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bkctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bkctl "$@"\n')
    program.chmod(0o755)
    config = (NIGHTLY / "bkctl.toml").read_text()
    config = re.sub("^db = .*$", f'db = "{sample_store.path}"', config, flags=re.M)
    config = re.sub(
        "^region-map = .*$", f'region-map = "{sample_store.region_map}"', config, flags=re.M
    )
    config = re.sub("^storage = .*$", f'storage = "{tmp_path}/repo"', config, flags=re.M)
    config = config.replace("/var/lib/prometheus/node-exporter", str(tmp_path))
    config = config.replace("logger --tag bkctl --priority user.err", f"echo >>{tmp_path}/logged")
    (tmp_path / "bkctl.toml").write_text(config)
    assert pd.load(sample_store.region_map)
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HOME": NO_HOME,
        "PYTHONPATH": str(ROOT),
        "BKCTL_CONFIG": str(tmp_path / "bkctl.toml"),
    }


def test_nights_and_a_week_of_the_script(host: dict[str, str], tmp_path: Path) -> None:
    for _night in range(2):
        done = run("/bin/sh", SCRIPT, env=host)
        assert done.returncode == 0, done.stderr
        assert '"event": "published"' in done.stderr
    backups = sorted(path.parent.name for path in (tmp_path / "repo").glob("*/backupmeta"))
    assert [name.rpartition("-")[2] for name in backups] == ["full", "incr"]
    assert (tmp_path / "bkctl.prom").exists()
    assert not (tmp_path / "logged").exists()
    done = run("/bin/sh", SCRIPT, "verify", env=host)
    assert (done.returncode, done.stderr.count('"level": "error"')) == (0, 0), done.stderr
    assert "whole" in done.stdout


def test_a_night_that_fails_is_logged_and_not_pruned(host: dict[str, str], tmp_path: Path) -> None:
    done = run("/bin/sh", SCRIPT, env=host | {"BKCTL_DB": "/nonexistent"})
    assert done.returncode == 2
    assert "failed, exit code 2" in (tmp_path / "logged").read_text()
    assert "removed" not in done.stdout


def test_the_script_refuses_what_it_does_not_know() -> None:
    done = run("/bin/sh", SCRIPT, "restore")
    assert (done.returncode, done.stdout) == (2, "")
    assert os.access(SCRIPT, os.X_OK)


def test_the_crontab_has_a_time_a_user_and_our_script() -> None:
    entries = [
        line
        for line in (NIGHTLY / "crontab").read_text().splitlines()
        if line and not line.startswith("#") and "=" not in line.split()[0]
    ]
    assert len(entries) == 2
    for entry in entries:
        *times, user, command = entry.split(None, 6)
        assert len(times) == 5
        assert all(re.fullmatch(r"\*|\d+", time) for time in times)
        assert user == "root"
        assert command.startswith(f"/usr/local/bin/{SCRIPT.name}")
        assert "%" not in command, "cron takes it for a new line"
        assert run("/bin/sh", "-n", "-c", command).returncode == 0


def test_cron_takes_the_crontab(tmp_path: Path) -> None:
    # A user's table has no column for the user.
    table = re.sub(r"^((?:\S+ ){5})root ", r"\1", (NIGHTLY / "crontab").read_text(), flags=re.M)
    (tmp_path / "table").write_text(table)
    crontab = tool("crontab", "cron")
    if "-T" not in run(crontab, "--help").stderr:
        pytest.skip("this crontab cannot check a file (cronie's -T)")
    done = run(crontab, "-T", tmp_path / "table")
    assert done.returncode == 0, done.stderr


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "systemd")
    units = []
    for unit in sorted((*NIGHTLY.glob("*.service"), *NIGHTLY.glob("*.timer"))):
        text = unit.read_text()
        assert "bkctl-nightly.sh" in text or unit.suffix == ".timer"
        units.append(tmp_path / unit.name)
        units[-1].write_text(text.replace(f"/usr/local/bin/{SCRIPT.name}", str(SCRIPT)))
    assert len(units) == 4
    done = run(analyze, "verify", *units)
    assert (done.returncode, done.stderr) == (0, "")
    for timer in NIGHTLY.glob("*.timer"):
        (when,) = re.findall("^OnCalendar=(.*)$", timer.read_text(), re.M)
        assert run(analyze, "calendar", when).returncode == 0


@pytest.mark.parametrize("version", ["1.27", "1.30"])
def test_kubernetes_takes_the_objects(version: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    ).validate
    objects = load_yaml(NIGHTLY / "kubernetes.yaml")
    assert [each["kind"] for each in objects] == ["Secret", "ConfigMap", "CronJob"]
    for each in objects:
        validate(each, version, strict=True)


def test_the_cronjob_is_of_one_piece(tmp_path: Path) -> None:
    secret, config, job = load_yaml(NIGHTLY / "kubernetes.yaml")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["store"]["readOnly"]
    assert volumes["store"]["persistentVolumeClaim"]["readOnly"]
    assert volumes["gcs"]["secret"]["secretName"] == secret["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    path = tmp_path / "bkctl.toml"
    path.write_text(config["data"]["bkctl.toml"])
    parsed = load("backup", path)
    assert parsed["db"] == [mounts["store"]["mountPath"]]
    assert parsed["work_dir"] == mounts["work"]["mountPath"]
    assert parsed["metrics_file"].startswith(mounts["metrics"]["mountPath"])
    key_file = f"{mounts['gcs']['mountPath']}/{next(iter(secret['stringData']))}"
    assert parsed["storage"].endswith(f"credentials-file={key_file}")
    # A mount within another one that is read-only has no directory to be mounted on.
    places = [mount["mountPath"] for mount in mounts.values()]
    assert not any(a != b and a.startswith(f"{b}/") for a in places for b in places)


def rules() -> list[dict[str, Any]]:
    (document,) = load_yaml(NIGHTLY / "alerts.yml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_alerts_use_only_metrics_that_there_are() -> None:
    for rule in rules():
        used = set(re.findall(r"\bbkctl_\w+", str(rule)))
        assert used, rule["alert"]
        assert used <= NAMES, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
    (tests,) = load_yaml(NIGHTLY / "alerts_test.yml")
    series = [each["series"] for test in tests["tests"] for each in test["input_series"]]
    assert {name.partition("{")[0] for name in series} <= NAMES
    tried = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules()}


def test_promtool_takes_the_alerts_and_finds_them_right() -> None:
    promtool = tool("promtool", "prometheus")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = run(promtool, *command, cwd=NIGHTLY)
        assert done.returncode == 0, done.stdout + done.stderr
