#!/usr/bin/env python3
"""Makes a sample store: tables of rows with several versions, deletes, rollbacks and locks.

    python examples/make_store.py DIR [--rows N] [--seed S] [--locked]

DIR becomes the RocksDB directory, DIR.regions.json its region map. The same rows and seed give the
same store. Exit codes: 0 made, 2 DIR is there already or an option is bad.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bkctl.codec.tso import compose, format_ts
from bkctl.errors import UsageError
from examples.tikv_store import CLUSTER_ID, TikvStore

STORE_ID = 1
TABLE_ID = 100
REGIONS = 8

_HOUR_MS = 3_600_000
START_TS = compose(1_767_225_600_000)  # 2026-01-01T00:00:00Z
MID_TS = START_TS + compose(_HOUR_MS)
END_TS = START_TS + compose(2 * _HOUR_MS)

_SIGN_BIT = 1 << 63
_FIRST_REGION_ID, _REGION_ID_STEP = 2, 4


class Transactions(Protocol):
    """The part of a store that a sample needs; tests run it on a model of one, too."""

    def must_prewrite_put(
        self, raw_key: bytes, value: bytes, primary: bytes, start_ts: int
    ) -> None:
        """Prewrite a put."""

    def must_prewrite_delete(self, raw_key: bytes, primary: bytes, start_ts: int) -> None:
        """Prewrite a delete."""

    def must_prewrite_lock(self, raw_key: bytes, primary: bytes, start_ts: int) -> None:
        """Prewrite a Lock."""

    def must_acquire_pessimistic_lock(
        self, raw_key: bytes, primary: bytes, start_ts: int, for_update_ts: int
    ) -> None:
        """Leave a pessimistic lock."""

    def must_commit(self, raw_key: bytes, start_ts: int, commit_ts: int) -> None:
        """Commit what is prewritten."""

    def must_rollback(self, raw_key: bytes, start_ts: int, protected: bool = False) -> None:
        """Roll back what is prewritten."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a backup should report; `bytes` are those of raw keys and values."""

    kvs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Made:
    """What backups of a sample store should count."""

    full_at_mid: Counts
    full_at_end: Counts
    incremental: Counts


@dataclass(frozen=True, slots=True)
class _Step:
    """A transaction on one row at one of evenly spread moments."""

    raw_key: bytes
    kind: str


def row_key(table_id: int, row_id: int) -> bytes:
    """A table row's raw key as TiDB has it: `t`, table id, `_r`, row id, both sign-flipped."""
    table, row = (number ^ _SIGN_BIT for number in (table_id, row_id))
    return b"t" + table.to_bytes(8, "big") + b"_r" + row.to_bytes(8, "big")


def make_store(path: Path, rows: int, seed: int, is_locked: bool = False) -> Made:
    """Make the store `path` and the region map `path`.regions.json.

    UsageError if either is there already, or if there are fewer rows than regions.
    """
    region_map = region_map_of(path)
    for target in (path, region_map):
        if target.exists():
            raise UsageError(f"{target} is there already; remove it or name another directory")
    if rows < REGIONS:
        raise UsageError(f"{rows} rows are too few for {REGIONS} regions; make at least {REGIONS}")
    with TikvStore(path, STORE_ID) as store:
        store.set_regions(_regions(rows))
        store.write_region_map(region_map)
        with store.batched():
            made = populate(store, rows, seed, is_locked)
        store.flush()
    return made


def region_map_of(path: Path) -> Path:
    """Where the region map of a sample store lies."""
    return path.parent / f"{path.name}.regions.json"


def populate(store: Transactions, rows: int, seed: int, is_locked: bool = False) -> Made:
    """Run the sample's transactions: every row is put before MID_TS, many change until END_TS.

    Behind END_TS come versions that no sample backup may show. A lock that blocks nobody always
    stays; `is_locked` leaves an unresolved put in the second hour too.
    """
    rng = random.Random(seed)
    keys = _row_keys(rows)
    live: dict[bytes, int] = {}
    first = [_Step(key, "put") for key in keys] + _changes(keys, rows, rng)
    _run(store, first, START_TS, MID_TS, live, rng)
    full_at_mid = _count(live)
    changed = _run(store, _changes(keys, rows, rng), MID_TS, END_TS, live, rng)
    made = Made(full_at_mid, _count(live), _count(changed))
    for key in keys[:: max(1, rows // 10)]:
        store.must_prewrite_put(key, b"too late", key, END_TS + 1)
        store.must_commit(key, END_TS + 1, END_TS + 2)
    store.must_acquire_pessimistic_lock(keys[1], keys[1], START_TS + 1, START_TS + 1)
    if is_locked:
        store.must_prewrite_put(keys[-1], b"undecided", keys[-1], END_TS - 1)
    return made


def _row_keys(rows: int) -> list[bytes]:
    """Rows of four tables, in key order."""
    per_table = -(-rows // 4)
    return [row_key(TABLE_ID + row // per_table, row % per_table) for row in range(rows)]


def _changes(keys: list[bytes], count: int, rng: random.Random) -> list[_Step]:
    kinds = rng.choices(("put", "delete", "lock", "rollback"), (70, 15, 8, 7), k=count)
    return [_Step(rng.choice(keys), kind) for kind in kinds]


def _run(
    store: Transactions,
    steps: list[_Step],
    after_ts: int,
    until_ts: int,
    live: dict[bytes, int],
    rng: random.Random,
) -> dict[bytes, int]:
    """Run steps at moments in (after_ts, until_ts]; gives each changed row's last value length.

    Value lengths of rows that are there are kept in `live`. A delete counts as changed, with 0.
    """
    changed: dict[bytes, int] = {}
    interval = (until_ts - after_ts) // len(steps)
    for number, step in enumerate(steps):
        key, start_ts = step.raw_key, after_ts + number * interval + 1
        commit_ts = start_ts + interval // 2
        if step.kind == "put":
            value = _value(rng)
            store.must_prewrite_put(key, value, key, start_ts)
            live[key] = changed[key] = len(value)
        elif step.kind == "delete":
            store.must_prewrite_delete(key, key, start_ts)
            live.pop(key, None)
            changed[key] = 0
        else:
            store.must_prewrite_lock(key, key, start_ts)
        if step.kind == "rollback":
            store.must_rollback(key, start_ts, protected=rng.random() < 0.5)
        else:
            store.must_commit(key, start_ts, commit_ts)
    return changed


def _value(rng: random.Random) -> bytes:
    """One value in eight is too long for a write record."""
    size = rng.randint(256, 1024) if rng.random() < 0.125 else rng.randint(16, 160)
    return rng.randbytes(size // 2).hex().encode().ljust(size, b".")


def _count(lengths: dict[bytes, int]) -> Counts:
    return Counts(len(lengths), sum(len(key) + length for key, length in lengths.items()))


def _regions(rows: int) -> list[tuple[int, bytes, bytes, int]]:
    keys = _row_keys(rows)
    cuts = [b"", *(keys[rows * i // REGIONS] for i in range(1, REGIONS)), b""]
    return [
        (_FIRST_REGION_ID + _REGION_ID_STEP * i, cuts[i], cuts[i + 1], 10 + i)
        for i in range(REGIONS)
    ]


def _describe(path: Path, rows: int, made: Made, is_locked: bool) -> str:
    rest = "\nlocked      one unresolved put: backups at end_ts exit with 4" if is_locked else ""
    return f"""\
store       {path} (cluster {CLUSTER_ID}, store {STORE_ID})
region_map  {region_map_of(path)} ({REGIONS} regions)
rows        {rows}, with older versions, deletes, rollbacks and locks
start_ts    {START_TS}  {format_ts(START_TS)}
mid_ts      {MID_TS}  {format_ts(MID_TS)}
end_ts      {END_TS}  {format_ts(END_TS)}
full        --start-ts 0 --end-ts {MID_TS}: {_shown(made.full_at_mid)}
full        --start-ts 0 --end-ts {END_TS}: {_shown(made.full_at_end)}
incremental --start-ts {MID_TS} --end-ts {END_TS}: {_shown(made.incremental)}{rest}"""


def _shown(counts: Counts) -> str:
    return f"{counts.kvs} kvs, {counts.bytes} bytes"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; gives its exit code."""
    parser = argparse.ArgumentParser(description="Make a sample store, and its region map.")
    parser.add_argument("path", metavar="DIR", type=Path, help="directory to make")
    parser.add_argument("--rows", type=int, default=5000, help="rows to put (default 5000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    parser.add_argument("--locked", action="store_true", help="leave an unresolved prewrite")
    options = parser.parse_args(arguments)
    try:
        made = make_store(options.path, options.rows, options.seed, options.locked)
    except UsageError as error:
        print(f"make_store: {error}", file=sys.stderr)
        return error.exit_code
    print(_describe(options.path, options.rows, made, options.locked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
