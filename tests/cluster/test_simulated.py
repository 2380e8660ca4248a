"""Clusters that were cut off at any moment: what is taken has all that was decided, or is refused.

`BKCTL_CLUSTER_ROUNDS` says how many are played; the verdicts are the model's own (`judge`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bkctl.cluster.regions import ClusterRegions
from bkctl.cluster.stores import LocalStores
from bkctl.codec.memcomparable import decode
from bkctl.regions.region_map import whole_key_space
from bkctl.store.database import Database
from bkctl.store.source import SourceOptions
from tests.backup.helpers import backup
from tests.backup.test_coverage import held, restored
from tests.cluster.judge import Taken, judge
from tests.cluster.simulator import Cluster
from tests.cluster.stores import FAMILIES, Left, elect, lose_power, write_rocksdb

ROUNDS = int(os.environ.get("BKCTL_CLUSTER_ROUNDS", "48"))
PARTS = 6

_Records = dict[tuple[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Round:
    """A cluster without power, and the stores of it that are at hand."""

    cluster: Cluster
    lefts: list[Left]


def play(seed: int, folder: Path) -> Round:
    """A cluster's life, and what is left of it."""
    cluster = Cluster(seed)
    rng = cluster.rng
    cluster.run(rng.randint(200, 1000))
    lost = rng.choice((0, 0, 0, 1, 1, 1, 1, 2, 2, 3))
    count = max(1, len(cluster.stores) - lost)
    numbers = sorted(rng.sample(sorted(cluster.stores), count))
    return Round(
        cluster,
        [lose_power(cluster.stores[number], folder / str(number), rng) for number in numbers],
    )


def taken_of(regions: ClusterRegions, views: Sequence[_Records]) -> list[Taken]:
    return [
        Taken(region.id, region.start_key, region.end_key, views[regions.numbers[region.id]])
        for region in regions.region_map.regions
        if region.id not in regions.refused
    ]


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_taken_has_all_that_was_decided(tmp_path: Path, part: int) -> None:
    reasons: Counter[str] = Counter()
    for seed in range(part, ROUNDS, PARTS):
        folder = tmp_path / str(seed)
        played = play(seed, folder)
        _, regions, views = elect(played.lefts)
        taken = taken_of(regions, views)
        verdict = judge(played.cluster, played.lefts, taken)
        assert not verdict.wrong, f"seed {seed}: {verdict.wrong}"
        assert not verdict.unjust, f"seed {seed}: {verdict.unjust} refused without a reason"
        reasons += verdict.reasons
        reasons["taken"] += verdict.taken_keys
        if seed % 3 == 0:
            _check_minority(played, taken)
        shutil.rmtree(folder)
    print(f"keys: {dict(reasons)}")
    assert reasons["taken"] > reasons.total() / 4


def _check_minority(played: Round, sure: Sequence[Taken]) -> None:
    """What is at hand may be taken, if asked for; each key once."""
    _, regions, views = elect(played.lefts, allow_minority=True)
    taken = taken_of(regions, views)
    assert not regions.refused or all(r.kind == "corruption" for r in regions.refused.values())
    verdict = judge(played.cluster, played.lefts, taken)
    assert not any("twice" in each for each in verdict.wrong)
    if verdict.wrong:
        assert regions.minority or len(taken) != len(sure)


@pytest.mark.parametrize("seed", [13])
def test_directories_are_read_alike(tmp_path: Path, seed: int) -> None:
    played = play(seed, tmp_path)
    choices, regions, views = elect(played.lefts)
    options = [SourceOptions(write_rocksdb(left)) for left in played.lefts]
    with LocalStores(options, chooses=True) as stores:
        assert stores.choices == choices
        assert stores.regions == regions
        for source, view in zip(stores.sources, views, strict=True):
            database = Database(source.db_dir, source.path)
            found = {
                (family, key): value
                for family in FAMILIES
                for key, value in database.scan(family, b"", b"\xff").take(1 << 20)
            }
            database.close()
            assert found == view


@pytest.mark.parametrize("seed", [6, 13])
def test_a_backup_has_the_last_values_or_is_none(tmp_path: Path, seed: int) -> None:
    played = play(seed, tmp_path)
    _, regions, views = elect(played.lefts)
    verdict = judge(played.cluster, played.lefts, taken_of(regions, views))
    first, *others = [SourceOptions(write_rocksdb(left)) for left in played.lefts]
    report = backup(
        first.path,
        tmp_path / "repo",
        load_regions=lambda source: (whole_key_space(), []),
        others=tuple(others),
        chooses=True,
        name="b",
        end_ts=played.cluster.ts,
    )
    assert (report.status == "ok") is not bool(verdict.reasons)
    assert (tmp_path / "repo" / "b" / "backupmeta").exists() is (report.status == "ok")
    if report.status != "ok":
        assert report.errors
        return
    restored(tmp_path / "repo", tmp_path / "restored", name="b")
    found = held(tmp_path / "restored", played.cluster.ts)
    for key, value in _last_values(played.cluster.truth.data).items():
        assert found[key] >= value
        assert len(found[key]) >= len(value)


def _last_values(records: _Records) -> dict[bytes, bytes]:
    """What each key had last, of what was decided."""
    found: dict[bytes, bytes] = {}
    for (family, key), record in sorted(records.items(), reverse=True):
        if family == "write":
            # Newer versions of a key come later here.
            found[decode(key[1:-8])] = record[record.index(b"v", 1) + 2 :]
    return found
