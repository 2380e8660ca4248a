"""Merges of real chains: what a full backup would hold, record by record, or nothing at all."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from bkctl.merge import plan as merge_plan
from bkctl.regions.region_map import RegionMap
from bkctl.repository.catalog import read_catalog
from bkctl.sst.writer import Compression
from bkctl.storage.url import open_storage, parse_storage
from examples.tikv_store import TikvStore
from tests.archive.made_backups import check_all
from tests.backup.helpers import backup, files_of
from tests.merge.chains import (
    END,
    WEEK,
    merged,
    records_of,
    report_of,
    shared_chain,
    sums,
    take_chain,
)
from tests.model import History
from tests.oracles import read_oracle, require_shared
from tests.regions.maps import txn_region
from tests.restore.test_restore import assert_as_of, fingerprint, restored

STORES = ["mvcc-short", "mvcc-long"]


def merged_in_order(repository: Path) -> tuple[str, ...]:
    with open_storage(parse_storage(str(repository))) as storage:
        return tuple(backup.name for backup in read_catalog(storage).resolve())


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("name", STORES)
def test_a_week_merged_is_a_full_backup_at_its_end(name: str, jobs: int, tmp_path: Path) -> None:
    names = shared_chain(name, tmp_path / "repo")
    before = fingerprint(tmp_path / "repo")
    report = report_of(merged(tmp_path / "repo", name="m", jobs=jobs))
    shared = require_shared() / "stores"
    line = read_oracle(shared / f"{name}.oracle")[3]
    assert sums(report) == (line.kvs, line.bytes, line.crc64xor)
    full = backup(shared / name, tmp_path / "full", end_ts=END, name="f")
    assert sums(report) == sums(full)
    assert (report.mode, report.start_ts, report.end_ts) == ("txn", 0, END)
    assert (report.store_id, report.cluster_id) == (full.store_id, full.cluster_id)
    assert report.merged_from == tuple(names)
    assert records_of(tmp_path / "repo", "m") == records_of(tmp_path / "full", "f")
    # Regions that stayed keep their files, range by range.
    ranges = {
        (file.cf, file.start_key, file.end_key, file.total_kvs, file.crc64xor)
        for file in files_of(tmp_path / "full", "f")
    }
    assert ranges == {
        (file.cf, file.start_key, file.end_key, file.total_kvs, file.crc64xor)
        for file in files_of(tmp_path / "repo", "m")
    }
    assert check_all(tmp_path / "repo", "m") == []
    after = fingerprint(tmp_path / "repo")
    assert {path: after[path] for path in before} == before
    assert not list((tmp_path / "repo").rglob(".bkctl*"))


@pytest.mark.parametrize("name", STORES)
def test_the_merged_backup_is_what_is_restored_and_built_on(name: str, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    shared_chain(name, repository, cuts=WEEK[:4])
    report_of(merged(repository, name="m"))
    assert merged_in_order(repository) == ("m",)
    shared = require_shared() / "stores"
    backup(shared / name, repository, start_ts=WEEK[3], end_ts=END, name="next")
    assert merged_in_order(repository) == ("m", "next")
    restored(repository, tmp_path / "db")
    assert_as_of(name, tmp_path / "db", END)
    # And it can be merged again.
    line = read_oracle(shared / f"{name}.oracle")[3]
    assert sums(report_of(merged(repository))) == (line.kvs, line.bytes, line.crc64xor)


def test_an_older_chain_is_merged_by_its_last_backups_name(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    names = shared_chain("mvcc-short", repository)
    report = report_of(merged(repository, chain=names[2], name="m"))
    full = backup(
        require_shared() / "stores" / "mvcc-short", tmp_path / "f", end_ts=WEEK[3], name="f"
    )
    assert sums(report) == sums(full)
    assert report.end_ts == WEEK[3]
    assert report.merged_from == tuple(names[:3])


def test_options_of_files_are_kept_to(tmp_path: Path) -> None:
    shared_chain("mvcc-short", tmp_path / "repo", cuts=[0, WEEK[3], END])
    report = report_of(
        merged(tmp_path / "repo", name="m", compression=Compression("lz4"), sst_max_size=50_000)
    )
    assert report.codec == "lz4"
    assert report.files > report.ranges.total == 8
    assert check_all(tmp_path / "repo", "m") == []


def history_of(rng: random.Random, keys: list[bytes], moments: list[int]) -> History:
    """Puts of short and long values, deletes and rollbacks, over and over, between moments."""
    history = History()
    for since, until in zip([0, *moments], moments, strict=False):
        for key in rng.sample(keys, len(keys) // 3):
            start_ts = since + 1 + rng.randrange((until - since) // 2 - 1)
            action = rng.randrange(6)
            if action == 0:
                history.must_rollback(key, start_ts, protected=True)
                continue
            if action == 1:
                history.must_prewrite_delete(key, key, start_ts)
            else:
                value = rng.randbytes(rng.choice([0, 3, 255, 256, 2000]))
                history.must_prewrite_put(key, value, key, start_ts)
            commit_ts = start_ts + (until - since) // 2
            history.must_commit(key, start_ts, commit_ts)
            if action == 2:
                history.must_rollback(key, commit_ts, protected=True)
    return history


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("range_size", [1, 64 << 20])
def test_regions_may_split_merge_and_be_empty_between_backups(
    seed: int, range_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_plan.plan_ranges, "__defaults__", (range_size,))
    rng = random.Random(seed)
    keys = sorted({rng.randbytes(rng.randrange(1, 12)) for _ in range(200)})
    moments = [1000 * (number + 1) for number in range(5)]
    history = history_of(rng, keys, moments)
    store = tmp_path / "store"
    with TikvStore(store) as tikv:
        history.replay(tikv)
    repository = tmp_path / "repo"
    for number, (since, until) in enumerate(zip([0, *moments], moments, strict=False)):
        bounds = [b"", *sorted({rng.randbytes(2) for _ in range(rng.randrange(12))}), b""]
        regions = [
            txn_region(n + 10 * number, first, end, version=number + 1)
            for n, (first, end) in enumerate(itertools.pairwise(bounds))
        ]
        report = backup(
            store,
            repository,
            load_regions=lambda source, regions=regions: (RegionMap.build(regions), []),
            start_ts=since,
            end_ts=until,
            name=f"b{number}",
            sst_max_size=8000,
        )
        assert report.status == "ok"
    report = report_of(merged(repository, name="m"))
    full = backup(store, tmp_path / "full", end_ts=moments[-1], name="f", store_id=1)
    expected = history.expected(0, moments[-1])
    assert sums(report) == sums(full) == (expected.kvs, expected.bytes, expected.crc64xor)
    assert records_of(repository, "m") == records_of(tmp_path / "full", "f")
    assert check_all(repository, "m") == []


def test_a_window_of_keys_stays_one(tmp_path: Path) -> None:
    store, repository = tmp_path / "store", tmp_path / "repo"
    with TikvStore(store) as tikv:
        for number, key in enumerate([b"a", b"m", b"z", b"m"]):
            tikv.must_prewrite_put(key, b"v%d" % number, key, number * 100 + 10)
            tikv.must_commit(key, number * 100 + 10, number * 100 + 20)
    window = {"start_key": b"b", "end_key": b"p"}
    take_chain(store, repository, cuts=[0, 200, 500], **window)
    report = report_of(merged(repository, name="m"))
    assert report.total_kvs == 1
    backup(store, repository, start_ts=500, end_ts=600, name="next", **window)
    assert merged_in_order(repository) == ("m", "next")
    # A backup of all keys does not build on one of some.
    backup(store, repository, start_ts=500, end_ts=700, name="other")
    with open_storage(parse_storage(str(repository))) as storage:
        assert read_catalog(storage).chains.is_orphan(read_catalog(storage).chains.look_up("other"))
