"""`bkctl ranges`: plans and shows what a backup would read; the dry run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.codec.tso import format_ts, parse_timestamp
from bkctl.commands import keyspaces, options
from bkctl.commands import store_options as stores_of
from bkctl.errors import UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.backup.opening import Opened
    from bkctl.cluster.stores import Stores
    from bkctl.raft.standing import Standing
    from bkctl.regions.check import Mismatch
    from bkctl.regions.plan import Plan
    from bkctl.store.source import SourceOptions
    from bkctl.ui.output import Rows

HELP = """Plan a backup and show its ranges, without reading data.

Shown are the ranges in key order, the regions left out and why, and keys that no region covers.
With --db, ranges that the store's own records contradict are told: a backup would fail them.
With --db given more than once, the stores are one cluster: each region is read from the store whose
raft log is the newest, and why is shown.
With --db and --start-ts, ranges in which nothing was committed since are left out.
With --region-map FILE no store is needed: without --db, --store-id says whose regions to take, and
without that all are.

\b
Example:
  bkctl ranges --db /var/lib/tikv --region-map regions.json
  bkctl ranges --region-map regions.json --store-id 4 --csv

\b
Exit codes: 0 planned; 1 failed; 2 bad option or unreadable input;
129/130/143 interrupted.
"""
_MAX_SHOWN = 20
_COLUMNS = (
    "region_id",
    "epoch_version",
    "start_key",
    "end_key",
    "approximate_size",
    "approximate_keys",
)


@dataclass(frozen=True, slots=True)
class _Window:
    """What of the data is asked for: TSOs, or a column family of raw keys."""

    start_ts: int
    end_ts: int
    is_raw: bool
    family: str

    def __str__(self) -> str:
        if self.is_raw:
            return f"raw keys of column family {self.family}"
        until = f"{self.end_ts} ({format_ts(self.end_ts)})"
        if self.start_ts == 0:
            return f"full, as of {until}"
        return f"incremental, after {self.start_ts} ({format_ts(self.start_ts)}) up to {until}"


def ranges(
    db: stores_of.Dbs = None,
    region_map: options.RegionMapFrom = None,
    store_id: options.StoreId = None,
    start_key: options.StartKey = None,
    end_key: options.EndKey = None,
    key_format: options.KeyFormatOption = options.KeyFormat.HEX,
    keyspace: keyspaces.Keyspace = None,
    pd: keyspaces.PdOfNames = None,
    start_ts: options.StartTs = None,
    end_ts: options.EndTs = None,
    raw: options.Raw = False,
    cf: options.Cf = None,
    api_version: options.ApiVersion = None,
    wal_dir: options.WalDir = None,
    work_dir: options.WorkDir = None,
    recovery: options.RecoveryOption = options.Recovery.STRICT,
    raft_log: stores_of.RaftLog = stores_of.RaftLogMode.COMMITTED,
    raft_dir: stores_of.RaftDir = None,
    master_key: options.MasterKey = None,
    allow_minority: stores_of.AllowMinority = False,
    read_all: options.ReadAll = False,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the ranges as CSV on stdout.")] = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Plan a backup and show it."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other; choose one")
    choice = options.required("--region-map", region_map)
    window = _Window(
        start_ts or 0,
        parse_timestamp("now") if end_ts is None else end_ts,
        raw,
        options.family_of(raw, cf),
    )
    options.check_ts_window(window.start_ts, window.end_ts)
    opening = stores_of.store_options(
        *(db, work_dir, wal_dir, recovery),
        raft_log=raft_log,
        raft_dir=raft_dir,
        master_key=master_key,
    )
    if len(opening) > 1 and choice != "store":
        raise UsageError(
            "the regions of several stores are those of their own records; give --region-map store"
        )
    keys = keyspaces.parse_window(start_key, end_key, key_format, keyspace, pd, is_raw=raw)
    with (
        options.naming_region_map(choice),
        _opened(opening, window, choice, allow_minority) as opened,
    ):
        stores = None if opened is None else opened.stores
        mode = _mode(stores, raw, api_version)
        shown = _make_plan(choice, opened, store_id, mode.window(keys), mode.plain, pd)
        if opened is not None and window.start_ts and not raw and not read_all:
            from bkctl.backup.planning import plan_changes

            plan = plan_changes(shown.plan, opened.stores, window.start_ts, window.end_ts)
            shown = dataclasses.replace(shown, plan=plan)
    _show(shown, window, json, csv)


@contextlib.contextmanager
def _opened(
    opening: list[SourceOptions], window: _Window, choice: str, allow_minority: bool
) -> Iterator[Opened | None]:
    """The stores, if any are given, refused for the reasons a backup would refuse them."""
    if not opening:
        yield None
        return
    from bkctl.backup.opening import Opened
    from bkctl.cluster.stores import open_stores

    def open_them() -> Stores:
        stores = open_stores(opening, chooses=choice == "store", allow_minority=allow_minority)
        try:
            stores.require(*((window.family,) if window.is_raw else ("write", "lock", "default")))
        except BaseException:
            stores.close()
            raise
        return stores

    with Opened(open_them) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class _Mode:
    """How keys are stored, and where raw pairs of API V2 are."""

    plain: bool
    is_limited: bool

    def window(self, keys: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """What of a window of raw user keys there can be records in."""
        from bkctl.store.ident import raw_window

        return raw_window(*keys) if self.is_limited else keys


def _mode(stores: Stores | None, is_raw: bool, api_version: options.ApiVersionName | None) -> _Mode:
    from bkctl.store.ident import API_V1, API_V2, has_plain_keys

    version = API_V1 if stores is None else stores.ident.api_version
    if api_version is not None:
        version = options.api_number(api_version)
    return _Mode(has_plain_keys(is_raw, version), is_raw and version == API_V2)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown: a plan, the ranges of it that the stores are not to be read for, and where
    the regions stand; `chosen` are the stores' ids and why, by region, if they were chosen.
    """

    plan: Plan
    refused: list[Mismatch]
    plain: bool
    standings: tuple[Standing, ...] = ()
    chosen: dict[int, tuple[int, str]] | None = None


def _make_plan(
    choice: str,
    opened: Opened | None,
    asked_id: int | None,
    keys: tuple[bytes, bytes],
    plain: bool,
    pd: str | None,
) -> _Shown:
    store_id = asked_id
    if store_id is None and opened is not None:
        store_id = opened.stores.ident.store_id or None
    from bkctl.backup.planning import Regions, plan_regions
    from bkctl.backup.replan import Wanted, settle

    if opened is None:
        region_map, without_data = options.load_region_map(choice, None, store_id, pd)
        regions = Regions(region_map, tuple(without_data))
        return _Shown(plan_regions(regions, keys, store_id, is_raw=plain), [], plain)
    load = options.region_map_loader(choice, asked_id, pd)
    found = settle(opened, Wanted(load, keys, store_id, plain, choice == "pd"))
    stores = opened.stores
    for note in found.notes:
        log.info("planned", note)
    return _Shown(found.plan, list(found.refused), plain, stores.standings, stores.chosen())


def _show(shown: _Shown, window: _Window, as_json: bool, as_csv: bool) -> None:
    from bkctl.ui import output, tables

    for mismatch in shown.refused[:_MAX_SHOWN]:
        message = f"region {mismatch.backup_range.region.id}: {mismatch.kind}: {mismatch.message}"
        log.warning("range_refused", message)
    if len(shown.refused) > _MAX_SHOWN:
        log.warning("range_refused", f"and {len(shown.refused) - _MAX_SHOWN:,} more ranges")
    if as_json:
        output.print_json_lists(_lists(shown))
    elif as_csv:
        output.print_csv(_columns(shown), _rows(shown))
    else:
        page = output.Page.of_stdout()
        tables.print_plan(page, shown.plan, shown.plain, shown.chosen)
        page.line(f"window: {window}")
        if shown.standings:
            page.line(tables.standings_in_short(shown.standings))


def _lists(shown: _Shown) -> Iterator[tuple[str, Rows]]:
    """The lists of the JSON document, entries made as they are printed."""
    from bkctl.ui.output import Rows
    from bkctl.ui.tables import raw_gaps

    plan = shown.plan
    yield "ranges", Rows(_columns(shown), _rows(shown))
    skipped = ((entry.region_id, entry.reason) for entry in plan.skipped)
    yield "skipped", Rows(("region_id", "reason"), skipped)
    gaps = (
        (gap.start_key.hex().upper(), gap.end_key.hex().upper())
        for gap in raw_gaps(plan.gaps, shown.plain)
    )
    yield "gaps", Rows(("start_key", "end_key"), gaps)
    if shown.refused:
        columns = ("region_id", "start_key", "end_key", "kind", "message")
        yield "failed", Rows(columns, map(_failed, shown.refused))


def _failed(mismatch: Mismatch) -> tuple[int | str, ...]:
    return (
        mismatch.backup_range.region.id,
        mismatch.backup_range.raw_start_key.hex().upper(),
        mismatch.backup_range.raw_end_key.hex().upper(),
        mismatch.kind,
        mismatch.message,
    )


def _columns(shown: _Shown) -> tuple[str, ...]:
    return _COLUMNS if shown.chosen is None else (*_COLUMNS, "store_id", "why")


def _rows(shown: _Shown) -> Iterator[tuple[int | str | None, ...]]:
    from bkctl.regions.plan import with_raw_keys

    chosen = shown.chosen
    told: tuple[int | str | None, ...] = ()
    raw_key, text = b"", ""
    for entry, raw_start_key, raw_end_key in with_raw_keys(shown.plan.ranges):
        start = text if raw_start_key is raw_key else raw_start_key.hex().upper()
        raw_key, text = raw_end_key, raw_end_key.hex().upper()
        region = entry.region
        if chosen is not None:
            told = chosen.get(region.id, (None, None))
        yield (
            region.id,
            region.epoch.version,
            start,
            text,
            region.approximate_size,
            region.approximate_keys,
            *told,
        )
