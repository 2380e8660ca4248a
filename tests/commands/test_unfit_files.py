"""Small files that are devices, pipes, directories or huge: refused at once, whoever reads them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SampleStore

SECONDS, MEMORY = 30, 1 << 30


def sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 5 << 30)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zero": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "sparse": (sparse, "5,368,709,120 bytes, where at most"),
    "pipe": (os.mkfifo, "a named pipe"),
    "directory": (lambda path: path.mkdir(), "a directory"),
}


def refused(*args: object, **variables: str) -> str:
    """The one line by which a run ends that is bounded in time and memory."""
    done = subprocess.run(
        [sys.executable, "-m", "bkctl", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **variables},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )
    assert done.returncode == 2, done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    return done.stderr


def replace(path: Path, kind: str) -> str:
    """Put something else in the place of a file; what is said of it."""
    make, says = KINDS[kind]
    path.unlink(missing_ok=True)
    make(path)
    return says


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["CURRENT", "MANIFEST", "OPTIONS", "file.dict"])
def test_files_of_a_store(file: str, kind: str, sample_store: SampleStore) -> None:
    found = sorted(sample_store.path.glob(f"{file}*"))
    path = found[-1] if found else sample_store.path / file
    says = replace(path, kind)
    told = refused("ranges", "--db", sample_store.path, "--region-map", "none")
    assert f"{path}: cannot be read" in told
    assert says in told


@pytest.mark.parametrize("kind", ["zero", "pipe", "directory"])
def test_an_sst_file_and_the_lock_of_a_store(kind: str, sample_store: SampleStore) -> None:
    replace(sample_store.path / "LOCK", kind)
    path = min(sample_store.path.glob("*.sst"))
    says = replace(path, kind)
    told = refused("ranges", "--db", sample_store.path, "--region-map", "none")
    assert f"{path}: cannot be read" in told
    assert says in told


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_is_not_read(kind: str, sample_store: SampleStore) -> None:
    replace(sample_store.path / "IDENTITY", kind)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bkctl", "ranges", "--db", str(sample_store.path)),
            *("--region-map", str(sample_store.region_map)),
        ],
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["--region-map", "--config", "--crypter.key-file", "gcs"])
def test_files_that_options_name(
    option: str, kind: str, sample_store: SampleStore, tmp_path: Path
) -> None:
    path = tmp_path / "named"
    says = replace(path, kind)
    if option == "gcs":
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bkctl", "list"),
                *("--storage", f"gcs://bucket?credentials-file={path}"),
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "the credentials file cannot be used (" in done.stderr
        assert says in done.stderr
        return
    given = {"--db": sample_store.path, "--storage": tmp_path / "r", "--region-map": "none"}
    if option == "--crypter.key-file":
        given["--crypter.method"] = "aes128-ctr"
    args = [arg for pair in (given | {option: path}).items() for arg in pair]
    told = refused("backup", *args)
    assert str(path) in told
    assert says in told
    assert not list((tmp_path / "r").rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_nobody_named(kind: str, tmp_path: Path) -> None:
    says = replace(tmp_path / "bkctl.toml", kind)
    done = subprocess.run(
        [sys.executable, "-m", "bkctl", "tso"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_no_configuration_is_dev_null(tmp_path: Path) -> None:
    (tmp_path / "bkctl.toml").write_text("no-such-option = 1")
    done = subprocess.run(
        [sys.executable, "-m", "bkctl", "tso", "--config", os.devnull],
        capture_output=True,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    assert done.returncode == 0
