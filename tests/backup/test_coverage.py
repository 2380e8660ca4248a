"""What a backup covers: told, kept along chains, and never less than it says without being asked.

The rounds play a cluster: regions split, lead here or elsewhere, apply snapshots; maps of PD are
fresh, old or have gaps. Whatever is restored must be what the cluster had, or be told as missing.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rocksdict import AccessType, Options, Rdict

from bkctl.archive.coverage import KeySet
from bkctl.archive.report import Report
from bkctl.codec.memcomparable import decode, encode
from bkctl.errors import UsageError
from bkctl.merge.merge import MergeRequest, merge
from bkctl.regions.local_state import PeerState, encode_region_local_state, region_state_key
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import RestoreResult, restore
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions
from bkctl.verify.level import Level
from bkctl.verify.verify import Against, Verification, Verifier
from examples.tikv_store import TikvStore
from tests.backup.helpers import Quiet, backup, whole

ROUNDS = int(os.environ.get("BKCTL_COVERAGE_ROUNDS", "6"))
KEYS = [b"k%02d" % i for i in range(24)]
HERE, THERE = Peer(1, 1), Peer(2, 2)


@dataclass
class Cluster:
    """Two stores' regions, of which the first store is a RocksDB; `truth` is what was committed."""

    path: Path
    rng: random.Random
    truth: dict[bytes, list[tuple[int, bytes | None]]] = field(default_factory=dict)
    # What the first store has not applied, as it is away from it.
    missed: list[tuple[bytes, int, bytes | None]] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    applying: set[int] = field(default_factory=set)
    ts: int = 100
    next_id: int = 10

    def tick(self) -> int:
        self.ts += 10
        return self.ts

    def region_of(self, key: bytes) -> Region:
        encoded = encode(key)
        return next(
            region
            for region in self.regions
            if region.start_key <= encoded and (not region.end_key or encoded < region.end_key)
        )

    def write_some(self) -> None:
        """Commits; those of regions that are away do not reach this store."""
        with TikvStore(self.path) as store:
            for key in self.rng.sample(KEYS, self.rng.randint(1, len(KEYS))):
                value = None if self.rng.random() < 0.3 else b"v%d" % self.ts
                ts = self.tick()
                self.truth.setdefault(key, []).append((ts, value))
                if self.region_of(key).id in self.away | self.applying:
                    self.missed.append((key, ts, value))
                else:
                    _commit(store, key, ts, value)

    def move(self) -> None:
        """Regions split, go and come; what comes back has caught up."""
        for _ in range(self.rng.randint(0, 2)):
            self._split()
        for region in self.regions:
            chance = self.rng.random()
            self.away.discard(region.id)
            self.applying.discard(region.id)
            if chance < 0.15:
                self.away.add(region.id)
            elif chance < 0.25:
                self.applying.add(region.id)
        self._catch_up()
        self.write_states()

    def _split(self) -> None:
        key = self.rng.choice(KEYS[1:])
        old = self.region_of(key)
        if old.start_key == encode(key):
            return
        epoch = RegionEpoch(1, old.epoch.version + 1)
        left = Region(old.id, old.start_key, encode(key), epoch, (HERE, THERE))
        self.next_id += 1
        right = Region(self.next_id, encode(key), old.end_key, epoch, (HERE, THERE))
        self.regions.remove(old)
        self.regions += [left, right]
        for group in (self.away, self.applying):
            if old.id in group:
                group.add(right.id)

    def _catch_up(self) -> None:
        gone = self.away | self.applying
        back = [each for each in self.missed if self.region_of(each[0]).id not in gone]
        self.missed = [each for each in self.missed if each not in back]
        with TikvStore(self.path) as store:
            for key, ts, value in back:
                _commit(store, key, ts, value)

    def write_states(self) -> None:
        self.put_states(dict.fromkeys(self.applying, PeerState.APPLYING))

    def put_states(self, states: dict[int, PeerState]) -> None:
        """Write down the regions, those not named as normal ones."""
        names = ("lock", "write", "raft")
        families = {name: Options(raw_mode=True) for name in names}
        db = Rdict(
            str(self.path),
            Options(raw_mode=True),
            column_families=families,
            access_type=AccessType.read_write(),
        )
        raft = db.get_column_family("raft")
        for region in self.regions:
            state = states.get(region.id, PeerState.NORMAL)
            raft[region_state_key(region.id)] = encode_region_local_state(state, region)
        raft.close()
        db.close()

    def pd_map(self) -> list[Region]:
        """What PD says now."""
        return [
            Region(r.id, r.start_key, r.end_key, r.epoch, r.peers, self._leader(r))
            for r in self.regions
        ]

    def _leader(self, region: Region) -> Peer:
        return THERE if region.id in self.away | self.applying else HERE

    def as_of(self, ts: int) -> dict[bytes, bytes]:
        state = {}
        for key, versions in self.truth.items():
            value = next((v for at, v in reversed(versions) if at <= ts), None)
            if value is not None:
                state[key] = value
        return state


def _commit(store: TikvStore, key: bytes, ts: int, value: bytes | None) -> None:
    if value is None:
        store.must_prewrite_delete(key, key, ts - 1)
    else:
        store.must_prewrite_put(key, value, key, ts - 1)
    store.must_commit(key, ts - 1, ts)


def new_cluster(path: Path, rng: random.Random) -> Cluster:
    cluster = Cluster(path, rng)
    cluster.regions = [Region(2, b"", b"", RegionEpoch(1, 1), (HERE, THERE))]
    TikvStore(path).close()
    return cluster


def held(path: Path, end_ts: int) -> dict[bytes, bytes]:
    """What a restored directory shows as of a timestamp, read with RocksDB alone."""
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
    access = AccessType.read_only(False)
    db = Rdict(str(path), Options(raw_mode=True), column_families=families, access_type=access)
    found: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    if "write" in families:
        for data_key, record in db.get_column_family("write").items():
            assert isinstance(data_key, bytes)
            assert isinstance(record, bytes)
            key = decode(data_key[1:-8])
            commit_ts = int.from_bytes(data_key[-8:], "big") ^ ((1 << 64) - 1)
            if key in seen or commit_ts > end_ts:
                continue
            seen.add(key)
            if record[:1] == b"P":
                found[key] = record[record.index(b"v", 1) + 2 :]
    db.close()
    return found


def restored(repository: Path, target: Path, **options: Any) -> RestoreResult:
    return restore(RestoreRequest(parse_storage(str(repository)), target, **options))


def verified(repository: Path, name: str, **options: Any) -> Verification:
    spec = parse_storage(str(repository))
    with Verifier(spec, Level.SIZE, 1, **options) as verifier:
        return verifier.verify(name, Quiet())


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_is_restored_is_what_the_cluster_had(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cluster = new_cluster(tmp_path / "store", rng)
    repository = tmp_path / "repo"
    cluster.move()
    stale = cluster.pd_map()
    for night in range(rng.randint(2, 5)):
        cluster.write_some()
        cluster.move()
        fresh = cluster.pd_map()
        regions = stale if rng.random() < 0.2 else list(fresh)
        if rng.random() < 0.2:
            regions = [region for region in regions if region is not rng.choice(regions)]
        stale = fresh
        report = _take(cluster, repository, regions, f"n{night}", allow_gaps=rng.random() < 0.7)
        if report.status == "ok":
            _check(cluster, repository, report, tmp_path / f"r{night}")


def _take(
    cluster: Cluster, repository: Path, regions: list[Region], name: str, **options: Any
) -> Report:
    region_map = RegionMap.build(regions)
    report = backup(
        cluster.path,
        repository,
        load_regions=lambda source: (region_map, []),
        incremental=True,
        end_ts=cluster.tick(),
        name=name,
        **options,
    )
    covered = KeySet.of(each.keys for each in report.covered or ())
    assert KeySet.of(each.keys for each in report.uncovered) & covered == KeySet(())
    if report.status != "ok":
        assert report.errors
        assert not (repository / name / "backupmeta").exists()
        shutil.rmtree(repository / name, ignore_errors=True)
    return report


def _check(cluster: Cluster, repository: Path, report: Report, target: Path) -> None:
    """Restored, merged or refused: nothing is wrong or missing without a word."""
    truth = cluster.as_of(report.end_ts)
    try:
        result = restored(repository, target, name=report.name)
        is_whole = True
    except UsageError:
        result = restored(repository, target, name=report.name, allow_gaps=True)
        is_whole = False
    assert (verified(repository, report.name).status == "ok") is is_whole
    assert verified(repository, report.name, allow_gaps=True).status == "ok"
    holes = [keys for hole in result.plan.holes for keys in hole.keys.ranges]
    assert bool(holes) is not is_whole
    told = KeySet.of((*result.plan.uncovered.ranges, *holes))
    expected = {key: value for key, value in truth.items() if key not in told}
    assert held(target, report.end_ts) == expected
    spec = parse_storage(str(repository))
    merged = merge(MergeRequest(spec, report.name, "m", allow_gaps=not is_whole), Quiet())
    if merged.report is not None:
        again = restored(repository, target.with_name(f"{target.name}-m"), name="m")
        assert held(again.target, report.end_ts) == expected
        shutil.rmtree(repository / "m")


WHOLE = [Region(2, b"", b"", RegionEpoch(1, 1), (HERE, THERE), HERE)]
HALVES = [
    Region(2, b"", encode(b"k12"), RegionEpoch(1, 2), (HERE, THERE), HERE),
    Region(3, encode(b"k12"), b"", RegionEpoch(1, 2), (HERE, THERE), HERE),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = new_cluster(tmp_path / "store", random.Random(1))
    cluster.regions = list(HALVES)
    cluster.write_states()
    with TikvStore(cluster.path) as store:
        for key in KEYS:
            cluster.truth[key] = [(cluster.tick(), b"old")]
            _commit(store, key, cluster.ts, b"old")
    return cluster


def test_a_gap_in_the_map_publishes_nothing_unless_asked(cluster: Cluster, tmp_path: Path) -> None:
    report = _take(cluster, tmp_path / "repo", HALVES[:1], "b")
    assert report.status == "failed"
    assert [(e.kind, e.start_key, e.end_key) for e in report.errors] == [
        ("region_not_found", b"k12", b"")
    ]
    assert not (tmp_path / "repo" / "b").exists()
    report = _take(cluster, tmp_path / "repo", HALVES[:1], "b", allow_gaps=True)
    assert report.status == "ok"
    assert [each.keys.start_key for each in report.uncovered] == [b"k12"]
    assert [each.keys.end_key for each in report.covered or ()] == [b"k12"]


@pytest.mark.parametrize(
    ("regions", "kind"),
    [
        (WHOLE, "epoch_not_match"),
        ([structs.replace(HALVES[0], end_key=encode(b"k11")), HALVES[1]], "epoch_not_match"),
        ([HALVES[0], structs.replace(HALVES[1], id=9)], "region_not_found"),
    ],
)
def test_a_map_that_the_store_contradicts_fails_those_ranges(
    cluster: Cluster, tmp_path: Path, regions: list[Region], kind: str
) -> None:
    report = _take(cluster, tmp_path / "repo", regions, "b", allow_gaps=True)
    assert report.status != "ok"
    assert {error.kind for error in report.errors} == {kind}


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (PeerState.APPLYING, "not_leader"),
        (PeerState.UNAVAILABLE, "not_leader"),
        (PeerState.TOMBSTONE, "region_not_found"),
    ],
)
def test_a_region_without_its_data_here_fails(
    cluster: Cluster, tmp_path: Path, state: PeerState, kind: str
) -> None:
    cluster.put_states({3: state})
    report = _take(cluster, tmp_path / "repo", HALVES, "b", allow_gaps=True)
    assert [(error.region_id, error.kind) for error in report.errors] == [(3, kind)]


def test_a_learner_is_named(cluster: Cluster, tmp_path: Path) -> None:
    learner = [
        structs.replace(r, peers=(Peer(1, 1, "Learner"), THERE), leader=None) for r in HALVES
    ]
    cluster.regions = learner
    cluster.write_states()
    region_map = RegionMap.build(learner, "store")
    report = backup(
        cluster.path,
        tmp_path / "repo",
        load_regions=lambda source: (region_map, []),
        end_ts=cluster.tick(),
    )
    assert [(each.region_id, each.replica, each.role) for each in report.replicas] == [
        (2, "unknown", "learner"),
        (3, "unknown", "learner"),
    ]


def test_without_a_map_it_is_said_what_nobody_knows(cluster: Cluster, tmp_path: Path) -> None:
    report = backup(cluster.path, tmp_path / "repo", load_regions=whole, end_ts=cluster.tick())
    assert report.status == "ok"
    assert "nothing tells of which regions this store has all there is" in report.notes[0]


def test_what_a_base_left_out_is_taken_in_full(cluster: Cluster, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    assert _take(cluster, repository, HALVES[:1], "n0", allow_gaps=True).total_kvs == 12
    report = _take(cluster, repository, HALVES, "n1")
    assert report.status == "ok"
    assert report.total_kvs == 12
    assert [(each.keys.start_key, each.start_ts) for each in report.covered or ()] == [
        (b"", report.start_ts),
        (b"k12", 0),
    ]
    _check(cluster, repository, report, tmp_path / "r")
    assert held(tmp_path / "r", cluster.ts) == dict.fromkeys(KEYS, b"old")
    spec = parse_storage(str(repository))
    with Verifier(spec, Level.DEEP, 1) as verifier:
        against = Against(SourceOptions(cluster.path), lambda source: (RegionMap.build(HALVES), []))
        assert verifier.verify("n1", Quiet(), against).status == "ok"


def test_what_left_and_came_back_replaces_what_was_there(cluster: Cluster, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    assert _take(cluster, repository, HALVES, "n0").status == "ok"
    gone = _take(cluster, repository, HALVES[:1], "n1", allow_gaps=True)
    with pytest.raises(UsageError, match=r"n1 left out keys 6B3132 to the end.*--allow-gaps"):
        restored(repository, tmp_path / "refused", name="n1")
    _check(cluster, repository, gone, tmp_path / "r1")
    with TikvStore(cluster.path) as store:
        _commit(store, b"k20", cluster.tick(), None)
        cluster.truth[b"k20"].append((cluster.ts, None))
    report = _take(cluster, repository, HALVES, "n2")
    _check(cluster, repository, report, tmp_path / "r2")
    assert b"k20" not in held(tmp_path / "r2", cluster.ts)


def test_the_newest_is_the_newest_that_is_not_limited(cluster: Cluster, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    windows: tuple[dict[str, Any], ...] = ({}, {"start_key": b"k05", "end_key": b"k07"})
    for name, window in zip(("whole", "part"), windows, strict=True):
        region_map = RegionMap.build(HALVES)
        backup(
            cluster.path,
            repository,
            load_regions=lambda source, region_map=region_map: (region_map, []),
            end_ts=cluster.tick(),
            name=name,
            **window,
        )
    assert [each.name for each in restored(repository, tmp_path / "r").plan.chain] == ["whole"]
    limited = restored(repository, tmp_path / "p", name="part").plan.limited_to
    assert limited is not None
    assert (limited.start_key, limited.end_key) == (b"k05", b"k07")
