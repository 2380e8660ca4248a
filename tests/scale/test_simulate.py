"""The simulation runs, small, and what it tells is what the tool itself says."""

import json
from pathlib import Path

from bkctl.archive.backup_dir import BackupDir
from bkctl.regions import pd
from bkctl.regions.region_map import RegionMap
from bkctl.storage.url import open_storage, parse_storage
from tests.scale import simulate


def test_a_simulated_map_is_whole_and_its_leaders_are_spread(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    simulate.write_map(path, 300, 3)
    region_map = RegionMap.build(pd.load(path))
    assert region_map.problems().gaps == ()
    led = [region.leader.store_id for region in region_map.regions if region.leader]
    assert [led.count(store) for store in (1, 2, 3)] == [100, 100, 100]


def test_a_described_backup_is_one_that_can_be_read(tmp_path: Path) -> None:
    path, repository = tmp_path / "map.json", tmp_path / "repository"
    simulate.write_map(path, 300, 3)
    simulate.describe_backup(path, 1, repository)
    (folder,) = repository.iterdir()
    with open_storage(parse_storage(str(repository))) as storage:
        backup_dir = BackupDir(storage, folder.name)
        assert len(backup_dir.read_meta().files) == 100
        report = backup_dir.read_report()
    assert report is not None
    assert len(report.uncovered) == 200
    assert json.loads((folder / "report.json").read_bytes())["ranges"]["total"] == 100


def test_messages_are_counted_both_ways(tmp_path: Path) -> None:
    wire, report = simulate.count_messages(tmp_path, 40, 1)
    assert report.status == "ok"
    # A batch of eight ranges is one message, each range is told when it begins and when it ends.
    assert 5 <= wire.sent < 40
    assert wire.received >= 2 * 40
    assert wire.sent_bytes > 0
    assert wire.received_bytes > 0
