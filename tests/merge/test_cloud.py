"""Merging a chain that lies in a bucket: exact, bounded in space, and nothing of it left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.archive.backup_dir import BackupDir
from bkctl.errors import StorageError
from bkctl.storage.url import open_storage, parse_storage
from tests.backup.test_cloud import FAULTS, assert_exact_and_stored, oracle, url_of
from tests.merge.chains import WEEK, merged, report_of, shared_chain, sums
from tests.storage.gcs_sessions import GcsSessions
from tests.storage.servers import FaultProxy, gcs_server, one_in

pytestmark = pytest.mark.xdist_group("object-stores")


def test_a_week_in_a_bucket_is_merged_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with gcs_server() as endpoint:
        url = url_of("gcs", endpoint, "repo")
        names = shared_chain("mvcc-long", url, cuts=[0, *WEEK[3:]])
        report = report_of(merged(url, name="m", jobs=2, rate_limit=1 << 30))
        assert_exact_and_stored(report, oracle(3), url)
        assert report.merged_from == tuple(names)
        assert not list(tmp_path.iterdir())
        assert merged(url, chain="m").report is None


def test_faults_on_one_request_in_ten_never_give_a_wrong_merge(tmp_path: Path) -> None:
    with gcs_server() as endpoint:
        plain = url_of("gcs", endpoint, "repo")
        shared_chain("mvcc-long", plain, cuts=[0, *WEEK[5:]])
        proxy = FaultProxy(endpoint, sessions=GcsSessions(), checks=True)
        with proxy.running():
            proxy.plan = one_in(10, 7, FAULTS)
            try:
                report = merged(url_of("gcs", proxy.endpoint, "repo"), name="m", jobs=2).report
            except StorageError:
                report = None
        assert proxy.faults
        if report is not None and report.status == "ok":
            assert_exact_and_stored(report, oracle(3), plain)
            assert sums(report) == (oracle(3).kvs, oracle(3).bytes, oracle(3).crc64xor)
        else:
            with open_storage(parse_storage(plain)) as storage:
                assert not BackupDir(storage, "m").is_complete()
