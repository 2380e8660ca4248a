"""Descriptions made to fill the memory: a few bytes of them were a hundred once they were read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bkctl.codec.varint import encode_uvarint
from bkctl.storage.local import LocalStorage
from tests.repository.repositories import claim, publish

MIB = 1 << 20


class Ended(NamedTuple):
    """How a run ended: its exit code, what it printed, and the most memory that it had, in MiB."""

    code: int
    stdout: str
    stderr: str
    peak: int


def measured(*args: object) -> Ended:
    """Run `python -m bkctl` as a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "bkctl", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        stdout, stderr = run.stdout.read(), run.stderr.read()
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    return Ended(run.returncode, stdout, stderr, usage.ru_maxrss >> 10)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A repository with a whole backup."""
    storage = LocalStorage(tmp_path / "repo")
    publish(storage, tmp_path, "sound", 0, 100)
    return storage


@pytest.fixture
def usual(storage: LocalStorage) -> int:
    """The MiB that a list of one small backup takes."""
    return measured("list", "--storage", storage.url).peak


def put(storage: LocalStorage, name: str, pieces: Iterable[bytes]) -> None:
    path = Path(storage.url.removeprefix("local://")) / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.writelines(pieces)


def large_report(member: str, entry: str, size: int) -> Iterator[bytes]:
    """A report of which one list has `size` bytes."""
    yield (
        b'{"name": "large", "status": "ok", "mode": "txn", "start_ts": 0, "end_ts": 100, '
        b'"store_id": 1, "cluster_id": 7, "ranges": {"total": 1, "done": 1, "failed": 0, '
        b'"skipped": 0}, "files": 0, "total_kvs": 0, "total_bytes": 0, '
        b'"crc64xor": "0000000000000000", "size": 0, "seconds": 1, "errors": [], "skipped": [], '
        b'"gaps": [], "started_at": "2026-11-23T10:15:00Z", "resumed": 0, "decided_locks": [], '
    )
    piece = f"{entry},".encode() * 1000
    yield f'"{member}": ['.encode()
    for _ in range(size // len(piece)):
        yield piece
    yield f"{entry}]}}".encode()


def field(number: int, content: bytes) -> bytes:
    return encode_uvarint(number << 3 | 2) + encode_uvarint(len(content)) + content


@pytest.mark.parametrize(
    ("member", "entry"),
    [
        ("unknown", "[[],[],[],[]]"),
        ("unknown", "{}"),
        ("skipped", '{"region_id":1,"reason":""}'),
        ("covered", '{"start_key":"","end_key":"61","start_ts":0}'),
    ],
)
def test_a_list_takes_no_more_for_a_large_report(
    storage: LocalStorage, usual: int, member: str, entry: str
) -> None:
    publish(storage, Path(storage.url.removeprefix("local://")).parent, "large", 0, 100)
    put(storage, "large/report.json", large_report(member, entry, 8 * MIB))
    ended = measured("list", "--storage", storage.url)
    assert (ended.code, ended.stderr) == (0, "")
    assert "total: 2 complete backups" in ended.stdout
    assert ended.peak < usual + 30


def test_a_list_takes_no_more_for_raw_ranges_without_end(storage: LocalStorage, usual: int) -> None:
    claim(storage, "large", 0, 100)
    put(storage, "large/backupmeta", (field(9, b"") * 10_000 for _ in range(200)))
    ended = measured("list", "--storage", storage.url)
    assert (ended.code, ended.stderr) == (0, "")
    assert "names more than 65536 raw ranges" in ended.stdout
    assert "total: 1 complete backup, 1 damaged" in ended.stdout
    assert ended.peak < usual + 30


def test_a_list_counts_very_many_files_without_holding_them(
    storage: LocalStorage, usual: int
) -> None:
    claim(storage, "large", 0, 100)
    put(storage, "large/backupmeta", (field(4, field(1, b"%06x" % n)) for n in range(150_000)))
    ended = measured("list", "--storage", storage.url)
    assert (ended.code, ended.stderr) == (0, "")
    assert "total: 2 complete backups" in ended.stdout
    assert ended.peak < usual + 30


@pytest.mark.parametrize("command", ["restore", "verify", "show"])
def test_names_of_files_that_are_not_there_fill_no_memory(
    command: str, storage: LocalStorage, usual: int, tmp_path: Path
) -> None:
    claim(storage, "large", 0, 200)
    put(
        storage,
        "large/backupmeta",
        (b"\x30\xc8\x01", *(field(4, field(1, b"%06x" % n)) for n in range(150_000))),
    )
    arguments = ("--to", tmp_path / "to") if command == "restore" else ()
    ended = measured(command, "large", "--storage", storage.url, *arguments)
    told = ended.stdout + ended.stderr
    assert "names 10000 files and more, of which most are missing" in told
    assert "Traceback" not in told
    assert ended.code in (1, 5)
    assert ended.peak < usual + 80


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(storage: LocalStorage) -> None:
    repository = Path(storage.url.removeprefix("local://"))
    (repository / "bad" / "backupmeta").mkdir(parents=True)
    (repository / "worse").mkdir()
    (repository / "worse" / "backupmeta").symlink_to("backupmeta")
    (repository / "worst").mkdir()
    os.mkfifo(repository / "worst" / "backupmeta")
    (repository / "odd").mkdir()
    (repository / "odd" / "report.json").mkdir()
    (repository / "locked").mkdir()
    (repository / "locked" / "backup.lock").symlink_to("/dev/zero")
    ended = measured("list", "--storage", storage.url)
    assert (ended.code, ended.stderr) == (0, "")
    assert any(line.startswith("sound ") for line in ended.stdout.splitlines())
    assert "total: 1 complete backup" in ended.stdout
