"""Whole backups to real servers that speak GCS and S3, also through faults: exact, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.report import Report
from bkctl.errors import StorageError
from bkctl.storage.url import open_storage, parse_storage
from tests.backup.helpers import backup
from tests.oracles import OracleLine, read_oracle, require_shared
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.servers import Fault, FaultProxy, gcs_server, one_in, s3_server

pytestmark = pytest.mark.xdist_group("object-stores")

KEYS = "access-key=a&secret-access-key=b&region=us-east-1"
FAULTS = (Fault.STATUS_503, Fault.STATUS_429, Fault.CUT_REQUEST, Fault.CUT_ANSWER)


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {"gcs": stack.enter_context(gcs_server()), "s3": stack.enter_context(s3_server())}


def url_of(kind: str, endpoint: str, prefix: str) -> str:
    keys = f"&{KEYS}" if kind == "s3" else ""
    return f"{kind}://bucket/{prefix}?endpoint={endpoint}{keys}"


def oracle(index: int) -> OracleLine:
    return read_oracle(require_shared() / "stores" / "mvcc-long.oracle")[index]


def assert_exact_and_stored(report: Report, line: OracleLine, url: str) -> None:
    assert report.status == "ok", report.errors
    assert (report.total_kvs, report.total_bytes, report.crc64xor) == (
        line.kvs,
        line.bytes,
        line.crc64xor,
    )
    with open_storage(parse_storage(url)) as storage:
        backup_dir = BackupDir(storage, report.name)
        meta = backup_dir.read_meta()
        assert len(meta.files) == report.files
        for file in meta.files:
            content = storage.read(backup_dir.object_name(file.name))
            assert hashlib.sha256(content).digest() == file.sha256
        assert not any("checkpoint" in info.name for info in backup_dir.list_files())


@pytest.mark.parametrize("kind", ["gcs", "s3"])
@pytest.mark.parametrize("index", [3, 4])
def test_a_backup_to_a_cloud_is_exact(
    kind: str, index: int, endpoints: dict[str, str], tmp_path: Path
) -> None:
    line = oracle(index)
    url = url_of(kind, endpoints[kind], tmp_path.name)
    store = require_shared() / "stores" / "mvcc-long"
    report = backup(store, url, start_ts=line.start_ts, end_ts=line.end_ts, jobs=2)  # type: ignore[arg-type]
    assert_exact_and_stored(report, line, url)


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_faults_on_one_request_in_ten_never_give_a_wrong_backup(
    kind: str, endpoints: dict[str, str], tmp_path: Path
) -> None:
    line = oracle(3)
    store = require_shared() / "stores" / "mvcc-long"
    sessions = GcsSessions() if kind == "gcs" else None
    proxy = FaultProxy(endpoints[kind], sessions=sessions, checks=True)
    plain = url_of(kind, endpoints[kind], tmp_path.name)
    with proxy.running():
        proxy.plan = one_in(10, 7, FAULTS)
        try:
            report = backup(
                store,
                url_of(kind, proxy.endpoint, tmp_path.name),  # type: ignore[arg-type]
                end_ts=line.end_ts,
                name="b",
                jobs=2,
            )
        except StorageError:
            report = None
    assert proxy.faults
    if report is not None and report.status == "ok":
        assert_exact_and_stored(report, line, plain)
    else:
        with open_storage(parse_storage(plain)) as storage:
            assert not BackupDir(storage, "b").is_complete()
