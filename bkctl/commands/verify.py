"""`bkctl verify`: proves backups whole, by themselves or against a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bkctl.commands import options
from bkctl.commands import store_options as stores_of
from bkctl.commands.jobs import bounded_jobs, telling_jobs
from bkctl.errors import BkctlError, UsageError
from bkctl.verify.level import Level

if TYPE_CHECKING:
    from bkctl.store.source import SourceOptions
    from bkctl.ui.output import Page
    from bkctl.verify.comparing import Against
    from bkctl.verify.verify import Verification

HELP = """Prove backups whole: the newest one, those that are named, or --all.

\b
--level size    every file is there with its size, and none is unknown;
                backupmeta, report.json and the folder agree
--level sha256  also the SHA-256 of every file (the default)
--level deep    also every block and record: checksums, order, ranges,
                timestamps, counts, crc64xor, and long values

With --against, the backup is also compared with a store, as of the backup's own timestamps; with
--region-map too, keys are missed that lie where the backup has no file. Encrypted files cannot be
checked and are told as damage.

With --against given more than once, the stores are one cluster: what is compared is what a backup
of them would read, each region where the raft log is the newest. With --region-map store that holds
of a single store, too. Keys that no store can tell are an error (--allow-minority compares with
what fewer than a majority of a region's voters have).

With --all or several names, --json prints a list.

\b
Example:
  bkctl verify --storage local:///backups --level deep
  bkctl verify --storage local:///backups --all --json
  bkctl verify 20261123T101500.000Z-full --against /var/lib/tikv --region-map store

\b
Exit codes: 0 whole; 1 not finished, a file or worker failed; 2 no such
backup, bad option; 5 damaged, or not what the store has; 129/130/143 interrupted.
"""
_MAX_SHOWN = 50

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Backups; default: the newest.")
]
LevelOption = Annotated[Level, options.option("--level", help="How thoroughly.")]
All = Annotated[bool, typer.Option("--all", help="Verify every complete backup.")]
AgainstDbs = Annotated[
    list[str] | None,
    options.option(
        "--against",
        metavar="DB",
        help="A store to compare with; given more than once, or as a pattern: those of a cluster.",
    ),
]


def verify(
    names: Names = None,
    storage: options.StorageUrl = None,
    every: All = False,
    level: LevelOption = Level.SHA256,
    against: AgainstDbs = None,
    region_map: options.RegionMapFrom = None,
    jobs: options.Jobs = None,
    allow_gaps: options.AllowGaps = False,
    wal_dir: options.WalDir = None,
    work_dir: options.WorkDir = None,
    recovery: options.RecoveryOption = options.Recovery.STRICT,
    raft_log: stores_of.RaftLog = stores_of.RaftLogMode.COMMITTED,
    raft_dir: stores_of.RaftDir = None,
    master_key: options.MasterKey = None,
    allow_minority: stores_of.AllowMinority = False,
    crypter_method: options.CrypterMethod = None,
    crypter_key: options.CrypterKey = None,
    crypter_key_file: options.CrypterKeyFile = None,
    progress: options.Progress = options.ProgressMode.AUTO,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Verify backups and show what is wrong with them."""
    from bkctl.storage.url import parse_storage
    from bkctl.ui.output import Page, print_json
    from bkctl.ui.progress import make_listener
    from bkctl.verify.verify import Verifier, failed_verification

    if every and names:
        raise UsageError("--all and names exclude each other; give one of them")
    openings = stores_of.store_options(
        *(against, work_dir, wal_dir, recovery),
        raft_log=raft_log,
        raft_dir=raft_dir,
        master_key=master_key,
        name="--against",
    )
    store = _against(openings, region_map, allow_minority)
    spec = parse_storage(options.required("--storage", storage))
    cipher = options.cipher(crypter_method, crypter_key, crypter_key_file)
    found: list[Verification] = []
    count = bounded_jobs(jobs)
    with Verifier(spec, level, count, cipher, allow_gaps=allow_gaps) as verifier:
        chosen = verifier.all_names() if every else names or [verifier.newest()]
        for name in (several := list(dict.fromkeys(chosen))):
            try:
                with options.naming_region_map(region_map or ""):
                    listener = telling_jobs(make_listener(progress.value), jobs)
                    found.append(verifier.verify(name, listener, store))
            except BkctlError as e:
                if len(several) == 1:
                    raise
                found.append(failed_verification(name, level, e))
            if not json:
                _print(Page.of_stdout(), found[-1])
    if json:
        documents = [verification.to_json_dict() for verification in found]
        print_json(documents if every or len(names or ()) > 1 else documents[0])
    code = _exit_code(found)
    if code:
        raise typer.Exit(code)


def _against(
    openings: list[SourceOptions], region_map: str | None, allow_minority: bool
) -> Against | None:
    from bkctl.verify.comparing import Against

    if not openings:
        return None
    first, *others = openings
    if others and region_map not in (None, "store"):
        raise UsageError(
            "the regions of several stores are those of their own records; give --region-map "
            "store, or leave it out"
        )
    return Against(
        first,
        None if region_map is None else lambda opened: options.load_region_map(region_map, opened),
        tuple(others),
        chooses=region_map == "store",
        allow_minority=allow_minority,
    )


def _exit_code(found: list[Verification]) -> int:
    states = {verification.status for verification in found}
    if states & {"damaged", "differs"}:
        return 5
    return 1 if "failed" in states else 0


def _print(page: Page, found: Verification) -> None:
    from bkctl.ui.human import format_count, format_duration, format_size

    verdict = {
        "ok": "whole",
        "damaged": format_count(len(found.damages), "thing") + " wrong",
        "differs": "whole, but not what the store has",
        "failed": "not verified",
    }[found.status]
    read = f", {format_size(found.checked_bytes)} read" if found.checked_bytes else ""
    page.line(
        f"{page.bold(found.name)}: {verdict} (level {found.level.value}, "
        f"{format_count(found.files, 'file')}{read}, {format_duration(found.seconds)})"
    )
    for damage in found.damages[:_MAX_SHOWN]:
        page.line(f"  {damage}")
    _print_rest(page, len(found.damages) - _MAX_SHOWN)
    for error in found.errors[:_MAX_SHOWN]:
        page.line(f"  error: {error}")
    _print_rest(page, len(found.errors) - _MAX_SHOWN)
    for hole in found.holes if found.status != "damaged" else ():
        page.line(f"  gap: {hole}")
    if found.uncovered:
        page.line(f"  not in it, as it never covered them: keys {found.uncovered}")
    if found.differences is not None:
        _print_differences(page, found)


def _print_differences(page: Page, found: Verification) -> None:
    from bkctl.ui.human import format_count
    from bkctl.ui.keys import describe_key

    differences = found.differences
    if differences is None:
        return
    count = format_count(differences.total, "key")
    page.line(f"  {count} differ{'s' if differences.total == 1 else ''} from the store")
    for difference in differences.first:
        shown = describe_key(difference.raw_key, "(empty)")
        page.line(f"    {difference.raw_key.hex().upper()} ({shown}): {difference.what}")


def _print_rest(page: Page, more: int) -> None:
    if more > 0:
        page.line(f"  and {more:,} more (see --json)")
