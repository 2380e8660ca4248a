"""`bkctl regions`: a store's own regions as PD's JSON, or a cluster's; checks a region map."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.commands import options
from bkctl.commands import store_options as stores_of
from bkctl.errors import CorruptionError, SourceError, UsageError
from bkctl.ui import log
from bkctl.ui.human import format_count

if TYPE_CHECKING:
    from bkctl.raft.standing import Standing
    from bkctl.regions.region import Region
    from bkctl.regions.region_map import RegionMap, Skipped
    from bkctl.store.source import Source, SourceOptions
    from bkctl.ui.tables import MapProblem

HELP = """Print a store's own regions as PD's JSON, those of several stores, or check a region map.

With --db, the regions whose data the store holds, ready to be given to --region-map. With
--region-map FILE, or with --check, what is wrong in a map: regions that overlap or are listed
twice, keys that are not those of the mode (transactional, or --raw), and keys that no region
covers.

With --db given more than once, the stores are one cluster: each region is shown once, with the
store whose raft log is the newest, why, and whether a majority of its voters is at hand; below it,
why it is refused (--allow-minority refuses none for a minority); then what is left out, and keys
that nobody has.

With --db and --raft, where each region's replica stands: its state, role and epoch (conf_ver and
version); which entry of the raft log the kv store has applied, which is known to be committed,
which is the last; the last entry's term and the peer's own; how much there is to apply, and how
many entries lie above. It is complete if it alone decides what is committed, behind if it is known
to lack something, else unknown. Of several stores all replicas are shown, and which one is chosen.

\b
Example:
  bkctl regions --db /var/lib/tikv > regions.json
  bkctl regions --db /var/lib/tikv --raft
  bkctl regions --db /mnt/tikv1 --db /mnt/tikv2 --db /mnt/tikv3
  bkctl regions --region-map regions.json --check

\b
Exit codes: 0 printed, or the map is sound; 1 the map has problems;
2 bad option or unreadable input; 129/130/143 interrupted.
"""
_PLURALS = {
    "overlap": "overlaps",
    "duplicate": "duplicates",
    "bad key": "bad keys",
    "gap": "gaps",
}


def regions(
    ctx: typer.Context,
    db: stores_of.Dbs = None,
    region_map: options.RegionMapFrom = None,
    store_id: options.StoreId = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the region map, or else the store's own regions.")
    ] = False,
    show_raft: Annotated[
        bool, typer.Option("--raft", help="Show where each region stands by the raft log.")
    ] = False,
    raw: options.Raw = False,
    wal_dir: options.WalDir = None,
    work_dir: options.WorkDir = None,
    recovery: options.RecoveryOption = options.Recovery.STRICT,
    raft_log: stores_of.RaftLog = stores_of.RaftLogMode.COMMITTED,
    raft_dir: stores_of.RaftDir = None,
    master_key: options.MasterKey = None,
    allow_minority: stores_of.AllowMinority = False,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Print or check regions."""
    if not db and region_map is None:
        raise UsageError("nothing to show; give --db PATH, or --region-map FILE to check")
    openings = stores_of.store_options(
        *(db, work_dir, wal_dir, recovery),
        raft_log=raft_log,
        raft_dir=raft_dir,
        master_key=master_key,
    )
    if len(openings) > 1 and store_id is not None:
        raise UsageError("--store-id is one store's; it cannot go with several --db")
    if show_raft:
        _show_raft(openings, allow_minority, json)
        return
    # A configuration file may name both for all commands: then what is asked for here decides.
    is_check = check or not db or _is_on_command_line(ctx, "region_map")
    choice = (region_map if is_check else None) or "store"
    if choice == "store" and len(openings) > 1:
        _show_cluster(openings, allow_minority, is_check=is_check, is_raw=raw, as_json=json)
        return
    with _opened(openings[0] if choice == "store" and openings else None) as source:
        loaded, skipped = options.load_region_map(choice, source, store_id)
    if is_check:
        _check(loaded, raw, json)
    else:
        _print(loaded, skipped)


def _is_on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextlib.contextmanager
def _opened(opening: SourceOptions | None) -> Iterator[Source | None]:
    if opening is None:
        yield None
        return
    from bkctl.raft.source import open_source

    with open_source(opening) as source:
        yield source


def _show_cluster(
    openings: list[SourceOptions],
    allow_minority: bool,
    *,
    is_check: bool,
    is_raw: bool,
    as_json: bool,
) -> None:
    from bkctl.cluster.stores import open_stores
    from bkctl.commands.cluster_regions import cluster_of, show_cluster

    with open_stores(openings, chooses=True, allow_minority=allow_minority) as stores:
        shown = cluster_of(stores)
        chosen = stores.regions
    if is_check and chosen is not None:
        _check(chosen.region_map, is_raw, as_json)
    else:
        show_cluster(shown, is_raw=is_raw, as_json=as_json)


def _show_raft(openings: list[SourceOptions], allow_minority: bool, as_json: bool) -> None:
    """Print where the regions stand by the raft log; exit code 1 if any is in trouble."""
    from bkctl.ui import output, tables

    if not openings:
        raise UsageError("--raft shows a store's raft log; give --db PATH")
    replicas = _replicas(openings, allow_minority)
    standings = [standing for _, standing, _ in replicas]
    is_several = len(openings) > 1
    if as_json:
        documents = [
            _standing_document(standing)
            | ({"store_id": store_id, "chosen": is_chosen} if is_several else {})
            for store_id, standing, is_chosen in replicas
        ]
        output.print_json({"regions": documents})
    else:
        stores = [(store_id, is_chosen) for store_id, _, is_chosen in replicas]
        tables.print_standings(output.Page.of_stdout(), standings, stores if is_several else None)
    if any(each.trouble for each in standings):
        raise typer.Exit(1)


def _replicas(
    openings: list[SourceOptions], allow_minority: bool
) -> list[tuple[int, Standing, bool]]:
    """Where each replica stands; SourceError where no raft log tells."""
    from bkctl.cluster.stores import open_stores
    from bkctl.commands.cluster_regions import replicas_of

    # One store is shown as it is by itself, without a choice.
    is_several = len(openings) > 1
    with open_stores(openings, chooses=is_several, allow_minority=allow_minority) as stores:
        replicas = replicas_of(stores)
        if not replicas:
            raise SourceError(
                f"{stores.path}: no raft log was read of it; there is nothing to show"
            )
    return replicas


def _standing_document(standing: Standing) -> dict[str, object]:
    """One region; keys as its record has them, in upper-case hexadecimal."""
    document = dataclasses.asdict(standing)
    document["replica"] = document.pop("completeness").value
    for name in ("start_key", "end_key"):
        document[name] = document[name].hex().upper()
    return document | {"above": standing.above}


def _print(loaded: RegionMap, skipped: list[Skipped]) -> None:
    """Print every region the store has data of, those too that a map of them would drop."""
    from bkctl.regions import pd

    every = [*loaded.regions, *(dropped.region for dropped in loaded.dropped)]
    every.sort(key=lambda region: (region.start_key, region.id))
    sys.stdout.write(pd.dump(every))
    for reason, count in Counter(entry.reason for entry in skipped).items():
        left_out = format_count(count, "region")
        log.info("left_out", f"left out {left_out}: {reason}", regions=count, reason=reason)


def _check(loaded: RegionMap, is_raw: bool, as_json: bool) -> None:
    """Print what is wrong with a map; exit code 1 if anything is."""
    from bkctl.ui import output, tables

    problems = list(find_problems(loaded, is_raw))
    count = len(loaded.regions) + len(loaded.dropped)
    if as_json:
        output.print_json(_document(problems, count))
    else:
        page = output.Page.of_stdout()
        tables.print_problems(page, problems, is_raw)
        found = Counter(problem.kind for problem in problems)
        verdict = ", ".join(
            format_count(found[kind], kind, plural) for kind, plural in _PLURALS.items()
        )
        page.line(f"{format_count(count, 'region')}: {verdict}")
    if problems:
        raise typer.Exit(1)


def find_problems(loaded: RegionMap, is_raw: bool) -> Iterator[MapProblem]:
    """What is wrong with a region map: overlaps, duplicates, keys of another mode, gaps."""
    from bkctl.ui.tables import KeyRange, MapProblem

    kept_ids = {region.id for region in loaded.regions}
    for dropped in loaded.dropped:
        lost = dropped.region
        kind = "duplicate" if lost.id in kept_ids else "overlap"
        yield MapProblem(kind, lost.id, KeyRange(lost.start_key, lost.end_key), dropped.reason)
    for region in loaded.regions:
        if reason := _bad_key(region, is_raw):
            keys = KeyRange(region.start_key, region.end_key)
            yield MapProblem("bad key", region.id, keys, reason)
    for gap in loaded.gaps(b"", b""):
        keys = KeyRange(gap.start_key, gap.end_key)
        yield MapProblem("gap", None, keys, "no region covers these keys")


def _bad_key(region: Region, is_raw: bool) -> str | None:
    from bkctl.regions.plan import to_raw_key

    try:
        to_raw_key(region.start_key, is_raw)
        if region.end_key and not to_raw_key(region.end_key, is_raw):
            return "its end key is the encoded empty key, before which nothing can lie"
    except CorruptionError as e:
        return str(e)
    return None


def _document(problems: list[MapProblem], count: int) -> dict[str, object]:
    """Problems by kind; keys as the map has them, in upper-case hexadecimal."""
    document: dict[str, object] = {"regions": count}
    for kind, plural in _PLURALS.items():
        document[plural.replace(" ", "_")] = [
            problem.as_json() for problem in problems if problem.kind == kind
        ]
    return document
