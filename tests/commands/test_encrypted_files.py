"""With a key, no plain byte of a value is written to a repository, not even for a moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bkctl.storage.url import open_storage, parse_storage
from examples.tikv_store import TikvStore
from tests.commands.console import bkctl
from tests.storage.servers import gcs_server, s3_server

pytestmark = pytest.mark.xdist_group("object-stores")

MARK = b"a value that must not be seen"
KEY = ("--crypter.method", "aes256-ctr", "--crypter.key", "0f" * 32)
S3_KEYS = "&access-key=a&secret-access-key=b&region=us-east-1"

# Before and after all that is done to files, what lies in the places watched is looked through.
_WATCHED = """
import os
from pathlib import Path
from bkctl.backup import saver, worker
from bkctl.merge import worker as merge_worker
from bkctl.restore import files
from bkctl.sst import writer
from bkctl.storage import cloud, local

MARK = os.environ["MARK"].encode()

def look(when):
    seen = "looked"
    for place in os.environ["PLACES"].split(":"):
        for folder, _, names in os.walk(place):
            for name in names:
                path = Path(folder, name)
                temporary = "portion-" in folder or "bkctl-view-" in folder
                if temporary and "/repository/" not in folder:
                    continue  # a store, which is what it is, outside the repository
                try:
                    if MARK in path.read_bytes():
                        seen = f"{when}: {path}"
                except OSError:
                    pass
    with open(os.environ["TOLD"], "a") as told:
        print(seen, file=told)

def watch(owner, name):
    plain = getattr(owner, name)
    def watched(*args, **options):
        look(f"before {name}")
        try:
            return plain(*args, **options)
        finally:
            look(f"after {name}")
    setattr(owner, name, watched)

for owner, names in (
    (writer.SstWriter, ("write_columns", "finish")),
    (saver.Saver, ("_save",)),
    (local.LocalStorage, ("save_file",)),
    (cloud.CloudStorage, ("save_file",)),
    (files.FileFetcher, ("fetch",)),
    (merge_worker, ("build_layers",)),
):
    for name in names:
        watch(owner, name)

from bkctl.__main__ import main
main()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Long values and short ones, half of them committed at 20, the others at 40."""
    with TikvStore(tmp_path / "store") as tikv:
        for number in range(400):
            key, ts = b"key %03d" % number, 10 if number % 2 else 30
            tikv.must_prewrite_put(key, MARK * (1 + number % 20), key, ts)
            tikv.must_commit(key, ts, ts + 10)
    return tikv.path


class Watch:
    """Runs commands whose files are looked through; `places` are looked at besides TMPDIR."""

    def __init__(self, tmp_path: Path, storage: str, places: list[Path]) -> None:
        self.storage = storage
        self.work = tmp_path / "work"
        self.work.mkdir()
        self._told = tmp_path / "told"
        self._places = places

    def run(self, *args: object) -> set[str]:
        """What was told by the run, which must end well; times and places of plain bytes in it."""
        self._told.write_text("")
        done = subprocess.run(
            [
                *(sys.executable, "-c", _WATCHED, *map(str, args), "--storage", self.storage),
                *("--compression", "none", "--jobs", "1"),
            ],
            env={
                **os.environ,
                "TMPDIR": str(self.work),
                # No threads of a library, behind which workers would not be forked.
                "OPENBLAS_NUM_THREADS": "1",
                "MARK": MARK.decode(),
                "TOLD": str(self._told),
                "PLACES": ":".join(map(str, [*self._places, self.work])),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = self._told.read_text().splitlines()
        assert len(lines) > 10
        return set(lines) - {"looked"}

    def backup(self, store: Path, start_ts: int, end_ts: int, *options: object) -> set[str]:
        return self.run(
            *("backup", "--db", store, "--region-map", "none", "--name", f"b{end_ts}"),
            *("--start-ts", start_ts, "--end-ts", end_ts, *options),
        )


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {"gcs": stack.enter_context(gcs_server()), "s3": stack.enter_context(s3_server())}


@pytest.fixture(params=["local", "gcs", "s3"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Watch:
    if request.param == "local":
        return Watch(tmp_path, str(tmp_path / "repository"), [tmp_path / "repository"])
    endpoint = request.getfixturevalue("endpoints")[request.param]
    keys = S3_KEYS if request.param == "s3" else ""
    return Watch(
        tmp_path, f"{request.param}://bucket/{tmp_path.name}?endpoint={endpoint}{keys}", []
    )


def test_backups_and_merges_write_no_plain_byte(watch: Watch, store: Path) -> None:
    assert watch.backup(store, 0, 25, *KEY) == set()
    assert watch.backup(store, 25, 50, *KEY) == set()
    assert watch.run("merge", "--name", "merged", *KEY) == set()
    with open_storage(parse_storage(watch.storage)) as storage:
        names = [info.name for info in storage.list()]
        assert len([name for name in names if name.endswith(".sst")]) == 6
        assert not any(MARK in storage.read(name) for name in names)
    verified = bkctl("verify", "--all", "--level", "deep", "--storage", watch.storage, *KEY)
    assert verified.code == 0, verified.stdout
    # Without a key there would be something to see.
    assert watch.backup(store, 0, 30)


@pytest.mark.parametrize("command", ["backup", "merge"])
def test_a_work_dir_in_the_repository_is_refused(command: str, store: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    inside = repository / "work"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inside)
    options = ["--storage", repository, "--work-dir", tmp_path / "link", *KEY]
    if command == "backup":
        options += ["--db", store, "--region-map", "none"]
    outcome = bkctl(command, *options)
    assert outcome.code == 2
    assert f"{inside} lies in the repository" in outcome.stderr
    assert os.listdir(repository) == ["work"]
