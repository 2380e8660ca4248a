"""A backup compared with several stores: each region with the one that counts for it."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from bkctl.cluster.regions import ClusterRegions, Refusal
from bkctl.codec.memcomparable import encode
from bkctl.regions.region import Region, RegionEpoch
from bkctl.regions.region_map import RegionMap, Skipped, whole_key_space
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions
from bkctl.verify.against import Segment
from bkctl.verify.comparing import Against, place_segment
from bkctl.verify.level import Level
from bkctl.verify.verify import Verification, Verifier
from tests.backup.helpers import Quiet, backup
from tests.cluster.stores import write_rocksdb
from tests.cluster.test_simulated import play
from tests.commands.console import Outcome, bkctl
from tests.real.stores import truth, unpack


def verify(repository: Path, paths: list[Path], *, allow_minority: bool = False) -> Verification:
    first, *others = map(SourceOptions, paths)
    given = Against(
        first,
        lambda source: (whole_key_space(), []),
        tuple(others),
        chooses=True,
        allow_minority=allow_minority,
    )
    with Verifier(parse_storage(str(repository)), Level.SIZE, 1) as verifier:
        return verifier.verify("b", Quiet(), given)


@pytest.mark.parametrize("seed", [0, 1, 8, 10])
def test_a_backup_of_several_stores_is_what_they_say(tmp_path: Path, seed: int) -> None:
    """And of fewer of them, none differs that a majority of voters is at hand of."""
    played = play(seed, tmp_path)
    first, *others = paths = [write_rocksdb(left) for left in played.lefts]
    report = backup(
        first,
        tmp_path / "repo",
        load_regions=lambda source: (whole_key_space(), []),
        others=tuple(map(SourceOptions, others)),
        chooses=True,
        allow_gaps=True,
        name="b",
        end_ts=played.cluster.ts,
    )
    assert report.status == "ok"
    found = verify(tmp_path / "repo", paths)
    assert found.differences is not None
    assert found.differences.total == 0
    if not report.uncovered:
        assert found.status == "ok", found.errors
    rng = random.Random(seed)
    some = rng.sample(paths, max(1, len(paths) - 1))
    found = verify(tmp_path / "repo", some)
    assert found.differences is not None
    assert found.differences.total == 0
    assert found.status in ("ok", "failed")


def real(repository: Path, stores: list[Path], *given: object) -> Outcome:
    words = [word for store in stores for word in ("--against", store)]
    return bkctl("verify", "--storage", repository, "--level", "size", *words, *given, "--json")


def test_a_real_cluster(tmp_path: Path) -> None:
    stores, repository = unpack("dead3", tmp_path), tmp_path / "repository"
    window = next(w for w in truth("dead3")["windows"] if w["name"] == "acked")
    made = bkctl(
        *("backup", *(word for store in stores for word in ("--db", store))),
        *("--region-map", "store", "--storage", repository, "--name", "b", "--progress", "none"),
        *("--start-key", window["start_key"], "--end-key", window["end_key"]),
        *("--end-ts", window["end_ts"]),
    )
    assert made.code == 0, made.stderr
    for given in (stores, stores[:2], stores[::2]):
        done = real(repository, given, "--region-map", "store")
        assert (done.code, done.document["status"]) == (0, "ok"), done.document
        assert done.document["differences"] == {"total": 0, "first": []}
    assert real(repository, stores).code == 0
    pattern = [tmp_path / "tikv*"]
    assert real(repository, pattern, "--region-map", "store").code == 0
    # The third alone cannot tell, and lacks acknowledged writes.
    done = real(repository, stores[2:], "--region-map", "store")
    assert (done.code, done.document["status"]) == (1, "failed")
    assert done.document["differences"]["total"] == 0
    assert "were not compared: region 10: of its 3 voters 1 are at hand" in "\n".join(
        done.document["errors"]
    )
    done = real(repository, stores[2:], "--region-map", "store", "--allow-minority")
    assert (done.code, done.document["status"]) == (5, "differs")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    stores = [tmp_path / "a", tmp_path / "b"]
    done = real(tmp_path, stores, "--region-map", "none")
    assert done.code == 2
    assert "give --region-map store, or leave it out" in done.stderr
    done = real(tmp_path, stores, "--wal-dir", tmp_path)
    assert done.code == 2
    assert "--wal-dir is one store's; it cannot go with several --against" in done.stderr
    done = real(tmp_path, [tmp_path / "none*"])
    assert (done.code, "--against" in done.stderr) == (2, True)


@pytest.mark.parametrize("is_raw", [True, False])
def test_each_key_of_a_segment_is_in_one_part_of_its_regions_store(is_raw: bool) -> None:
    for seed in range(300):
        _check_parts(seed, is_raw)


def _check_parts(seed: int, is_raw: bool) -> None:
    rng = random.Random(seed)
    keys = [bytes([65 + number]) for number in range(12)]
    cuts = [b"", *sorted(rng.sample(keys, rng.randint(1, 6))), b""]
    bounds = list(pairwise(cuts))

    def coded(key: bytes) -> bytes:
        return key if is_raw or not key else encode(key)

    kinds: dict[int, str] = {}
    regions, skipped, refused, numbers = [], [], {}, {}
    for region_id, (start, end) in enumerate(bounds, 1):
        kinds[region_id] = kind = rng.choice(("read", "read", "refused", "skipped", "gap"))
        if kind in ("read", "refused"):
            epoch = RegionEpoch(1, 1)
            regions.append(Region(region_id, coded(start), coded(end), epoch))
            numbers[region_id] = rng.randint(0, 2)
        if kind == "refused":
            refused[region_id] = Refusal("not_leader", "refused")
        if kind == "skipped":
            skipped.append(Skipped(region_id, "skipped", (coded(start), coded(end))))
    chosen = ClusterRegions(RegionMap.build(regions, "store"), tuple(skipped), numbers, refused, ())
    first, last = sorted((rng.choice([b"", *keys]), rng.choice([*keys, b"Z"])))
    last = rng.choice((last, b"")) if last > first else b""
    parts = list(place_segment(Segment(first, last, ()), chosen, is_raw))
    assert (parts[0][0].start_key, parts[-1][0].end_key) == (first, last)
    assert all(p[0].end_key == q[0].start_key for p, q in pairwise(parts))
    for key in (each + more for each in [b"", *keys] for more in (b"", b"x")):
        if key < first or (last and key >= last):
            continue
        own = next(n for n, (s, e) in enumerate(bounds, 1) if s <= key and (not e or key < e))
        within = [
            p for p in parts if p[0].start_key <= key and (not p[0].end_key or key < p[0].end_key)
        ]
        ((_, number, trouble),) = within
        if kinds[own] == "read":
            assert (number, trouble) == (numbers[own], "")
        else:
            assert kinds[own] in trouble or (kinds[own] == "gap" and trouble)
