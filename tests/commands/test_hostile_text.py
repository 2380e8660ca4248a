"""Names and words out of stores, backups, files and options never reach a terminal as they are."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bkctl.archive.meta import decode_meta, encode_meta
from bkctl.sst.table import TableBuilder
from examples.make_store import END_TS
from tests.archive.made_backups import MadeBackup, put
from tests.backup.helpers import backup, regions_from
from tests.commands.console import bkctl
from tests.conftest import SampleStore

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\u2028\x9b31m\n\x7f"


def assert_printable(text: str) -> None:
    for line in text.removesuffix("\n").split("\n"):
        assert line.isprintable(), ascii(line)


def assert_said(*args: object, codes: tuple[int, ...] = (0,), says: str = "owned") -> None:
    """A run says what is hostile, but harmlessly; as JSON it says so exactly, in ASCII."""
    outcome = bkctl(*args)
    assert outcome.code in codes, outcome.stderr
    assert says in outcome.stdout + outcome.stderr
    assert_printable(outcome.stdout)
    assert_printable(outcome.stderr)
    as_json = bkctl(*args, "--json")
    assert as_json.stdout.isascii()
    assert "\x1b" not in as_json.stdout


@pytest.fixture
def made(sample_store: SampleStore, tmp_path: Path) -> Path:
    """A repository with the backup `b` of the sample store."""
    backup(
        sample_store.path,
        tmp_path / "r",
        end_ts=END_TS,
        name="b",
        load_regions=regions_from(sample_store.region_map),
    )
    return tmp_path / "r"


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_report_s_words(made: Path) -> None:
    error = {"region_id": 1, "start_key": "", "end_key": "", "kind": HOSTILE, "message": HOSTILE}
    rewrite(
        made / "b" / "report.json",
        errors=[error],
        skipped=[{"region_id": 1, "reason": HOSTILE}],
        merged_from=[HOSTILE],
        storage=HOSTILE,
        codec=HOSTILE,
    )
    assert_said("show", "b", "--storage", made)


def test_a_backup_s_description(made: Path) -> None:
    path = made / "b" / "backupmeta"
    meta = decode_meta(path.read_bytes(), "b")
    files = (dataclasses.replace(meta.files[0], cf=f"write{HOSTILE}"), *meta.files[1:])
    changed = dataclasses.replace(meta, br_version=f"br {HOSTILE}", files=files)
    path.write_bytes(encode_meta(changed))
    assert_said("show", "b", "--storage", made)
    assert_said("verify", "b", "--storage", made, codes=(5,), says="b: ")
    assert_said("list", "--storage", made, says="b")


def test_who_claims_to_have_begun_a_backup(made: Path) -> None:
    (made / "b" / "backupmeta").unlink()
    rewrite(made / "b" / "backup.lock", host=HOSTILE, command=HOSTILE, started_at=HOSTILE)
    for args in (["show", "b"], ["list"], ["prune", "--keep-last", "1", "--dry-run"]):
        assert_said(*args, "--storage", made, says="b")


def test_an_sst_file_s_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = TableBuilder.finish

    def finish_noted(self: TableBuilder, noted: dict[str, bytes]) -> list[bytes]:
        return finish(self, {**noted, "rocksdb.compression": HOSTILE.encode()})

    monkeypatch.setattr(TableBuilder, "finish", finish_noted)
    made = MadeBackup(tmp_path)
    made.add("write", [put(b"a", 50)])
    made.publish()
    assert_said("show", "b", "--storage", made.repository)


def test_names_of_objects_and_folders(made: Path) -> None:
    for name in (HOSTILE, os.fsdecode(b"owned \xff")):
        (made / name).mkdir()
        (made / "b" / name).write_bytes(b"")
    for args, code in ((["list"], 0), (["verify", "b"], 5), (["show", "b"], 0)):
        assert_said(*args, "--storage", made, codes=(0, code), says="b")


def test_keys_of_a_configuration_file(made: Path, tmp_path: Path) -> None:
    for number, line in enumerate(
        (f"{json.dumps(HOSTILE)} = 1", f"[{json.dumps(HOSTILE)}]", f"jobs = {HOSTILE}")
    ):
        config = tmp_path / f"{number}.toml"
        config.write_text(line.replace("\x7f", "\\u007f") if number < 2 else line)
        outcome = bkctl("list", "--storage", made, "--config", config)
        assert outcome.code == 2
        assert str(config) in outcome.stderr
        assert outcome.stderr.count("\n") == 1
        assert_printable(outcome.stderr)


@pytest.mark.parametrize("option", ["--db", "--config", "--work-dir", "--region-map", "--wal-dir"])
def test_paths_that_are_given(option: str, sample_store: SampleStore, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    given = {"--db": sample_store.path, "--region-map": "none"} | {option: path}
    args = [arg for pair in given.items() for arg in pair]
    outcome = bkctl("ranges", *args, env={"TMPDIR": str(tmp_path)})
    assert outcome.code in (1, 2)
    assert "owned" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert_printable(outcome.stderr)


def test_a_store_at_a_path_of_any_bytes(sample_store: SampleStore, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"owned \xff\x1b[2J")
    sample_store.path.rename(path)
    (victim,) = sorted(path.glob("*.sst"))[:1]
    victim.write_bytes(victim.read_bytes()[:-1])
    args = ("ranges", "--db", path, "--region-map", "none")
    outcome = bkctl(*args)
    assert outcome.code == 1
    assert r"owned \xff\x1b[2J" in outcome.stderr
    assert_printable(outcome.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "bkctl", *map(os.fsencode, map(str, args))], capture_output=True
    )
    assert done.returncode == 1
    assert rb"owned \xff\x1b[2J" in done.stderr


def test_where_a_restore_goes(made: Path, tmp_path: Path) -> None:
    assert_said("restore", "b", "--storage", made, "--to", tmp_path / HOSTILE, codes=(0, 2))
    (tmp_path / f"x{HOSTILE}").write_bytes(b"")
    assert_said("restore", "b", "--storage", made, "--to", tmp_path / f"x{HOSTILE}", codes=(2,))


def test_on_a_terminal_styles_are_the_page_s_own(made: Path) -> None:
    rewrite(made / "b" / "report.json", merged_from=[f"\x1b[1m\x1b[0m{HOSTILE}"])
    leader, follower = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bkctl", "show", "b", "--storage", str(made)],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(follower)
        said = b""
        while True:
            try:
                piece = os.read(leader, 1 << 16)
            except OSError:  # what a terminal's end is called
                break
            said += piece
    os.close(leader)
    assert process.returncode == 0
    text = said.decode().replace("\r\n", "\n")
    assert r"\x1b[1m\x1b[0m\x1b]0;owned" in text
    assert text.count("\x1b[1m") > 0
    for style in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        text = text.replace(style, "")
    assert_printable(text)
