"""What is missing, stale, doubled or damaged is refused, with what to run where."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest

from bkctl.archive.checkpoint import write_checkpoint
from bkctl.fleet.shelf import Shelf
from bkctl.fleet.state import State
from bkctl.storage.url import open_storage, parse_storage
from tests.commands.console import bkctl
from tests.fleet.commands import Fleet
from tests.fleet.conftest import ACKED, END_TS
from tests.fleet.test_real import ACKED as FIGURES
from tests.fleet.test_real import figures
from tests.real.stores import unpack
from tests.real.test_power_loss import cut

# The store that tikv1 is, and that the acknowledged writes are read from.
CHOSEN, FIRST = 2, 0


def refused(fleet: Fleet, what: str, store: int = CHOSEN) -> None:
    """Sealing says what is amiss, and which store is to run again; nothing is published."""
    done = fleet.seal()
    assert done.code == 3, (done.stdout, done.stderr)
    assert any(what in error["message"] for error in done.document["errors"]), done.stdout
    remedies = done.document["remedies"]
    assert any(f"store {store}" in remedy for remedy in remedies), remedies
    assert all("bkctl backup --part --db" in remedy for remedy in remedies)
    assert not (fleet.folder / "backupmeta").exists()


def sealed(fleet: Fleet) -> None:
    done = fleet.seal()
    assert done.code == 0, done.stderr
    assert figures(done.document) == FIGURES


def rewrite(fleet: Fleet, store: int, **changes: object) -> None:
    """Change what a part has recorded, as it would have itself."""
    with open_storage(parse_storage(str(fleet.storage))) as storage:
        shelf = Shelf(storage, fleet.name)
        state = shelf.read_state(store)
        assert state is not None
        shelf.write_state(dataclasses.replace(state, **changes))  # type: ignore[arg-type]


def state_of(fleet: Fleet, store: int) -> State:
    with open_storage(parse_storage(str(fleet.storage))) as storage:
        state = Shelf(storage, fleet.name).read_state(store)
        assert state is not None
        return state


def test_a_range_that_is_not_done(taken: Fleet) -> None:
    for path in taken.folder.glob(f"parts-done/store-{CHOSEN}/*"):
        path.unlink()
    refused(taken, f"the replica on store {CHOSEN} counts, whose part has not done it")
    taken.parts(FIRST)
    sealed(taken)


def test_a_part_that_is_gone(taken: Fleet) -> None:
    (taken.folder / f"parts/store-{CHOSEN}.state").unlink()
    # The two others are a majority, and one of them has to do what the third had done.
    done = taken.seal()
    assert (done.code, len(done.document["remedies"])) == (3, 1)
    taken.parts(1)
    sealed(taken)


def test_a_part_of_another_window(taken: Fleet) -> None:
    done = taken.part(FIRST, "--end-ts", END_TS + 1)
    assert done.code == 2
    assert "was begun with end_ts" in done.stderr
    rewrite(taken, CHOSEN, settings="another's")
    refused(taken, "taken with other options or for another window")
    taken.parts(FIRST)
    sealed(taken)


def test_a_state_from_before_the_end(taken: Fleet) -> None:
    end_ms = END_TS >> 18
    rewrite(taken, CHOSEN, pinned_ms=end_ms - 1)
    refused(taken, "before --end-ts was safely past")
    rewrite(taken, CHOSEN, pinned_ms=end_ms + 9_000, is_live=True)
    refused(taken, "before --end-ts was safely past")
    rewrite(taken, CHOSEN, pinned_ms=end_ms + 9_000, is_live=False)
    sealed(taken)


def test_a_state_that_the_storage_had_too_early(taken: Fleet) -> None:
    import os

    path = taken.folder / f"parts/store-{CHOSEN}.state"
    early = (END_TS >> 18) / 1000 - 60
    os.utime(path, (early, early))
    refused(taken, "before --end-ts was safely past")


def test_a_store_of_another_cluster(taken: Fleet) -> None:
    ident = dataclasses.replace(state_of(taken, CHOSEN).ident, cluster_id=1)
    rewrite(taken, CHOSEN, ident=ident)
    refused(taken, "it is of cluster 1, not 77117")


def test_more_that_is_decided_than_applied(taken: Fleet) -> None:
    state = state_of(taken, CHOSEN)
    behind = [dataclasses.replace(each, applied_to=each.applied_to - 1) for each in state.standings]
    rewrite(taken, CHOSEN, standings=tuple(behind), decided={})
    refused(taken, "more of its log counts than its part has applied")
    taken.parts(FIRST)
    sealed(taken)


def test_a_file_that_is_damaged_or_gone(taken: Fleet) -> None:
    first, second = sorted(taken.folder.glob("*.sst"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    refused(taken, "whose part has not done it")
    taken.parts(FIRST)
    second.unlink(missing_ok=True)
    for path in taken.folder.glob("*.sst"):
        path.unlink()
        break
    refused(taken, "whose part has not done it")
    taken.parts(FIRST)
    sealed(taken)


def test_what_is_done_stays(taken: Fleet) -> None:
    before = sorted(taken.folder.glob("*.sst"))
    done = taken.part(FIRST)
    assert (done.code, done.document["resumed"]) == (0, 1)
    assert sorted(taken.folder.glob("*.sst")) == before
    sealed(taken)


def test_a_state_that_is_damaged_or_of_another_store(taken: Fleet) -> None:
    path = taken.folder / f"parts/store-{CHOSEN}.state"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"last_index": ', b'"last_index": 1', 1))
    refused(taken, "its checksum is wrong")
    shutil.copy(taken.folder / "parts/store-3.state", path)
    refused(taken, "is of store 3")
    taken.parts(FIRST)
    sealed(taken)


def test_a_record_that_names_files_of_others(taken: Fleet) -> None:
    with open_storage(parse_storage(str(taken.storage))) as storage:
        (finished,) = Shelf(storage, taken.name).records(CHOSEN)
        files = []
        for file in finished.files:
            name = f"3{file.name.removeprefix(str(CHOSEN))}"
            shutil.copy(taken.folder / file.name, taken.folder / name)
            files.append(dataclasses.replace(file, name=name))
        folder = f"parts-done/store-{CHOSEN}"
        write_checkpoint(
            storage, taken.name, dataclasses.replace(finished, files=tuple(files)), folder
        )
    refused(taken, "whose part has not done it")
    taken.parts(FIRST)
    sealed(taken)


def test_a_backup_that_is_being_deleted(taken: Fleet) -> None:
    lock = taken.folder / "backup.lock"
    lock.write_text(lock.read_text().replace("{", '{"deleted": true, ', 1))
    for done in (taken.seal(), taken.part(FIRST)):
        assert (done.code, "is half deleted" in done.stderr) == (2, True), done.stderr


def test_the_end_is_told_to_who_watches(taken: Fleet, tmp_path: Path) -> None:
    metrics, told = tmp_path / "bkctl.prom", tmp_path / "told"
    done = taken.seal("--metrics-file", metrics, "--on-success", f"cat > {told}")
    assert done.code == 0, done.stderr
    assert "bkctl_backup_last_success" in metrics.read_text()
    assert figures(json.loads(told.read_text())) == FIGURES


def test_ranges_that_two_stores_did(taken: Fleet) -> None:
    own, other = (taken.folder / f"parts-done/store-{number}" for number in (CHOSEN, 3))
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(own, other)
    (taken.folder / "3_10_5_doubled.sst").write_bytes(b"of another store")
    sealed(taken)


def test_ranges_that_need_not_be_read(taken: Fleet) -> None:
    (record,) = taken.folder.glob(f"parts-done/store-{CHOSEN}/*.json")
    state = state_of(taken, CHOSEN)
    with open_storage(parse_storage(str(taken.storage))) as storage:
        shelf = Shelf(storage, taken.name)
        (finished,) = shelf.records(CHOSEN)
        record.unlink()
        for as_of in ((1, 2, 3, 4, 5), state.as_of(finished.region_id)):
            unchanged = dataclasses.replace(finished, files=(), as_of=as_of)
            shelf.write_unchanged(CHOSEN, [unchanged])
            done = taken.seal()
            assert done.code == (0 if as_of[0] != 1 else 3), done.stderr
    report = done.document
    assert report["ranges"] == {"total": 0, "done": 0, "failed": 0, "skipped": 1}
    assert report["skipped"][0]["reason"].startswith("unchanged since")
    assert [path.name for path in taken.folder.glob("*.sst")] == []


def test_an_older_log_of_a_store(taken: Fleet) -> None:
    state = state_of(taken, CHOSEN)
    newer = [dataclasses.replace(each, last_index=each.last_index + 1) for each in state.standings]
    rewrite(taken, CHOSEN, standings=tuple(newer), host="there", db="/newer")
    done = taken.part(FIRST)
    assert done.code == 2, done.stderr
    for what in (f"an older copy of store {CHOSEN}", "than /newer on there", "its log of region"):
        assert what in done.stderr
    assert list(taken.folder.glob("*.sst"))


def test_a_damaged_copy_of_a_store(taken: Fleet, tmp_path: Path) -> None:
    copy = unpack("dead3", tmp_path)[FIRST]
    log = copy / "raft-engine/0000000000000001.raftlog"
    cut(log, _last_sound(log) - 20_000)
    again = Fleet([copy], taken.storage, **ACKED)
    done = again.part(0)
    assert done.code == 2, done.stderr
    assert f"an older copy of store {CHOSEN}" in done.stderr
    assert "give that one, or begin anew" in done.stderr
    sealed(taken)


def _last_sound(log: Path) -> int:
    """Where the log's entries end: what follows is nought, for use to come."""
    return len(log.read_bytes().rstrip(b"\0"))


def test_what_is_sealed_is_closed(taken: Fleet) -> None:
    sealed(taken)
    for done, what in ((taken.seal(), "is complete"), (taken.part(FIRST), "is sealed already")):
        assert done.code == 2
        assert what in done.stderr


def test_what_is_no_backup_in_parts(taken: Fleet, tmp_path: Path) -> None:
    nothing = Fleet(taken.stores, taken.storage, name="nothing")
    assert "was never begun" in nothing.seal().stderr
    whole = Fleet(taken.stores[1:], tmp_path / "other", name="whole", **ACKED)
    (whole.folder).mkdir(parents=True)
    (whole.folder / "backup.lock").write_text('{"settings": {"mode": "txn"}}')
    done = whole.seal()
    assert (done.code, "was not begun in parts" in done.stderr) == (2, True)
    (whole.folder / "backup.lock").write_text('{"settings": {"part": true}}')
    done = whole.seal()
    assert (done.code, "are damaged" in done.stderr) == (1, True)
    resumed = bkctl(
        *("backup", "--db", taken.stores[0], "--region-map", "store", "--storage", taken.storage),
        *("--name", taken.name, "--resume", "--end-ts", END_TS),
    )
    assert resumed.code == 2, resumed.stderr


def test_one_run_at_a_time(taken: Fleet) -> None:
    with open_storage(parse_storage(str(taken.storage))) as storage:
        shelf = Shelf(storage, taken.name)
        with shelf.lock(CHOSEN, "backup --part", lambda message: None):
            for done in (taken.part(FIRST), taken.seal()):
                assert done.code == 6
                assert f"the part of store {CHOSEN} of backup night is in use by" in done.stderr
            assert taken.part(1).code == 0
            gone = bkctl(
                *("prune", "--storage", taken.storage, "--keep-last", 1, "--leftovers-after", "0s")
            )
            assert gone.code == 0, gone.stderr
            assert (taken.folder / "backup.lock").exists()
    sealed(taken)


def test_other_commands_know_it_for_unfinished(taken: Fleet) -> None:
    shown = bkctl("list", "--storage", taken.storage)
    assert "parts: 3, not sealed yet" in shown.stdout
    assert bkctl("show", taken.name, "--storage", taken.storage).code == 0
    assert bkctl("verify", taken.name, "--storage", taken.storage).code == 2
    prune = ("prune", "--storage", taken.storage, "--keep-last", 1)
    assert bkctl(*prune).code == 0
    assert (taken.folder / "backup.lock").exists()
    assert bkctl(*prune, "--leftovers-after", "0s").code == 0
    assert not list(taken.folder.rglob("*.*"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--end-ts", "now"), "--part needs an --end-ts that is the same on all machines"),
        (("--end-ts", "-5m"), "--part needs an --end-ts that is the same on all machines"),
        (("--end-ts", (int(time.time()) + 3600) * 1000 << 18), "has not come yet"),
        (("--resume",), "leave --resume out"),
        (("--region-map", "none"), "give --region-map store"),
        (("--raft-log", "all"), "leave --raft-log out"),
        (("--store-id", 2), "leave --store-id out"),
        (("--storage", "noop://"), "keeps nothing"),
        (("--wait", "soon"), "--wait"),
    ],
)
def test_options_that_do_not_fit(
    dead3: list[Path], tmp_path: Path, options: tuple[object, ...], what: str
) -> None:
    done = Fleet(dead3, tmp_path / "repository", **ACKED).part(0, *options)
    assert (done.code, what in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "repository").exists()


def test_a_part_is_one_stores(dead3: list[Path], tmp_path: Path) -> None:
    done = Fleet(dead3, tmp_path / "repository", **ACKED).part(0, "--db", dead3[1])
    assert (done.code, "give one --db" in done.stderr) == (2, True)
    plain = bkctl("backup", "--db", dead3[0], "--wait", "5m", "--region-map", "store")
    assert (plain.code, "--wait is for --part" in plain.stderr) == (2, True)
