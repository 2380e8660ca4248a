"""The windows of TiKV's own range test, through a whole backup: its files are the ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.tikv_store import TikvStore
from tests.backup.helpers import backup, files_of
from tests.regions.test_plan import TIKV_CASES, TIKV_REGIONS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key in every range that a case expects."""
    path = tmp_path_factory.mktemp("windows") / "store"
    with TikvStore(path) as tikv:
        for key in (b"0", b"1", b"3", b"7", b"8", b"9"):
            tikv.must_prewrite_put(key, b"v", key, 10)
            tikv.must_commit(key, 10, 20)
        tikv.set_regions([(n, *keys, 1) for n, keys in enumerate(TIKV_REGIONS, start=1)])
        tikv.write_region_map(path.parent / "store.regions.json")
    return path


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("start_key", "end_key", "expected"), TIKV_CASES)
def test_the_ranges_of_a_whole_backup(
    store: Path,
    start_key: bytes,
    end_key: bytes,
    expected: list[tuple[bytes, bytes]],
    batch_size: int,
    tmp_path: Path,
) -> None:
    report = backup(
        store,
        tmp_path / "repo",
        end_ts=100,
        name="b",
        start_key=start_key,
        end_key=end_key,
        batch_size=batch_size,
        allow_gaps=True,
    )
    assert report.status == "ok"
    assert report.ranges.total == report.ranges.done == len(expected)
    files = files_of(tmp_path / "repo", "b")
    assert sorted((file.start_key, file.end_key) for file in files) == sorted(expected)
