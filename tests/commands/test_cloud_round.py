"""The whole round by commands, against servers that speak GCS and S3, and through faults.

backup, list, show, verify, an incremental, restore: what comes back has the oracle's sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.storage.url import open_storage, parse_storage
from tests.commands.console import Outcome, bkctl
from tests.oracles import OracleLine, read_oracle, require_shared
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.servers import (
    Fault,
    FaultProxy,
    Plan,
    Request,
    first,
    gcs_server,
    one_in,
    s3_server,
)

pytestmark = pytest.mark.xdist_group("object-stores")

KEYS = "access-key=a&secret-access-key=b&region=us-east-1"
FAULTS = (
    Fault.STATUS_503,
    Fault.STATUS_429,
    Fault.CUT_REQUEST,
    Fault.CUT_ANSWER,
    Fault.LOST_ANSWER,
)
_TRIES = 4


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {"gcs": stack.enter_context(gcs_server()), "s3": stack.enter_context(s3_server())}


def url_of(kind: str, endpoint: str, prefix: str) -> str:
    keys = f"&{KEYS}" if kind == "s3" else ""
    return f"{kind}://bucket/{prefix}?endpoint={endpoint}{keys}"


@dataclass
class Round:
    """One round over `url`; `plain_url` leads to the same place with nothing in between."""

    store: Path
    url: str
    plain_url: str
    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        lines = read_oracle(self.store.parent / f"{self.store.name}.oracle")
        base, end = lines[2], lines[3]
        incr = next(line for line in lines if line.kind == "inc" and line.start_ts == base.end_ts)
        self.backup("full", base)
        self.backup("incr", incr)
        listed = self.command("list", "--json").document
        assert [backup["name"] for backup in listed["backups"]] == ["full", "incr"]
        shown = self.command("show", "incr", "--json").document
        assert shown["total_kvs"] == incr.kvs
        verified = self.command("verify", "--all", "--level", "deep", "--json", *QUIET).document
        assert [found["status"] for found in verified] == ["ok", "ok"]
        target = self.folder / "restored"
        self.command("restore", "latest", "--to", target, "--json", *QUIET)
        again = bkctl(
            *("backup", "--db", target, "--region-map", "none", "--end-ts", end.end_ts),
            *("--storage", self.folder / "again", "--json", *QUIET),
        ).document
        assert (again["total_kvs"], again["total_bytes"]) == (end.kvs, end.bytes)
        assert int(again["crc64xor"], 16) == end.crc64xor

    def backup(self, name: str, line: OracleLine) -> None:
        """Take one, again and again where it fails; while it fails there is no backupmeta."""
        for number in range(_TRIES):
            resume = ["--resume"] if number and self.is_claimed(name) else []
            outcome = bkctl(
                *("backup", "--db", self.store, "--region-map", f"{self.store}.regions.json"),
                *("--storage", self.url, "--name", name, "--json", "--jobs", 2, *QUIET, *resume),
                *("--start-ts", line.start_ts, "--end-ts", line.end_ts),
            )
            if outcome.code == 0:
                break
            self.assert_clear(outcome)
            assert not self.is_published(name)
        self.outcomes["done"] += 1
        assert outcome.code == 0, outcome.stderr
        report = outcome.document
        assert (report["total_kvs"], report["total_bytes"]) == (line.kvs, line.bytes)
        assert int(report["crc64xor"], 16) == line.crc64xor

    def command(self, name: str, *args: object) -> Outcome:
        """Run a command that reads; what fails fails clearly, and may be run again."""
        for _ in range(_TRIES):
            outcome = bkctl(name, *args, "--storage", self.url)
            if outcome.code == 0:
                self.outcomes["done"] += 1
                return outcome
            self.assert_clear(outcome)
        pytest.fail(outcome.stderr)

    def assert_clear(self, outcome: Outcome) -> None:
        self.outcomes["failed clearly"] += 1
        assert outcome.code in (1, 3), outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert "bucket" in outcome.stderr

    def is_published(self, name: str) -> bool:
        with open_storage(parse_storage(self.plain_url)) as storage:
            return BackupDir(storage, name).is_complete()

    def is_claimed(self, name: str) -> bool:
        with open_storage(parse_storage(self.plain_url)) as storage:
            return BackupDir(storage, name).read_claim() is not None


QUIET = ("--progress", "none")


@pytest.mark.parametrize("kind", ["gcs", "s3"])
@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_the_round_is_exact(
    kind: str, name: str, endpoints: dict[str, str], tmp_path: Path
) -> None:
    store = require_shared() / "stores" / name
    url = url_of(kind, endpoints[kind], tmp_path.name)
    Round(store, url, url, tmp_path).run()


def all_of(*plans: Plan) -> Plan:
    def plan(request: Request) -> Fault | None:
        return next((fault for each in plans if (fault := each(request))), None)

    return plan


def faulty_round(kind: str, endpoint: str, seed: int, folder: Path) -> tuple[FaultProxy, Round]:
    """A round with faults on one request in ten, two stalls, and a wrong checksum either way."""
    sessions = GcsSessions() if kind == "gcs" else None
    proxy = FaultProxy(endpoint, sessions=sessions, checks=True, stall_seconds=5)
    store = require_shared() / "stores" / "mvcc-long"
    plain = url_of(kind, endpoint, folder.name)
    with proxy.running():
        proxy.plan = all_of(
            first(Fault.DAMAGED_REQUEST, 1, lambda request: request.data_at is not None),
            first(Fault.DAMAGED_ANSWER, 1, is_content),
            first(Fault.STALL, 1, lambda request: request.method in ("PUT", "POST")),
            first(Fault.STALL, 1, lambda request: request.method == "GET"),
            one_in(10, seed, FAULTS),
        )
        made = Round(store, url_of(kind, proxy.endpoint, folder.name), plain, folder)
        made.run()
    return proxy, made


def is_content(request: Request) -> bool:
    """Whether a request reads an SST file."""
    return request.method == "GET" and ".sst" in request.target and "range" in request.headers


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_the_round_is_exact_through_faults(
    kind: str, endpoints: dict[str, str], tmp_path: Path
) -> None:
    proxy, made = faulty_round(kind, endpoints[kind], 7, tmp_path)
    assert sum(proxy.faults.values()) > 10
    assert proxy.faults[Fault.STALL] == 2
    assert proxy.faults[Fault.DAMAGED_REQUEST] == 1
    assert made.outcomes["done"] == 6
