"""Parts that wait for one another, chains, locks and encryption, as one machine has them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.commands.console import bkctl, process
from tests.fleet.commands import Fleet, content
from tests.fleet.conftest import ACKED, END_TS
from tests.fleet.test_real import ACKED as FIGURES
from tests.fleet.test_real import figures, options_of, window_of
from tests.fleet.test_refusals import rewrite, state_of


@contextmanager
def in_use(store: Path) -> Iterator[None]:
    """Hold RocksDB's lock on a store, as a running TiKV does."""
    with (store / "db/LOCK").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def begun(fleet: Fleet, number: int, *more: object) -> subprocess.CompletedProcess[str]:
    """A part in a process of its own, as several go at once."""
    return process(
        *("backup", "--part", "--db", fleet.stores[number], "--region-map", "store", "--storage"),
        *(fleet.storage, "--name", fleet.name, "--progress", "none", *fleet.options, *more),
    )


def test_parts_that_wait_need_one_run_each(dead3: list[Path], tmp_path: Path) -> None:
    fleet = Fleet(dead3, tmp_path / "repository", **ACKED)
    with ThreadPoolExecutor() as threads:
        for done in threads.map(lambda number: begun(fleet, number, "--wait", "50s"), range(3)):
            assert done.returncode == 0, done.stderr
    done_seal = fleet.seal()
    # A third part that came when two had agreed already may have changed what counts.
    for _ in range(3):
        if done_seal.code == 0:
            break
        for number, store in enumerate((2, 3, 1)):
            if any(f"(store {store})" in remedy for remedy in done_seal.document["remedies"]):
                assert begun(fleet, number).returncode == 0
        done_seal = fleet.seal()
    assert done_seal.code == 0, done_seal.stderr
    assert figures(done_seal.document) == FIGURES


def test_waiting_ends(dead3: list[Path], tmp_path: Path) -> None:
    done = Fleet(dead3, tmp_path / "repository", **ACKED).part(2, "--wait", "1s")
    assert done.code == 3
    assert "nothing is recorded of store 2, 3" in done.document["left"][0]
    assert "--wait is over" in done.stderr


def test_chains_go_on_from_what_was_sealed(dead3: list[Path], tmp_path: Path) -> None:
    full, last = window_of("full1"), window_of("full2")
    storage = tmp_path / "repository"
    first = Fleet(dead3, storage, name="a", incremental=True, end_ts=full["end_ts"])
    first.parts(0, 1, 2, 0)
    assert first.seal().document["start_ts"] == 0
    second = Fleet(dead3, storage, name="b", incremental=True, end_ts=last["end_ts"])
    second.parts(0, 1, 2, 0)
    done = second.seal()
    assert done.code == 0, done.stderr
    assert (done.document["base"], done.document["start_ts"]) == ("a", full["end_ts"])
    assert figures(done.document) == figures(window_of("inc12"))
    plain = Fleet(dead3, storage, name="b", start_ts=full["end_ts"], end_ts=last["end_ts"])
    together = plain.together(0, 1, 2)
    same = [each for each in content(done.document) if each != "a"]
    assert same == [each for each in content(together) if each != ""]
    # A chain as any other: merged, it is the full backup.
    merged = bkctl("merge", "--storage", storage, "--json", "--progress", "none")
    assert figures(merged.document) == figures(last), merged.stderr


def test_a_chain_goes_on_though_all_came_from_one_store(taken: Fleet) -> None:
    assert taken.seal().code == 0
    assert len({path.name.partition("_")[0] for path in taken.folder.glob("*.sst")}) == 1
    keys = {name: ACKED[name] for name in ("start_key", "end_key")}
    after = Fleet(
        taken.stores, taken.storage, name="b", incremental=True, end_ts=END_TS + 1, **keys
    )
    after.parts(0, 1, 2, 0)
    done = after.seal()
    assert (done.code, done.document["base"], done.document["total_kvs"]) == (0, taken.name, 0)
    together = bkctl(
        *("verify", "--all", "--storage", taken.storage, "--level", "deep", "--json"),
    )
    assert together.code == 0, together.stderr


def test_a_base_that_is_not_the_newest_any_more(dead3: list[Path], tmp_path: Path) -> None:
    storage = tmp_path / "repository"
    keys = {name: ACKED[name] for name in ("start_key", "end_key")}
    times = [window_of(name)["end_ts"] for name in ("full1", "full2", "acked")]
    for number, end_ts in enumerate(times[:1]):
        fleet = Fleet(dead3, storage, name=f"n{number}", end_ts=end_ts, **keys)
        fleet.parts(0, 1, 0)
        assert fleet.seal().code == 0
    late = Fleet(dead3, storage, name="late", incremental=True, end_ts=times[2], **keys)
    late.parts(0, 1, 0)
    between = Fleet(dead3, storage, name="between", incremental=True, end_ts=times[1], **keys)
    between.parts(0, 1, 0)
    assert between.seal().code == 0
    done = late.seal()
    assert done.code == 3
    assert "it builds on n0, but now builds on between" in done.document["errors"][0]["message"]
    assert late.part(2).code == 2


def locked(stores: list[Path], storage: Path) -> Fleet:
    """A backup of the keys that are locked, of which only some transactions have an end."""
    window: dict[str, Any] = {**options_of(window_of("full3")), "start_key": "7A7A2F6C6F636B2F"}
    del window["end_key"]
    return Fleet(stores, storage, resolve_locks=True, **window)


def test_locks_of_a_dead_cluster_are_decided_as_at_one_place(
    dead3: list[Path], tmp_path: Path
) -> None:
    fleet = locked(dead3, tmp_path / "repository")
    fleet.part(0)
    fleet.part(1)
    fleet.parts(2, 0, 1)
    done = fleet.seal()
    assert done.code == 0, done.stderr
    together = fleet.together(0, 1, 2)
    for report in (done.document, together):
        report["decided_locks"].sort(key=lambda lock: lock["key"])
    assert content(done.document) == content(together)
    assert any(lock.get("presumed") for lock in together["decided_locks"])


def test_what_is_presumed_holds_for_the_same_states_only(dead3: list[Path], tmp_path: Path) -> None:
    fleet = locked(dead3, tmp_path / "repository")
    fleet.part(0)
    fleet.part(1)
    fleet.parts(2, 0, 1)
    state = state_of(fleet, 1)
    elsewhere = [
        dataclasses.replace(each, last_term=each.last_term + 1)
        if each.start_key < b"\x70" and each.last_term
        else each
        for each in state.standings
    ]
    assert elsewhere != list(state.standings)
    for changes in ({"is_live": True}, {"standings": tuple(elsewhere)}):
        rewrite(fleet, 1, **changes)
        done = fleet.seal()
        assert done.code == 3, done.stderr
        assert any("has not done it" in each["message"] for each in done.document["errors"])
        rewrite(fleet, 1, standings=state.standings, is_live=False)
    assert fleet.seal().code == 0


def test_locks_that_nobody_here_can_decide(dead3: list[Path], tmp_path: Path) -> None:
    fleet = locked(dead3, tmp_path / "repository")
    with in_use(dead3[0]), in_use(dead3[1]):
        codes = [begun(fleet, number).returncode for number in (0, 1, 0)]
        codes.append(begun(fleet, 0, "--wait-locks", "1s").returncode)
    assert 4 in codes
    assert codes[-1] == codes[-2]
    done = fleet.seal()
    assert done.code == 4, done.stderr
    assert "once the lock's transaction has ended" in done.document["errors"][0]["message"]
    assert not (fleet.folder / "backupmeta").exists()


def test_files_are_encrypted_alike(dead3: list[Path], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 16)
    key.chmod(0o600)
    crypter = {"crypter.method": "aes128-ctr", "crypter.key_file": key}
    fleet = Fleet(dead3, tmp_path / "repository", **ACKED, **crypter)
    fleet.parts(0, 1, 0)
    assert fleet.part(2, "--crypter.method", "plaintext").code == 2
    done = fleet.seal()
    assert figures(done.document) == FIGURES, done.stderr
    deep = ("verify", "--storage", fleet.storage, "--level", "deep", "--json")
    assert bkctl(*deep, "--crypter.method", "aes128-ctr", "--crypter.key-file", key).code == 0


def test_the_report_is_read_back(taken: Fleet) -> None:
    done = taken.seal()
    assert [(part["store_id"], part["ranges"]) for part in done.document["parts"]] == [
        (1, 0),
        (2, 1),
        (3, 0),
    ]
    stored = json.loads((taken.folder / "report.json").read_text())
    assert stored["parts"] == done.document["parts"]
    shown = bkctl("show", taken.name, "--storage", taken.storage, "--json")
    assert shown.document["report"]["parts"] == stored["parts"]
