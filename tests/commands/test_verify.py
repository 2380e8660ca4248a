"""`bkctl verify` as a user or a script meets it: what it prints, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.make_store import END_TS, MID_TS
from examples.tikv_store import TikvStore
from tests.backup.helpers import backup
from tests.commands.console import Outcome, bkctl, process
from tests.conftest import SampleStore
from tests.oracles import require_shared


def verify(*args: object) -> Outcome:
    return bkctl("verify", "--progress", "none", "--jobs", 1, *args)


@pytest.fixture
def repository(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A repository with the backups `mid` and then `end` of the sample store."""
    for name, end_ts in (("mid", MID_TS), ("end", END_TS)):
        backup(sample_store.path, tmp_path / "repo", end_ts=end_ts, name=name)
    return tmp_path / "repo"


def damage(repository: Path, name: str = "end") -> str:
    """Flip a bit in a file of a backup; its name."""
    path = max((repository / name).glob("*.sst"))
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    return path.name


def test_the_newest_backup_is_verified_by_hash(repository: Path) -> None:
    done = verify("--storage", repository)
    assert done.code == 0
    assert done.stdout.startswith("end: whole (level sha256, ")


@pytest.mark.parametrize("level", ["size", "sha256", "deep"])
def test_the_json_document(level: str, repository: Path) -> None:
    done = verify("mid", "--storage", repository, "--level", level, "--json")
    document = done.document
    files = list((repository / "mid").glob("*.sst"))
    size = sum(path.stat().st_size for path in files)
    assert done.code == 0
    assert isinstance(document.pop("seconds"), float)
    assert document == {
        "name": "mid",
        "level": level,
        "status": "ok",
        "files": len(files),
        "checked_bytes": 0 if level == "size" else size,
        "damages": [],
    }


def test_damage_is_listed_and_is_exit_code_5(repository: Path) -> None:
    name = damage(repository)
    shown = verify("--storage", repository, "--level", "deep")
    assert shown.code == 5
    assert f"  {name}: at offset 0: the block's checksum is " in shown.stdout
    assert f"  {name}: its SHA-256 is not the one in backupmeta\n" in shown.stdout
    told = verify("--storage", repository, "--level", "deep", "--json")
    assert told.code == 5
    document = told.document
    assert document["status"] == "damaged"
    assert [sorted(entry) for entry in document["damages"]] == [
        ["file", "offset", "what"] for _ in document["damages"]
    ]
    assert (document["damages"][0]["file"], document["damages"][0]["offset"]) == (name, 0)
    assert None in [entry["offset"] for entry in document["damages"]]


def test_all_backups_are_verified_whatever_one_is_like(repository: Path) -> None:
    name = damage(repository, "mid")
    (repository / "zero").mkdir()
    (repository / "zero" / "backupmeta").write_bytes(b"\xff")
    done = verify("--storage", repository, "--all", "--json")
    assert done.code == 5
    assert [(entry["name"], entry["status"]) for entry in done.document] == [
        ("end", "ok"),
        ("mid", "damaged"),
        ("zero", "damaged"),
    ]
    assert done.document[1]["damages"][0]["file"] == name
    assert done.document[2]["damages"][0]["file"] == "backupmeta"


def test_of_several_names_one_that_is_no_backup_fails_the_run(repository: Path) -> None:
    done = verify("end", "none", "mid", "--storage", repository, "--level", "size", "--json")
    assert [entry["status"] for entry in done.document] == ["ok", "failed", "ok"]
    assert "does not exist" in done.document[1]["errors"][0]
    assert done.code == 1
    shown = verify("end", "none", "--storage", repository)
    assert "none: not verified" in shown.stdout
    assert "  error: " in shown.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["none"], "backup none does not exist"),
        (["end", "--all"], "--all and names exclude each other"),
        (["../x"], "backup name '../x'"),
        (["--level", "deepest"], "--level"),
    ],
)
def test_mistakes_are_exit_code_2(args: list[str], says: str, repository: Path) -> None:
    done = verify("--storage", repository, *args)
    assert done.code == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfinished_backup_is_none(repository: Path) -> None:
    (repository / "end" / "backupmeta").unlink()
    assert verify("end", "--storage", repository).code == 2
    assert verify("--storage", repository).stdout.startswith("mid: whole")


def test_an_empty_repository_has_no_backup_to_verify(tmp_path: Path) -> None:
    done = verify("--storage", tmp_path)
    assert done.code == 2
    assert "no complete backup there" in done.stderr


def test_against_its_store_a_backup_does_not_differ(
    sample_store: SampleStore, repository: Path
) -> None:
    done = verify(
        *("--storage", repository, "--level", "size"),
        *("--against", sample_store.path, "--region-map", sample_store.region_map),
    )
    assert done.code == 0
    assert done.stdout.endswith("  0 keys differ from the store\n")


def test_against_another_store_the_first_keys_are_named(repository: Path, tmp_path: Path) -> None:
    TikvStore(tmp_path / "empty").close()
    options = ("--storage", repository, "--level", "size", "--against", tmp_path / "empty")
    done = verify(*options, "--region-map", "none", "--json")
    assert done.code == 5
    differences = done.document["differences"]
    assert (done.document["status"], len(differences["first"])) == ("differs", 10)
    first = differences["first"][0]
    assert first["what"] == "missing in the store"
    shown = verify(*options)
    assert shown.code == 5
    assert f"  {differences['total']} keys differ from the store\n    {first['key']} (t100_r0)" in (
        shown.stdout
    )


def test_a_store_or_map_that_is_none_is_exit_code_2(repository: Path, tmp_path: Path) -> None:
    done = verify("--storage", repository, "--against", tmp_path / "none")
    assert done.code == 2
    (tmp_path / "map.json").write_text("{")
    TikvStore(tmp_path / "empty").close()
    done = verify(
        *("--storage", repository, "--against", tmp_path / "empty"),
        *("--region-map", tmp_path / "map.json"),
    )
    assert done.code == 2
    assert "map.json" in done.stderr


def test_progress_and_damage_go_to_stderr(repository: Path) -> None:
    name = damage(repository)
    done = process("verify", "--storage", repository, "--progress", "plain", "--json")
    assert done.returncode == 5
    assert done.stdout.startswith("{\n")
    assert f"failed: corruption: {name}: its SHA-256" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_real_backup_of_a_cluster_is_whole() -> None:
    done = process("verify", "br-raw-v5.2.1", "--storage", require_shared(), "--level", "deep")
    assert done.returncode == 0
    assert done.stdout.startswith("br-raw-v5.2.1: whole (level deep, 2 files, 12.0 KiB read, ")


def test_an_interrupt_ends_it_without_a_word_too_many(repository: Path) -> None:
    pipe: Any = subprocess.PIPE
    command = [sys.executable, "-m", "bkctl", "verify", "--storage", repository, "--all"]
    with subprocess.Popen(
        [*map(str, command), "--level", "deep", "--progress", "plain"],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("end: whole")
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    # It may have been through already.
    assert running.returncode in (0, 130)
    assert "Traceback" not in stderr


def test_no_flip_ever_ends_in_a_traceback(
    repository: Path, flip_bytes: Callable[[Path, int, int], None]
) -> None:
    folder = repository / "end"
    for path in [folder / "backupmeta", folder / "report.json", *folder.glob("*.sst")]:
        content = path.read_bytes()
        for offset in (0, len(content) // 3, -1):
            flip_bytes(path, offset, 1)
            assert verify("end", "--storage", repository, "--level", "deep").code == 5
            path.write_bytes(content)
            if path.suffix == ".sst":
                break
    assert verify("end", "--storage", repository, "--level", "deep").code == 0
