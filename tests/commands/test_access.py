"""Who may read what a run makes, whatever umask it was started with."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from examples.make_store import END_TS, MID_TS
from tests.commands.console import bkctl
from tests.conftest import SampleStore

# While a run has files in work, and at its end, the modes of all that lies in the places are told.
_TOLD = """
import os, sys
os.umask(int(os.environ["UMASK"], 8))
from bkctl.merge import worker as merge_worker
from bkctl.raft import replayer
from bkctl.restore import build
from bkctl.sst import writer
from bkctl.storage import local

def look():
    with open(os.environ["TOLD"], "a") as told:
        for place in os.environ["PLACES"].split(":"):
            for folder, folders, files, handle in os.fwalk(place):
                for name in (".", *folders, *files):
                    try:
                        found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # of another thread, and renamed meanwhile
                    print(f"{found.st_mode:o} {folder}/{name}", file=told)

def watch(owner, name):
    plain = getattr(owner, name)
    def watched(*args, **options):
        try:
            return plain(*args, **options)
        finally:
            look()
    setattr(owner, name, watched)

watch(writer.SstWriter, "finish")
watch(local.LocalStorage, "save_file")
watch(local.LocalStorage, "create")
watch(local.LocalStorage, "write")
watch(replayer.RaftReplayer, "replay")
watch(merge_worker, "build_layers")
watch(build.Workshop, "build")
from bkctl.__main__ import main
main()
"""


class Runs:
    """Runs of the program with an umask; `modes` are those of all that it ever made, by kind."""

    def __init__(self, base: Path, umask: int) -> None:
        self.repository = base / "deep" / "repository"
        self._base, self._umask = base, umask
        self._places = [base / "deep", base / "tmp", base / "restored"]
        for place in self._places:
            place.mkdir(mode=0o700)
        self._known = {str(place) for place in self._places}

    def run(self, *args: object) -> None:
        told = self._base / "told"
        done = subprocess.run(
            [
                *(sys.executable, "-c", _TOLD, *map(str, args), "--storage", str(self.repository)),
            ],
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "UMASK": f"{self._umask:o}",
                "TMPDIR": str(self._base / "tmp"),
                "TOLD": str(told),
                "PLACES": ":".join(map(str, self._places)),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def modes(self) -> tuple[dict[int, str], dict[int, str]]:
        """The modes of files and of folders, each with an example."""
        files: dict[int, str] = {}
        folders: dict[int, str] = {}
        lines = (self._base / "told").read_text().splitlines()
        for place in self._places:
            lines += [f"{path.lstat().st_mode:o} {path}" for path in place.rglob("*")]
        for line in lines:
            octal, _, shown = line.partition(" ")
            mode, path = int(octal, 8), os.path.normpath(shown)
            if stat.S_ISREG(mode):
                files[stat.S_IMODE(mode)] = path
            elif stat.S_ISDIR(mode) and path not in self._known:
                folders[stat.S_IMODE(mode)] = path
        return files, folders


def all_commands(runs: Runs, store: SampleStore, *options: str) -> None:
    source = ("--db", store.path, "--region-map", store.region_map, "--jobs", "1", *options)
    key = ("--crypter.method", "aes128-ctr", "--crypter.key", "0f" * 16)
    runs.run("backup", *source, "--name", "full", "--end-ts", MID_TS)
    runs.run("backup", *source, "--name", "i", "--start-ts", MID_TS, "--end-ts", END_TS, *key)
    runs.run("merge", "--name", "merged", "--jobs", "1", *key, *options)
    restored = runs.repository.parent.parent / "restored"
    runs.run("restore", "full", "--to", restored / "in" / "db", *options)
    runs.run("restore", "merged", "--to", restored / "merged", *key, *options)
    runs.run("prune", "--keep-last", "1", *options)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_what_is_made_is_its_user_s_alone(
    umask: int, sample_store: SampleStore, tmp_path: Path
) -> None:
    base = tmp_path / "runs"
    base.mkdir()
    runs = Runs(base, umask)
    all_commands(runs, sample_store)
    files, folders = runs.modes()
    assert (set(files), set(folders)) == ({0o600}, {0o700}), (files, folders)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_group_may_read_where_that_is_asked_for(
    umask: int, sample_store: SampleStore, tmp_path: Path
) -> None:
    base = tmp_path / "runs"
    base.mkdir()
    runs = Runs(base, umask)
    all_commands(runs, sample_store, "--group-readable")
    files, folders = runs.modes()
    # What is temporary may be stricter; what stays may not.
    assert {0o640} <= set(files) <= {0o640, 0o600}, files
    assert {0o750} <= set(folders) <= {0o750, 0o700}, folders
    for path in (*runs.repository.rglob("*"), *(base / "restored").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_restore_for_the_group_links_no_file_that_the_group_cannot_read(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    base = tmp_path / "runs"
    base.mkdir()
    runs = Runs(base, 0o022)
    source = ("--db", sample_store.path, "--region-map", sample_store.region_map, "--jobs", "1")
    runs.run("backup", *source, "--name", "full", "--end-ts", END_TS)
    runs.run("restore", "full", "--to", base / "restored" / "db", "--group-readable")
    for path in (base / "restored" / "db").iterdir():
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_nlink) == (0o640, 1)


def test_configuration_and_environment_let_the_group_read(
    sample_store: SampleStore, tmp_path: Path
) -> None:
    (tmp_path / "bkctl.toml").write_text("group-readable = true\n")
    source = ("--db", sample_store.path, "--region-map", "none", "--end-ts", END_TS)
    by_file = ("--storage", tmp_path / "file", "--config", tmp_path / "bkctl.toml")
    assert bkctl("backup", *source, *by_file).code == 0
    by_env = {"BKCTL_GROUP_READABLE": "1"}
    assert bkctl("backup", *source, "--storage", tmp_path / "env", env=by_env).code == 0
    assert bkctl("backup", *source, "--storage", tmp_path / "alone").code == 0
    for name, mode in (("file", 0o640), ("env", 0o640), ("alone", 0o600)):
        (meta,) = (tmp_path / name).rglob("backupmeta")
        assert stat.S_IMODE(meta.stat().st_mode) == mode


def test_a_hook_runs_with_the_umask_of_the_user(sample_store: SampleStore, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        done = bkctl(
            *("backup", "--db", sample_store.path, "--region-map", "none", "--end-ts", END_TS),
            *("--storage", tmp_path / "r", "--on-success", f"touch {tmp_path}/made"),
        )
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert done.code == 0, done.stderr
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o640


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_file_that_others_may_read_draws_a_warning(
    mode: int, warns: bool, sample_store: SampleStore, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("0f" * 16)
    key_file.chmod(mode)
    done = bkctl(
        *("backup", "--db", sample_store.path, "--region-map", "none", "--end-ts", END_TS),
        *("--storage", tmp_path / "r", "--progress", "none"),
        *("--crypter.method", "aes128-ctr", "--crypter.key-file", key_file),
    )
    assert done.code == 0, done.stderr
    warned = f"bkctl: warning: --crypter.key-file {key_file}: others may read or change it"
    assert (warned in done.stderr) == warns
    assert ("key" in done.stderr) == warns
