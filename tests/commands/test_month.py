"""A month of nights: what cron runs, on a store that changes, and any kept day comes back."""

from __future__ import annotations

import random
from pathlib import Path

from bkctl.codec.tso import compose
from bkctl.mvcc.keys import DATA_END, DATA_PREFIX, split_versioned
from bkctl.mvcc.scan import EntryScanner
from bkctl.store.database import Database
from bkctl.store.source import Source, SourceOptions
from examples.tikv_store import TikvStore
from tests.commands.console import bkctl
from tests.model import Entry, History

DAYS = 30
KEYS = 400
_FIRST_MS = 1_764_547_200_000  # a Monday, 00:00 UTC
_DAY_MS = 86_400_000


def night(day: int) -> int:
    """The TSO of 02:00 in the night after a day."""
    return compose(_FIRST_MS + (day + 1) * _DAY_MS + 7_200_000)


def live_through(day: int, rng: random.Random, history: History, tikv: TikvStore) -> None:
    """A day's transactions: new keys, other values, deletes; some long, some rolled back."""
    times = sorted(rng.sample(range(_DAY_MS), 2 * 60))
    for start, commit in zip(times[::2], times[1::2], strict=True):
        key = b"key %04d" % rng.randrange(KEYS)
        start_ts, commit_ts = (
            compose(_FIRST_MS + day * _DAY_MS + 7_200_000 + ms) for ms in (start, commit)
        )
        before = len(history.operations)
        if rng.random() < 0.25:
            history.must_prewrite_delete(key, key, start_ts)
        else:
            value = rng.randbytes(rng.choice([10, 60, 255, 256, 900]))
            history.must_prewrite_put(key, value, key, start_ts)
        if rng.random() < 0.1:
            history.must_rollback(key, start_ts)
        else:
            history.must_commit(key, start_ts, commit_ts)
        for operation in history.operations[before:]:
            getattr(tikv, operation.method)(*operation.arguments, **dict(operation.options))


def restored(repository: Path, ts: int, target: Path) -> list[tuple[bytes, int]]:
    """Restore as of `ts`, and scan what came: (raw key, commit_ts)."""
    outcome = bkctl(
        *("restore", "--storage", repository, "--at", ts, "--to", target, "--progress", "none")
    )
    assert outcome.code == 0, outcome.stderr
    with Source(SourceOptions(target)) as source:
        database = Database(source.db_dir, source.path)
        scanner = EntryScanner(database, DATA_PREFIX, DATA_END, 0, ts)
        found: list[tuple[bytes, int]] = []
        while (batch := scanner.scan_entries()) is not None:
            for segment in batch.segments:
                found += map(split_versioned, segment.keys.tolist())
                for _ in scanner.long_values.fetch(segment.default_keys):
                    pass
        del scanner
        database.close()
    return found


def keys_of(entries: list[Entry]) -> list[tuple[bytes, int]]:
    return [(entry[0], entry[1]) for entry in entries]


def test_thirty_days_of_cron(tmp_path: Path) -> None:
    rng, history, repository = random.Random(30), History(), tmp_path / "repository"
    sizes: list[int] = []
    kinds: list[str] = []
    days: dict[int, list[tuple[bytes, int]]] = {}
    for day in range(DAYS):
        with TikvStore(tmp_path / "store") as tikv:
            live_through(day, rng, history, tikv)
            if day % 4:
                tikv.flush()
            if day % 10 == 9:
                tikv.compact()
        days[night(day)] = keys_of(history.expected(0, night(day)).entries)
        outcome = bkctl(
            *(
                "backup",
                "--db",
                tmp_path / "store",
                "--region-map",
                "none",
                "--storage",
                repository,
            ),
            *("--incremental", "--full-every", "7d", "--end-ts", night(day), "--jobs", 1),
            *("--json", "--progress", "none"),
        )
        assert outcome.code == 0, outcome.stderr
        kinds.append("incr" if outcome.document["start_ts"] else "full")
        pruned = bkctl(
            *("prune", "--storage", repository, "--keep-daily", 7, "--keep-weekly", 2, "--json")
        )
        assert pruned.code == 0, pruned.stderr
        sizes.append(sum(path.stat().st_size for path in repository.rglob("*") if path.is_file()))
        some_day = rng.choice(kept_nights(repository))
        target = tmp_path / f"restored-{day}"
        assert restored(repository, some_day, target) == days[some_day]
    assert [day for day, kind in enumerate(kinds) if kind == "full"] == [0, 7, 14, 21, 28]
    kept = kept_nights(repository)
    assert set(kept) >= {night(day) for day in range(DAYS - 7, DAYS)}
    for number, ts in enumerate(kept):
        assert restored(repository, ts, tmp_path / f"at-the-end-{number}") == days[ts]
    # It grows to what the rules keep in the first weeks, and no further.
    assert max(sizes[21:]) < 1.5 * max(sizes[7:21])
    outcome = bkctl(
        "verify", "--storage", repository, "--all", "--level", "deep", "--progress", "none"
    )
    assert outcome.code == 0, outcome.stdout


def kept_nights(repository: Path) -> list[int]:
    listed = bkctl("list", "--storage", repository, "--json").document
    return sorted(backup["end_ts"] for backup in listed["backups"] if backup["state"] == "complete")
