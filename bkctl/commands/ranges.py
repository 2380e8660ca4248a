"""`bkctl ranges`: plans and shows what a backup would read; the dry run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.codec.tso import format_ts, parse_timestamp
from bkctl.commands import options
from bkctl.commands import raft_options as raft
from bkctl.errors import UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.raft.source import RaftSource
    from bkctl.raft.standing import Standing
    from bkctl.regions.check import Mismatch
    from bkctl.regions.plan import Plan
    from bkctl.store.source import SourceOptions

HELP = """Plan a backup and show its ranges, without reading data.

Shown are the ranges in key order, the regions left out and why, and keys that no region covers.
With --db, ranges that the store's own records contradict are told: a backup would fail them.
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
    db: options.Db = None,
    region_map: options.RegionMapFrom = None,
    store_id: options.StoreId = None,
    start_key: options.StartKey = None,
    end_key: options.EndKey = None,
    key_format: options.KeyFormatOption = options.KeyFormat.HEX,
    keyspace: options.Keyspace = None,
    start_ts: options.StartTs = None,
    end_ts: options.EndTs = None,
    raw: options.Raw = False,
    cf: options.Cf = None,
    api_version: options.ApiVersion = None,
    wal_dir: options.WalDir = None,
    work_dir: options.WorkDir = None,
    recovery: options.RecoveryOption = options.Recovery.STRICT,
    raft_log: raft.RaftLog = raft.RaftLogMode.COMMITTED,
    raft_dir: raft.RaftDir = None,
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
    opening = None
    if db is not None:
        opening = options.source_options(
            *(db, work_dir, wal_dir, recovery), raft_log=raft_log, raft_dir=raft_dir
        )
    keys = options.parse_window(start_key, end_key, key_format, keyspace, is_raw=raw)
    with (
        options.naming_region_map(choice),
        _opened(opening, window) as source,
    ):
        mode = _mode(source, raw, api_version)
        plan, refused = _make_plan(choice, source, store_id, mode.window(keys), mode.plain)
        if source is not None and window.start_ts and not raw and not read_all:
            from bkctl.backup.changes import without_unchanged

            plan, _ = without_unchanged(plan, source, window.start_ts, window.end_ts)
        standings = () if source is None else source.standings
    _show(plan, window, json, csv, refused, mode.plain)
    if standings and not (json or csv):
        _sum_up_raft(standings)


@contextlib.contextmanager
def _opened(
    opening: SourceOptions | None,
    window: _Window,
) -> Iterator[RaftSource | None]:
    """The store, if one is given, refused for the reasons a backup would refuse it."""
    if opening is None:
        yield None
        return
    from bkctl.raft.source import open_source

    with open_source(opening) as source:
        if not window.is_raw:
            source.require("write", "lock", "default")
        else:
            source.require(window.family)
        yield source


@dataclass(frozen=True, slots=True)
class _Mode:
    """How keys are stored, and where raw pairs of API V2 are."""

    plain: bool
    is_limited: bool

    def window(self, keys: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """What of a window of raw user keys there can be records in."""
        from bkctl.store.ident import raw_window

        return raw_window(*keys) if self.is_limited else keys


def _mode(
    source: RaftSource | None, is_raw: bool, api_version: options.ApiVersionName | None
) -> _Mode:
    from bkctl.store.ident import API_V1, API_V2, has_plain_keys

    version = API_V1 if source is None else source.ident.api_version
    if api_version is not None:
        version = options.api_number(api_version)
    return _Mode(has_plain_keys(is_raw, version), is_raw and version == API_V2)


def _make_plan(
    choice: str,
    source: RaftSource | None,
    store_id: int | None,
    keys: tuple[bytes, bytes],
    is_raw: bool,
) -> tuple[Plan, list[Mismatch]]:
    """The plan, and the ranges of it that the store is not to be read for."""
    from bkctl.backup.planning import find_refused
    from bkctl.regions.plan import make_plan

    region_map, without_data = options.load_region_map(choice, source, store_id)
    if store_id is None and source is not None:
        store_id = source.ident.store_id or None
    plan = make_plan(store_id, *keys, region_map, is_raw)
    plan = dataclasses.replace(plan, skipped=(*without_data, *plan.skipped))
    if source is None:
        return plan, []
    return plan, find_refused(plan, region_map.origin, source, store_id)


def _show(
    plan: Plan,
    window: _Window,
    as_json: bool,
    as_csv: bool,
    refused: list[Mismatch],
    plain: bool,
) -> None:
    from bkctl.ui import output, tables

    for mismatch in refused[:_MAX_SHOWN]:
        message = f"region {mismatch.backup_range.region.id}: {mismatch.kind}: {mismatch.message}"
        log.warning("range_refused", message)
    if len(refused) > _MAX_SHOWN:
        log.warning("range_refused", f"and {len(refused) - _MAX_SHOWN:,} more ranges")
    if as_json:
        output.print_json(_document(plan, plain, refused))
    elif as_csv:
        output.print_csv(_COLUMNS, _rows(plan))
    else:
        page = output.Page.of_stdout()
        tables.print_plan(page, plan, plain)
        page.line(f"window: {window}")


def _sum_up_raft(standings: Sequence[Standing]) -> None:
    from bkctl.ui import output, tables

    output.Page.of_stdout().line(tables.standings_in_short(standings))


def _document(plan: Plan, is_raw: bool, refused: list[Mismatch]) -> dict[str, object]:
    from bkctl.ui.tables import raw_gaps

    document: dict[str, object] = {
        "ranges": [dict(zip(_COLUMNS, row, strict=True)) for row in _rows(plan)],
        "skipped": [
            {"region_id": entry.region_id, "reason": entry.reason} for entry in plan.skipped
        ],
        "gaps": [gap.as_json() for gap in raw_gaps(plan.gaps, is_raw)],
    }
    if refused:
        document["failed"] = [
            {
                "region_id": mismatch.backup_range.region.id,
                "start_key": mismatch.backup_range.raw_start_key.hex().upper(),
                "end_key": mismatch.backup_range.raw_end_key.hex().upper(),
                "kind": mismatch.kind,
                "message": mismatch.message,
            }
            for mismatch in refused
        ]
    return document


def _rows(plan: Plan) -> Iterator[tuple[int | str | None, ...]]:
    for entry in plan.ranges:
        yield (
            entry.region.id,
            entry.region.epoch.version,
            entry.raw_start_key.hex().upper(),
            entry.raw_end_key.hex().upper(),
            entry.region.approximate_size,
            entry.region.approximate_keys,
        )
