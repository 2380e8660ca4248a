"""Simulates large clusters, and prints the figures of docs/scale.md.

    python -m tests.scale.simulate [--regions 1000000] [--stores 3 100 1000] [--folder DIR]

Each step runs in a process of its own, whose time and peak of memory are told. Its map has three
peers a region, leaders spread evenly, regions in no order. Nothing is stored but the maps, a small
store, and descriptions of backups without their files.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from bkctl.archive.coverage import KeyRange
from bkctl.archive.meta import BackupFile, BackupMeta, encode_meta
from bkctl.archive.names import (
    META_NAME,
    REPORT_NAME,
    backup_file_name,
    default_backup_name,
)
from bkctl.archive.replica import ReplicaNote
from bkctl.archive.report import RangeCounts, Report
from bkctl.backup.backup import take_backup
from bkctl.backup.cover import cover_of
from bkctl.backup.request import BackupRequest
from bkctl.bench.stores import END_TS, KINDS, make_store
from bkctl.codec.memcomparable import encode
from bkctl.pool.events import SilentListener
from bkctl.regions import pd
from bkctl.regions.plan import make_plan
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap
from bkctl.storage.url import parse_storage
from bkctl.store.source import SourceOptions

_ROWS = 40_000
_TABLE_REGIONS = 1000
_SIGN_BIT = 1 << 63


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took: seconds in all and of a core, the peak of its memory in bytes."""

    seconds: float
    cpu_seconds: float
    memory: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu_seconds:.1f} s of a core), {_mib(self.memory)}"


def raw_key(number: int) -> bytes:
    """Where the region of this number begins: a row of a table of a thousand regions."""
    table, part = divmod(number, _TABLE_REGIONS)
    return row_key(table, part * 960_000)


def row_key(table: int, row: int) -> bytes:
    """A row of one of the tables, of which the first is number 100."""
    table_id, row_id = (100 + table + _SIGN_BIT, row + _SIGN_BIT)
    return b"t%b_r%b" % (table_id.to_bytes(8, "big"), row_id.to_bytes(8, "big"))


def write_map(path: Path, regions: int, stores: int) -> None:
    """Write a map as PD prints it."""
    rng = random.Random(1)
    order = list(range(regions))
    rng.shuffle(order)
    bounds = ["", *(encode(raw_key(n)).hex().upper() for n in range(1, regions)), ""]
    with path.open("w") as file:
        file.write(f'{{"count":{regions},"regions":[')
        for place, number in enumerate(order):
            peers = [
                {
                    "role_name": "Voter",
                    "id": 4 * number + 5 + each,
                    "store_id": (number + each) % stores + 1,
                }
                for each in range(3)
            ]
            region = {
                "id": 4 * number + 4,
                "start_key": bounds[number],
                "end_key": bounds[number + 1],
                "epoch": {"conf_ver": 5, "version": rng.randint(40, 4000)},
                "peers": peers,
                "leader": peers[0],
                "cpu_usage": 0,
                "written_bytes": rng.randrange(100_000),
                "read_bytes": 0,
                "written_keys": 0,
                "read_keys": 0,
                "approximate_size": rng.randint(40, 140),
                "approximate_keys": rng.randint(400_000, 960_000),
            }
            file.write(("," if place else "") + json.dumps(region, separators=(",", ":")))
        file.write("]}\n")


def run(module: str, *args: str | Path) -> tuple[Cost, str]:
    """Run a module of Python; what it took, and the first line it printed."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, "-m", module, *map(str, args)], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        if process.returncode:
            raise SystemExit(f"{module} {' '.join(map(str, args))} ended with {process.returncode}")
        out.seek(0)
        first = out.readline().decode().strip()
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10), first


def describe_backup(map_file: Path, store_id: int, repository: Path) -> None:
    """Write what describes a backup of a store (0: of all): a file a range, without the files."""
    region_map = RegionMap.build(pd.load(map_file))
    plan = make_plan(store_id or None, b"", b"", region_map, is_raw=False)
    name = default_backup_name(END_TS, "full")
    ms = END_TS >> 18
    rng = random.Random(1)
    files = tuple(
        BackupFile(
            name=backup_file_name(
                max(store_id, 1), r.region.id, r.region.epoch.version, start, ms, "write"
            ),
            sha256=rng.randbytes(32),
            start_key=start,
            end_key=r.raw_end_key,
            start_version=0,
            end_version=END_TS,
            crc64xor=rng.getrandbits(63),
            total_kvs=700_000,
            total_bytes=70_000_000,
            cf="write",
            size=30_000_000,
        )
        for r in plan.ranges
        for start in [r.raw_start_key]
    )
    cover = cover_of(plan, KeyRange(b"", b""), 0, is_raw=False)
    report = Report(
        name=name,
        status="ok",
        mode="txn",
        start_ts=0,
        end_ts=END_TS,
        store_id=store_id,
        cluster_id=1,
        ranges=RangeCounts(len(files), len(files), 0, len(plan.skipped)),
        files=len(files),
        skipped=plan.skipped,
        covered=cover.covered,
        uncovered=cover.uncovered,
        replicas=tuple(
            ReplicaNote(r.region.id, "complete", "voter", 100, 100, 100) for r in plan.ranges
        ),
    )
    folder = repository / name
    folder.mkdir(parents=True)
    data = encode_meta(BackupMeta(1, "", files, 0, END_TS))
    report = replace(report, backupmeta_sha256=hashlib.sha256(data).digest())
    (folder / META_NAME).write_bytes(data)
    (folder / REPORT_NAME).write_bytes(report.to_json())
    sizes = [(folder / each).stat().st_size for each in (META_NAME, REPORT_NAME)]
    print(len(files), len(cover.uncovered), *sizes)


@dataclass(slots=True)
class Wire:
    """What goes between a run and its workers: messages and their bytes, each way."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


@contextlib.contextmanager
def counting() -> Iterator[Wire]:
    """Count what this process sends and receives on pipes of multiprocessing."""
    wire, owner = Wire(), os.getpid()
    send, receive = Connection.send, Connection.recv_bytes

    def counted_send(self: Connection, message: object) -> None:
        if os.getpid() == owner:
            wire.sent += 1
            wire.sent_bytes += len(ForkingPickler.dumps(message))
        send(self, message)

    def counted_receive(self: Connection) -> object:
        data = receive(self)
        if os.getpid() == owner:
            wire.received += 1
            wire.received_bytes += len(data)
        return pickle.loads(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "send", counted_send)
        patch.setattr(Connection, "recv", counted_receive)
        yield wire


def count_messages(folder: Path, regions: int, jobs: int) -> tuple[Wire, Report]:
    """Back up a small store of so many regions to noop storage, and count the messages."""
    store = folder / "store"
    if not store.exists():
        make_store(KINDS[0], _ROWS, store)
    rows_of_table = _ROWS // 10
    cuts = [divmod(_ROWS * n // regions, rows_of_table) for n in range(1, regions)]
    bounds = [b"", *(encode(row_key(table, row)) for table, row in cuts), b""]
    leader = Peer(1, 1)
    region_map = RegionMap.build(
        Region(n + 1, bounds[n], bounds[n + 1], RegionEpoch(1, 1), (leader,), leader)
        for n in range(regions)
    )
    request = BackupRequest(
        source=SourceOptions(store),
        storage=parse_storage("noop://"),
        load_regions=lambda source: (region_map, []),
        start_ts=0,
        end_ts=END_TS,
        jobs=jobs,
        name="simulated",
    )
    with counting() as wire:
        report = take_backup(request, SilentListener())
    return wire, report


def print_plans(folder: Path, regions: int, stores: Sequence[int]) -> None:
    """Print what planning costs, and what describes a backup of one store."""
    for count in stores:
        map_file = folder / f"map-{count}.json"
        write_map(map_file, regions, count)
        print(f"{count:,} stores, a map of {regions:,} regions: {_mib(map_file.stat().st_size)}")
        if count == stores[0]:
            print(f"  json.load alone: {run('tests.scale.simulate', '--load', str(map_file))[0]}")
            for output in ("--json", "--csv", ""):
                args = ["ranges", "--region-map", str(map_file), *filter(None, [output])]
                print(f"  ranges {output or 'table'}, all regions: {run('bkctl', *args)[0]}")
        args = ["ranges", "--region-map", str(map_file), "--store-id", "1", "--csv"]
        print(f"  ranges --csv, one store: {run('bkctl', *args)[0]}")
        print_description(folder, map_file, 1)
    print_description(folder, map_file, 0)


def print_description(folder: Path, map_file: Path, store_id: int) -> None:
    """Print the sizes of backupmeta and report.json, and what reading them costs."""
    repository = folder / f"{map_file.stem}-{store_id}"
    cost, told = run("tests.scale.simulate", "--describe", str(map_file), str(store_id), repository)
    files, uncovered, meta, report = map(int, told.split())
    whose = f"store {store_id}" if store_id else "all stores"
    print(f"  {whose}: {files:,} ranges, {uncovered:,} not covered; plan, cover and encode: {cost}")
    print(f"    backupmeta {_mib(meta)}, {meta / max(files, 1):.0f} bytes a file")
    print(f"    report.json {_mib(report)}")
    for command in (["list"], ["show", "latest"]):
        try:
            print(f"    {command[0]}: {run('bkctl', *command, '--storage', repository)[0]}")
        except SystemExit as e:
            print(f"    {e}")


def print_messages(folder: Path, jobs: int = 2) -> None:
    """Print what a run exchanges with its workers."""
    for regions in (16, 400, 4000):
        wire, report = count_messages(folder, regions, jobs)
        print(
            f"{regions:,} ranges, {report.files:,} files, {jobs} workers: "
            f"{wire.sent:,} messages to them ({wire.sent / regions:.2f} a range, "
            f"{wire.sent_bytes / regions:,.0f} bytes), {wire.received:,} from them "
            f"({wire.received / regions:.2f} a range, {wire.received_bytes / regions:,.0f} bytes)"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def main() -> None:
    """Run the simulation, or one of its steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--stores", type=int, nargs="+", default=[3, 100, 1000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--describe", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.describe:
        map_file, store_id, repository = options.describe
        describe_backup(Path(map_file), int(store_id), Path(repository))
        return
    if options.load:
        json.loads(options.load.read_bytes())
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print_messages(Path(folder))
        print_plans(Path(folder), options.regions, options.stores)


if __name__ == "__main__":
    main()
