"""Hostile and damaged raft logs: one clear line for each, and no end of the process but its own."""

from __future__ import annotations

import json
import uuid
from itertools import chain
from pathlib import Path

import pytest
from rocksdict import Options, SstFileWriter

from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2, raft_serverpb_pb2
from bkctl.raft.applying import Applying, ApplyLog, Finish, PinLog, ReadLog
from bkctl.raft.locate import EnginePlace
from bkctl.raft.source import RaftSource
from bkctl.raft.standing import Standing
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.source import SourceOptions
from tests.commands.console import process
from tests.raft.apply_local import open_kv
from tests.raft.apply_model import Command, Region, encode
from tests.raft.logged import admin, merging, peers, put, region
from tests.raft.test_apply_model import read
from tests.raft.writer import Batch, FileWriter

UUID = str(uuid.UUID(int=7))
INGEST = f"{UUID}_1_1_1_default_2.sst"


def make_store(folder: Path, regions: list[Region], **logs: list[Command | bytes | None]) -> Path:
    """A store that has applied nothing; `logs` are commands, by `r` and the region's id."""
    folder.mkdir()
    db, families = open_kv(folder / "db")
    ident = raft_serverpb_pb2.StoreIdent(cluster_id=7, store_id=1)
    db[b"\x01\x01"] = ident.SerializeToString()
    for each in regions:
        state = raft_serverpb_pb2.RegionLocalState(region=each.message())
        number = each.id.to_bytes(8, "big")
        families["raft"][b"\x01\x03" + number + b"\x01"] = state.SerializeToString()
    db.flush()
    families.clear()
    db.close()
    (folder / "raft-engine").mkdir()
    (folder / "import").mkdir()
    file = FileWriter(folder / "raft-engine", 1)
    for name, commands in logs.items():
        entries = [
            eraftpb_pb2.Entry(index=index, term=6, data=command)
            if isinstance(command, bytes)
            else encode(index, 6, command)
            for index, command in enumerate(commands, 6)
        ]
        log_state = raft_serverpb_pb2.RaftLocalState(last_index=5 + len(entries))
        log_state.hard_state.term, log_state.hard_state.commit = 9, log_state.last_index
        batch = Batch().entries(int(name[1:]), 6, [e.SerializeToString() for e in entries])
        file.add(batch.put(int(name[1:]), b"R", log_state.SerializeToString()), compress=True)
    file.write()
    FileWriter(folder / "raft-engine", 1, "rewrite").write()
    return folder


def apply(store: Path, mode: str = "committed") -> dict[int, Standing]:
    """Apply its log in this process; what is told of each region."""
    applying = Applying()
    assert not [*applying(PinLog(EnginePlace((store / "raft-engine",)), store, False, False))]
    assert not [*applying(ReadLog(store / "db", store / "db", store / "import", tells=False))]
    told = {each.region_id: each for each in chain(*applying(ApplyLog(RaftLogMode(mode))))}
    assert not [*applying(Finish())]
    return told


def whole() -> Region:
    return region(1, b"", b"")


def ingest(family: str = "default", start: bytes = b"a", end: bytes = b"c") -> Command:
    name = INGEST.replace("default", family)
    return {"epoch": (1, 1), "writes": [("ingest", family, name, (1, 1), (start, end))]}


def write_sst(path: Path, *keys: bytes) -> Path:
    writer = SstFileWriter(options=Options(raw_mode=True))
    writer.open(str(path))
    for key in keys:
        writer[key] = b"ingested"
    writer.finish()
    return path


def values(store: Path) -> dict[bytes, bytes]:
    pairs = read(store / "db")["default"].items()
    return {key: value for key, value in pairs if key[:1] == b"z"}


def test_a_file_that_is_ingested_shows_all_it_has(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [whole()], r1=[put(b"a", b"1"), ingest(), put(b"b", b"2")])
    path = write_sst(store / "import" / INGEST, b"za", b"zb", b"zc")
    before = path.read_bytes()
    assert apply(store)[1].trouble == ""
    assert values(store) == {b"za": b"ingested", b"zb": b"2", b"zc": b"ingested"}
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["gone", "garbled", "cut", "empty", "folder", "damaged"])
def test_a_file_to_ingest_that_is_not_sound_is_told(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "s", [whole()], r1=[put(b"a", b"1"), ingest()])
    path = store / "import" / INGEST
    content = write_sst(path, *(b"z%06d" % number for number in range(500))).read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        damaged = content[:100] + bytes([content[100] ^ 8]) + content[101:]
        made = {"garbled": b"x" * 5000, "cut": content[:-200], "empty": b"", "damaged": damaged}
        path.write_bytes(made[kind])
    told = apply(store)[1]
    assert told.trouble.startswith("[region 1] the raft log's entry 7 cannot be applied: ")
    assert f"import/{INGEST}" in told.trouble
    assert told.completeness.value == "behind"
    assert values(store) == {b"za": b"1"}


@pytest.mark.parametrize("family", ["lock", "raft", "../../etc", "nosuch"])
def test_files_of_other_families_are_not_ingested(tmp_path: Path, family: str) -> None:
    command = ingest()
    message = encode(6, 6, command)
    parsed = raft_cmdpb_pb2.RaftCmdRequest.FromString(message.data)
    parsed.requests[0].ingest_sst.sst.cf_name = family
    store = make_store(tmp_path / "s", [whole()], r1=[parsed.SerializeToString()])
    write_sst(store / "import" / INGEST, b"za")
    assert apply(store)[1].trouble == ""
    assert values(store) == {}


def test_a_range_of_everything_is_deleted(tmp_path: Path) -> None:
    everything: Command = {"epoch": (1, 1), "writes": [("range", "default", b"", b"", False)]}
    store = make_store(tmp_path / "s", [whole()], r1=[everything, put(b"a", b"1"), everything])
    db, families = open_kv(store / "db")
    for number in range(20_000):
        db[b"z%08d" % number] = b"v" * 50
    families.clear()
    db.close()
    assert apply(store)[1].trouble == ""
    assert values(store) == {}


def hostile_logs() -> dict[str, dict[str, list[Command | bytes | None]]]:
    loop: list[Command | bytes | None] = [merging(region(2, b"m", b""), 9)]
    deep = encode(6, 6, merging(region(2, b"m", b""), 6))
    return {
        "garbage": {"r1": [b"\xff" * 100]},
        "huge counts": {"r1": [b"\x12\xff\xff\xff\xff\x7f"]},
        "merges in a circle": {"r1": loop, "r2": [merging(region(1, b"", b"m"), 9)]},
        "a source that is missing": {"r1": [merging(region(77, b"m", b""), 9)]},
        "a merge in a merge": {"r1": [merging(region(2, b"m", b""), 6, deep)]},
        "no joint state": {"r1": [admin("changes", [])]},
        "a compact form": {"r1": [b"\x00\x00\x00"]},
    }


@pytest.mark.parametrize("kind", [*hostile_logs()])
def test_a_hostile_log_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    two = [region(1, b"", b"m"), region(2, b"m", b"")]
    told = apply(make_store(tmp_path / "s", two, **hostile_logs()[kind]))[1].trouble
    assert told.startswith("[region ")
    assert told.count("\n") == 0


@pytest.mark.parametrize("kind", ["garbage", "merges in a circle"])
def test_a_hostile_log_does_not_end_the_command_otherwise(tmp_path: Path, kind: str) -> None:
    two = [region(1, b"", b"m"), region(2, b"m", b"")]
    store = make_store(tmp_path / "s", two, **hostile_logs()[kind])
    shown = process("regions", "--raft", "--db", store, "--json")
    assert shown.returncode == 1
    assert "[region" in json.loads(shown.stdout)["regions"][0]["trouble"]
    done = process(
        *("backup", "--db", store, "--region-map", "none", "--raw", "--end-ts", 9),
        *("--storage", tmp_path / "repository", "--progress", "none"),
    )
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr + done.stdout + shown.stderr
    assert "[region" in done.stderr + done.stdout
    assert not list(tmp_path.rglob("backupmeta"))


def test_regions_that_claim_the_same_keys_are_not_backed_up_twice(tmp_path: Path) -> None:
    twins = [whole(), Region(2, b"", b"", 1, 1, peers(2))]
    store = make_store(tmp_path / "s", twins, r1=[put(b"a", b"1")], r2=[put(b"a", b"2")])
    shown = process("regions", "--check", "--db", store)
    assert shown.returncode == 1
    assert "1 overlap" in shown.stdout
    assert "Traceback" not in shown.stderr


def test_a_region_that_comes_again_is_told_of_once(tmp_path: Path) -> None:
    source = region(1, b"", b"m")
    carried = [encode(6, 6, put(b"a", b"1")), encode(7, 6, admin("prepare", 6))]
    # Its own log has nothing to apply, as is seen before another region merges it.
    merge = merging(source, 7, *carried)
    store = make_store(tmp_path / "s", [source, region(2, b"m", b"")], r1=[], r2=[merge])
    with RaftSource(SourceOptions(store / "db")) as opened:
        told = [(each.region_id, each.state, each.entries) for each in opened.standings]
    assert sorted(told) == [(1, "tombstone", 2), (2, "normal", 1)]
