"""Real stores after a loss of power: kv logs that end early, and what the raft log holds of it.

`BKCTL_CUT_ROUNDS` is how many random cuts of each store there are.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bkctl.errors import BkctlError
from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2
from bkctl.raft.source import open_source
from bkctl.store.database import Database
from bkctl.store.source import SourceOptions
from tests.commands.console import bkctl
from tests.raft.plain import read_log
from tests.real.stores import acked_writes, truth, unpack

ROUNDS = int(os.environ.get("BKCTL_CUT_ROUNDS", "2"))
MAX = (1 << 64) - 1
STORES = [("one", 0), ("dead3", 0), ("dead3", 1), ("dead3", 2)]


def back_up(store: Path, name: str) -> tuple[int, Any, str]:
    """Back the window of acknowledged writes up; (exit code, report, what was said)."""
    window = next(w for w in truth(name)["windows"] if w["name"] == "acked")
    repository = store.parent / f"repository-{len(list(store.parent.iterdir()))}"
    options = ["--start-ts", window["start_ts"], "--end-ts", window["end_ts"], "--json"]
    for key in ("start_key", "end_key"):
        options += ["--" + key.replace("_", "-"), window[key]] if window[key] else []
    done = bkctl(
        *("backup", "--db", store, "--region-map", "store", "--storage", repository, *options)
    )
    return done.code, json.loads(done.stdout) if done.stdout else {}, done.stderr


def kv_log(store: Path) -> Path:
    """The newest of the kv store's logs."""
    return max((store / "db").glob("*.log"), key=lambda path: int(path.stem))


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def test_what_the_kv_log_lost_is_taken_from_the_raft_log(tmp_path: Path) -> None:
    (store,) = unpack("one", tmp_path)
    assert kv_log(store).name == "000043.log"
    for size in (None, 1_677_594):
        if size is not None:
            cut(kv_log(store), size)
        code, report, said = back_up(store, "one")
        assert code == 0, said
        found = [report[name] for name in ("total_kvs", "total_bytes", "crc64xor")]
        assert found == [1500, 360150, f"{9974316431638705321:016x}"]
        assert {replica["replica"] for replica in report["replicas"]} == {"complete"}


def test_what_neither_log_has_is_refused_as_tikv_refuses_it(tmp_path: Path) -> None:
    (store,) = unpack("one", tmp_path)
    cut(kv_log(store), 1_094_083)
    code, report, _ = back_up(store, "one")
    assert code == 3
    assert "[region 8] entry at apply index 246 doesn't exist, may lose data" in str(report)
    assert "corruption" in {error["kind"] for error in report["errors"]}
    assert not list(tmp_path.rglob("backupmeta"))


@pytest.mark.parametrize(("name", "number"), STORES)
def test_random_cuts_lose_nothing_that_the_raft_log_has(
    tmp_path: Path, name: str, number: int
) -> None:
    store = unpack(name, tmp_path)[number]
    log = kv_log(store)
    content = log.read_bytes()
    expected = logged_writes(store, name)
    assert len(expected) > 20
    rng = random.Random(number)
    outcomes = {"whole": 0, "refused": 0}
    for turn in range(ROUNDS):
        # Most far behind: early ones are refused, as they lack what is in the raft log no more.
        size = len(content) if turn == 0 else int(len(content) * (1 - rng.random() ** 2))
        log.write_bytes(content[:size])
        found = committed(store)
        if found is None:
            outcomes["refused"] += 1
        else:
            outcomes["whole"] += 1
            lost = {key: value for key, value in expected.items() if found.get(key) != value}
            assert not lost, f"cut at {size}: {len(lost)} of {len(expected)} writes are gone"
        if turn % 50 == 1:
            code, report, said = back_up(store, name)
            keys = {key[:-8] for key in expected}
            assert code in (2, 3, 4) or report["total_kvs"] >= len(keys), (size, said)
    print(f"{name} {number}: {len(expected)} writes in the raft log, {outcomes}")
    assert outcomes["whole"] > 0


def logged_writes(store: Path, name: str) -> dict[bytes, bytes]:
    """The acknowledged writes that the raft log has as committed: keys of `write`, and values."""
    acked = {
        b"z" + memcomparable(key) + struct.pack(">Q", MAX - ts): value
        for key, value, ts in acked_writes(name)
    }
    logged = set()
    for region in read_log(store / "raft-engine").values():
        if b"R" not in region.values:
            continue
        state = raft_serverpb_pb2.RaftLocalState.FromString(region.values[b"R"])
        # One replica decides by itself.
        end = state.last_index if name == "one" else state.hard_state.commit
        for index, data in region.entries.items():
            if index <= end:
                logged |= {b"z" + key for key in written(data)}
    return {key: value for key, value in acked.items() if key in logged}


def written(data: bytes) -> Iterator[bytes]:
    """The keys that an entry puts into `write`."""
    entry = eraftpb_pb2.Entry.FromString(data)
    if entry.entry_type == eraftpb_pb2.EntryNormal:
        for request in raft_cmdpb_pb2.RaftCmdRequest.FromString(entry.data).requests:
            if request.put.cf == "write":
                yield request.put.key


@cache
def memcomparable(key: bytes) -> bytes:
    groups = [key[at : at + 8] for at in range(0, len(key) + 1, 8)]
    return b"".join(group.ljust(8, b"\0") + bytes([247 + len(group)]) for group in groups)


def committed(store: Path) -> dict[bytes, bytes] | None:
    """The puts that the view shows: keys of `write`, and values. None where it is refused."""
    try:
        with open_source(SourceOptions(store)) as source:
            if any(standing.trouble for standing in source.standings):
                return None
            database = Database(source.db_dir, source.path)
            try:
                values = dict(database.scan("default", b"z", b"{").take(1 << 20))
                writes = database.scan("write", b"z", b"{").take(1 << 20)
                return {key: value for key, record in writes for value in put(key, record, values)}
            finally:
                database.close()
    except BkctlError:
        return None


def put(key: bytes, record: bytes, values: dict[bytes, bytes]) -> Iterator[bytes]:
    """The value of a record of `write` that is a put."""
    if record[:1] != b"P":
        return
    at = 1
    while record[at] >= 128:
        at += 1
    start_ts = sum((byte & 127) << 7 * shift for shift, byte in enumerate(record[1 : at + 1]))
    at += 1
    if record[at : at + 1] == b"v":
        yield record[at + 2 : at + 2 + record[at + 1]]
    else:
        # A write without its value is lost, too.
        yield values.get(key[:-8] + struct.pack(">Q", MAX - start_ts), b"no value")
