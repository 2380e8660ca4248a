"""`bkctl backup`: takes a full, incremental or raw backup."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.codec.tso import format_ts, parse_timestamp
from bkctl.commands import executors, keyspaces, options
from bkctl.commands import file_options as files
from bkctl.commands import part as parts
from bkctl.commands import store_options as stores_of
from bkctl.commands.backup_log import log_ending
from bkctl.commands.jobs import bounded_jobs, telling_jobs
from bkctl.commands.signals import stop_on_signal
from bkctl.commands.watch import Watch, Watchers, watched
from bkctl.errors import BkctlError, CancelledError, UsageError
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report
    from bkctl.backup.executor import Executor
    from bkctl.backup.request import BackupRequest

HELP = """Take a backup of a store as of --end-ts.

With --start-ts 0, the default, it is a full one; with a later --start-ts an incremental one: what
changed after it, deletes included. --incremental finds --start-ts itself: it is where the newest
backup of this data in --storage ends; with none there, or one --full-every ago, a full backup is
taken. A backup is published in one step, and only if every range succeeds and all keys are covered
(--allow-gaps publishes what there is, and says what is not).

Where regions split, merged or moved since the region map was made, the backup is planned again, up
to three times: a running store is pinned anew, and the map read again (--region-map pd asks --pd).
What is contradicted then is read by the store's own records, where those prove that regions which
it led have split or merged, and fails otherwise.

\b
Example:
  bkctl backup --db /var/lib/tikv --region-map store --storage local:///backups
  bkctl backup --start-ts 440000000000500000 --end-ts 440000000001000000
  bkctl backup --incremental --full-every 7d --end-ts -5m
  bkctl backup --db /var/lib/tikv --region-map none --raw --storage /backups
  bkctl backup --part --end-ts 2026-11-24T01:00:00Z --name night-1 --wait 30m
  bkctl backup --executor dask://scheduler:8786 --cluster cluster.toml

\b
Exit codes: 0 published; 1 failed; 2 bad option or unreadable input, nothing
was started; 3 some ranges failed, nothing is published, what is finished is
kept for --resume; 4 the same, all of them on locked keys; 6 another run holds
the repository's lock, nothing was started; 7 published, but of some regions
fewer than a majority of voters were at hand (--allow-minority); 129/130/143
interrupted.
"""

_MINORITY = 7

BatchSize = Annotated[
    int,
    options.option("--batch-size", metavar="N", min=1, help="Ranges a worker takes at a time."),
]
Name = Annotated[
    str | None,
    options.option("--name", metavar="NAME", help="The backup's name; default: time and kind."),
]
Resume = Annotated[
    bool,
    options.option(
        "--resume",
        help="Take up an unfinished backup: of that --name, or --end-ts, or the last one begun.",
    ),
]
Incremental = Annotated[
    bool,
    options.option("--incremental", help="Take what changed since the newest backup in --storage."),
]
FullEvery = Annotated[
    str | None,
    options.option(
        "--full-every",
        metavar="SPAN",
        help="With --incremental: a full one once the last is that old, like 7d.",
    ),
]
GcSafePoint = Annotated[
    int | None,
    options.option(
        "--gc-safe-point",
        metavar="TS",
        parser=options.parse_ts,
        help="Refuse a window that garbage collection up to this may have reached into.",
    ),
]
WaitLocks = Annotated[
    str | None,
    options.option(
        "--wait-locks", metavar="SPAN", help="Try locked ranges again for that long, like 30s."
    ),
]
ResolveLocks = Annotated[
    bool,
    options.option(
        "--resolve-locks",
        help="Let locks count as what their transactions came to, where this store knows it.",
    ),
]
Pd = Annotated[
    str | None,
    options.option(
        "--pd",
        metavar="URL",
        help="Ask this PD for the GC safe point, for the id of --keyspace NAME, and with "
        "--region-map pd for the regions; several, with commas, are asked in turn.",
    ),
]


def backup(
    db: stores_of.Dbs = None,
    region_map: options.RegionMapFrom = None,
    storage: options.StorageUrl = None,
    start_ts: options.StartTs = None,
    end_ts: options.EndTs = None,
    incremental: Incremental = False,
    full_every: FullEvery = None,
    gc_safe_point: GcSafePoint = None,
    pd: Pd = None,
    wait_locks: WaitLocks = None,
    resolve_locks: ResolveLocks = False,
    name: Name = None,
    part: parts.Part = False,
    wait: parts.Wait = None,
    resume: Resume = False,
    store_id: options.StoreId = None,
    start_key: options.StartKey = None,
    end_key: options.EndKey = None,
    key_format: options.KeyFormatOption = options.KeyFormat.HEX,
    keyspace: keyspaces.Keyspace = None,
    raw: options.Raw = False,
    cf: options.Cf = None,
    allow_gaps: options.AllowGaps = False,
    api_version: options.ApiVersion = None,
    compression: files.Compression = "zstd",
    compression_level: files.CompressionLevel = None,
    sst_max_size: files.SstMaxSize = "144MiB",
    jobs: options.Jobs = None,
    batch_size: BatchSize = 8,
    rate_limit: files.RateLimit = None,
    read_all: options.ReadAll = False,
    wal_dir: options.WalDir = None,
    work_dir: options.WorkDir = None,
    recovery: options.RecoveryOption = options.Recovery.STRICT,
    raft_log: stores_of.RaftLog = stores_of.RaftLogMode.COMMITTED,
    raft_dir: stores_of.RaftDir = None,
    executor: executors.ExecutorOption = "local",
    cluster: executors.Cluster = None,
    master_key: options.MasterKey = None,
    allow_minority: stores_of.AllowMinority = False,
    crypter_method: options.CrypterMethod = None,
    crypter_key: options.CrypterKey = None,
    crypter_key_file: options.CrypterKeyFile = None,
    metrics_file: options.MetricsFile = None,
    on_success: options.OnSuccess = None,
    on_failure: options.OnFailure = None,
    group_readable: files.GroupReadable = False,
    progress: options.Progress = options.ProgressMode.AUTO,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Take a backup and say what came of it."""
    count = bounded_jobs(jobs)
    watchers = Watchers("backup", metrics_file, on_success, on_failure, raw)
    unbegun = partial(_unbegun_report, name, raw, start_ts, end_ts, time.time())
    with (
        watched(watchers, unbegun) as watch,
        options.naming_region_map(choice := options.required("--region-map", region_map)),
    ):
        from bkctl.backup.request import BackupRequest
        from bkctl.backup.wait import Patience
        from bkctl.sst.writer import Compression as SstCompression
        from bkctl.storage.url import load_backend, parse_storage

        parts.check_options(part, wait, end_ts)
        waits = _seconds("--wait-locks", wait_locks)
        end = parse_timestamp("now") if end_ts is None else end_ts
        options.check_ts_window(start_ts or 0, end)
        dask = executors.parse_executor(
            *(executor, cluster),
            db=db,
            wal_dir=wal_dir,
            raft_dir=raft_dir,
            jobs=jobs,
            store_id=store_id,
        )
        first_store, *others = stores_of.store_options(
            options.required("--db", db or None) if dask is None else dask.paths,
            *(work_dir, wal_dir, recovery, api_version),
            raft_log=raft_log,
            raft_dir=raft_dir,
            master_key=master_key,
        )
        if (others or dask) and choice != "store":
            raise UsageError(
                "the regions of several stores are those of their own records; give "
                "--region-map store"
            )
        first, last = keyspaces.parse_window(
            start_key, end_key, key_format, keyspace, pd, is_raw=raw
        )
        request = BackupRequest(
            source=first_store,
            others=tuple(others),
            chooses=choice == "store",
            allow_minority=allow_minority,
            load_regions=options.region_map_loader(choice, store_id, pd),
            asks_pd=choice == "pd",
            storage=parse_storage(options.required("--storage", storage)),
            start_ts=start_ts or 0,
            end_ts=end,
            name=name,
            store_id=store_id,
            start_key=first,
            end_key=last,
            is_raw=raw,
            family=options.family_of(raw, cf),
            compression=SstCompression(compression, compression_level),
            sst_max_size=options.size("--sst-max-size", sst_max_size),
            jobs=count,
            batch_size=batch_size,
            resume=resume,
            resume_newest=resume and name is None and end_ts is None,
            incremental=incremental,
            full_every=_seconds("--full-every", full_every),
            gc_safe_point=_safe_point(gc_safe_point, pd, keyspace, choice),
            wait_locks=None if waits is None else Patience(waits),
            resolve_locks=resolve_locks,
            cipher=options.cipher(crypter_method, crypter_key, crypter_key_file),
            read_all=read_all,
            allow_gaps=allow_gaps,
            rate_limit=None if rate_limit is None else options.size("--rate-limit", rate_limit),
        )
        load_backend(request.storage)
        if part:
            if dask is not None:
                raise UsageError(
                    "--part takes the part of a store of this machine; leave --executor out"
                )
            parts.run_part(request, wait, progress, watch, jobs, as_json=json)
            return
        with executors.executor_for(dask, request, count) as workers:
            _run(request, workers, progress, watch, jobs, as_json=json)


def _seconds(option: str, text: str | None) -> int | None:
    return None if text is None else options.duration(option, text)


def _safe_point(
    given: int | None, pd: str | None, keyspace: str | None, region_map: str
) -> int | None:
    is_asked_more = keyspaces.is_name(keyspace) or region_map == "pd"
    if given is not None and pd is not None and not is_asked_more:
        raise UsageError("--gc-safe-point and --pd exclude each other; give one of them")
    if pd is None or given is not None:
        return given
    from bkctl.regions.safe_point import fetch_gc_safe_point

    return fetch_gc_safe_point(pd)


def _unbegun_report(
    name: str | None,
    is_raw: bool,
    start_ts: int | None,
    end_ts: int | None,
    begun: float,
    error: BkctlError,
) -> Report:
    """The report of a run whose options were no good."""
    from bkctl.archive.report import RangeError, Report

    return Report(
        name=name or "",
        status="cancelled" if isinstance(error, CancelledError) else "failed",
        mode="raw" if is_raw else "txn",
        start_ts=start_ts or 0,
        end_ts=end_ts or 0,
        seconds=round(time.time() - begun, 3),
        errors=(RangeError(0, b"", b"", error.kind, str(error)),),
        started_at=begun,
    )


def _run(
    request: BackupRequest,
    executor: Executor,
    progress: options.ProgressMode,
    watch: Watch,
    asked_jobs: int | None,
    *,
    as_json: bool,
) -> None:
    from bkctl.backup.backup import take_backup
    from bkctl.backup.outcome import failed_report
    from bkctl.ui.output import print_json
    from bkctl.ui.progress import make_listener

    begun = time.time()
    watch.failed = lambda error: failed_report(request, error, begun)
    log.detail("starting", f"backup to {request.storage}", **_log_fields(request))
    with stop_on_signal() as stop:
        try:
            listener = telling_jobs(watch.listener(make_listener(progress.value)), asked_jobs)
            report = take_backup(request, listener, stop.is_asked, executor, options.notify)
        except BkctlError as e:
            # What gives up below knows of no signal's number.
            error = CancelledError(stop.signum) if isinstance(e, CancelledError) else e
            watch.report = failed_report(request, error, begun)
            if as_json:
                print_json(watch.report.to_json_dict())
            raise error from None
        watch.report = report
    if as_json:
        print_json(report.to_json_dict())
    else:
        _print_summary(report)
    log_ending(report)
    if report.status == "cancelled":
        raise CancelledError(stop.signum)
    if report.errors:
        kinds = {error.kind for error in report.errors}
        raise typer.Exit(4 if kinds == {"key_is_locked"} else 3)
    if report.minority:
        raise typer.Exit(_MINORITY)


def _print_summary(report: Report) -> None:
    from bkctl.ui.human import format_count
    from bkctl.ui.output import Page
    from bkctl.ui.summary import print_figures, print_outcome

    page = Page.of_stdout()
    counts = report.ranges
    since = f"after {report.start_ts} ({format_ts(report.start_ts)}) " if report.start_ts else ""
    print_outcome(page, report)
    page.line(f"  window  {since}up to {report.end_ts} ({format_ts(report.end_ts)})")
    if report.note:
        page.line(f"  chain   {report.note}")
    page.line(
        f"  ranges  {counts.done} of {counts.total} done, {counts.failed} failed, "
        f"{counts.skipped} skipped"
    )
    print_figures(page, report)
    if report.decided_locks:
        count = format_count(len(report.decided_locks), "lock")
        page.line(f"  locks   {count} decided by their transactions, listed in report.json")
        if presumed := sum(lock.is_presumed for lock in report.decided_locks):
            count = format_count(presumed, "lock")
            page.line(f"          {count} of transactions that nobody can end any more")


def _log_fields(request: BackupRequest) -> dict[str, object]:
    return {
        "db": " ".join(str(each.path) for each in (request.source, *request.others)),
        "storage": str(request.storage),
        "start_ts": request.start_ts,
        "end_ts": request.end_ts,
        "incremental": request.incremental,
        "resume": request.resume,
        "jobs": request.jobs,
    }
