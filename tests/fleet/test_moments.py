"""Parts of a running cluster, each as of a moment of its own: all that was decided before is there.

`BKCTL_FLEET_ROUNDS` says how many clusters are played.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.simulator import Cluster
from tests.cluster.stores import lose_power
from tests.cluster.writes import KEYS
from tests.fleet.test_model import PARTS, ROUNDS, Folder, in_any_order, take_part, taken_of, to_run


@pytest.mark.parametrize("part", range(PARTS))
def test_what_was_decided_before_the_first_part_is_there(tmp_path: Path, part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part, ROUNDS, PARTS):
        cluster = Cluster(1_000_000 + seed)
        rng = cluster.rng
        cluster.run(rng.randint(200, 800))
        decided = {
            record: value for record, value in cluster.truth.data.items() if record[0] == "write"
        }
        folder, turn = Folder(), 0
        step = rng.choice((3, 20, 100))
        asked = in_any_order(sorted(cluster.stores), rng)
        while asked:
            store = asked.pop(0)
            # What a part reads of a running store is what a loss of power might have left of it.
            left = lose_power(cluster.stores[store], tmp_path / f"{seed}-{turn}", rng)
            take_part(folder, left)
            turn += 1
            if turn < 30:
                cluster.run(rng.randint(0, step))
            asked = asked or sorted(to_run(folder))[:1]
            assert turn < 100, f"seed {seed}: no end of it"
        for key in KEYS:
            own = [each for each in taken_of(folder) if each.has(key)]
            assert len(own) <= 1, f"seed {seed}: {key!r} is taken twice"
            seen["taken" if own else "refused"] += 1
            for record, value in decided.items() if own else ():
                if record[1][1:-8] == key:
                    assert own[0].records.get(record) == value, f"seed {seed}: {record} is missing"
        seen["runs"] += turn
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
    print(dict(seen))
    assert seen["taken"] > seen["refused"] / 5
