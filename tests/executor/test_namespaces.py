"""Backups over machines that are network namespaces: exact, also where one is cut off or killed.

They run with `BKCTL_CUT_ROUNDS`, how many rounds with random losses there are to be.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.executor.machines import (
    DaskCluster,
    Done,
    Machine,
    Network,
    dask_cluster,
    finished,
    gcs_on,
    network,
)
from tests.executor.stores import STORE_IDS, figures, window_options, write_cluster_file
from tests.real.stores import truth, unpack
from tests.real.test_power_loss import cut, kv_log

ROUNDS = int(os.environ.get("BKCTL_CUT_ROUNDS", "0"))

pytestmark = [
    pytest.mark.xdist_group("namespaces"),
    pytest.mark.skipif(not ROUNDS, reason="takes minutes; BKCTL_CUT_ROUNDS=2 runs it"),
]


@dataclass
class Site:
    """A scheduler, a coordinator, machines with Dask workers, and a bucket."""

    net: Network
    cluster: DaskCluster
    coordinator: Machine
    endpoint: str
    stores: list[Path]
    file: Path

    def backup(self, prefix: str, *options: object) -> Done:
        return finished(self.begin(prefix, *options))

    def begin(self, prefix: str, *options: object) -> subprocess.Popen[str]:
        return self.cluster.begin(
            *("backup", "--executor", self.cluster.executor, "--cluster", self.file),
            *("--region-map", "store", "--storage", self.storage(prefix), "--json"),
            *("--progress", "none", *options),
            machine=self.coordinator,
        )

    def storage(self, prefix: str) -> str:
        return f"gcs://bucket/{prefix}?endpoint={self.endpoint}"

    def is_published(self, prefix: str) -> bool:
        listed = self.cluster.run(
            *("list", "--storage", self.storage(prefix), "--json"), machine=self.coordinator
        )
        return '"complete"' in listed.stdout

    def verify(self, prefix: str) -> None:
        done = self.cluster.run(
            *("verify", "--storage", self.storage(prefix), "--level", "deep"),
            *("--progress", "none"),
            machine=self.coordinator,
        )
        assert done.code == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        net = stack.enter_context(network())
        stores = unpack("dead3", folder)
        cluster = stack.enter_context(dask_cluster(folder / "dask", net.add()))
        endpoint = stack.enter_context(gcs_on(cluster, net.add()))
        file = write_cluster_file(folder / "cluster.toml", stores)
        yield Site(net, cluster, net.add(), endpoint, stores, file)


def ready(site: Site) -> None:
    """Have a worker on a machine of its own for each store."""
    there = {worker.name[:2] for worker in site.cluster.workers}
    for store_id in STORE_IDS:
        if f"w{store_id}" not in there:
            site.cluster.start_worker(f"w{store_id}", f"store-{store_id}=2", site.net.add())


def test_all_windows_from_all_three_and_from_two_of_them(site: Site) -> None:
    ready(site)
    for window in truth("dead3")["windows"]:
        done = site.backup(f"all-{window['name']}", *window_options(window))
        assert done.code == 0, (window["name"], done.stderr)
        assert figures(done.report) == figures(window), window["name"]
    two = write_cluster_file(site.cluster.folder / "two.toml", site.stores[:2])
    acked = next(w for w in truth("dead3")["windows"] if w["name"] == "acked")
    site.file, three = two, site.file
    done = site.backup("two", *window_options(acked))
    site.file = three
    assert figures(done.report) == figures(acked)
    site.verify("all-full1")
    assert site.cluster.private_folders == []


def test_what_a_power_loss_took_from_two_stores(site: Site, tmp_path: Path) -> None:
    ready(site)
    stores = unpack("dead3", tmp_path)
    cut(kv_log(stores[0]), 998_903)
    cut(kv_log(stores[1]), 125_820)
    before, site.file = site.file, write_cluster_file(tmp_path / "cut.toml", stores[:2])
    acked = next(w for w in truth("dead3")["windows"] if w["name"] == "acked")
    done = site.backup("power-loss", *window_options(acked))
    site.file = before
    assert done.code == 0, done.stderr
    found = [done.report[name] for name in ("total_kvs", "total_bytes", "crc64xor")]
    assert found == [600, 146700, f"{2079901543250119461:016x}"]


def await_line(process: subprocess.Popen[str], text: str) -> None:
    """Read stderr up to a line with a text."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, "it ended before"


def skip_lines(process: subprocess.Popen[str], count: int) -> None:
    """Read so many lines of stderr, if there are as many."""
    assert process.stderr is not None
    for _ in range(count):
        if not process.stderr.readline():
            return


def test_one_is_cut_off_and_one_killed(site: Site) -> None:
    """Each round a worker is lost at any time of the run; stores 2 and 3 have a spare one."""
    window = next(w for w in truth("dead3")["windows"] if w["name"] == "full2")
    rng = random.Random(7)
    ready(site)
    outcomes = {"finished": 0, "failed": 0}
    for turn in range(ROUNDS):
        spare = site.cluster.start_worker(f"spare-{turn}", "store-2=1,store-3=1", site.net.add())
        # Of store 1 there is no spare one.
        likely = ("w2", "w3") if turn < 2 else ("w1", "w2", "w3")
        lost = rng.choice([w for w in site.cluster.workers if w.name[:2] in likely])
        after = rng.randrange(8)
        slow = ("--rate-limit", "400KiB", "--log-format", "json", "--progress", "plain")
        began = site.begin(f"round-{turn}", *window_options(window), *slow)
        if turn % 3:
            await_line(began, '"running"')
        skip_lines(began, after)
        is_cut = turn % 2 == 0
        if is_cut:
            site.net.cut_off(lost.machine)
        else:
            lost.process.kill()
        done = finished(began)
        print(f"round {turn}: {lost.name} {'cut' if is_cut else 'killed'} after {after} lines:")
        print(f"  exit code {done.code} {done.stderr[-300:]}")
        if done.code == 0:
            assert figures(done.report) == figures(window)
            site.verify(f"round-{turn}")
            outcomes["finished"] += 1
        else:
            assert not site.is_published(f"round-{turn}")
            assert turn >= 2
            assert "store 1" in done.stderr or "Dask" in done.stderr
            outcomes["failed"] += 1
        if is_cut:
            site.net.join_again(lost.machine)
        spare.process.kill()
        site.cluster.workers.remove(spare)
        lost.process.kill()
        site.cluster.workers.remove(lost)
        site.cluster.start_worker(f"{lost.name}x", f"store-{lost.name[1]}=2", site.net.add())
    print(outcomes)
    assert outcomes["finished"] > 0
