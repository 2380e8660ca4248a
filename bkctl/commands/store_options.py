"""The options of commands that open stores: which ones, and what of their raft logs is applied."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bkctl.commands import options
from bkctl.errors import UsageError
from bkctl.store.raft_log_mode import RaftLogMode as RaftLogMode
from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.store.source import SourceOptions

Dbs = Annotated[
    list[str] | None,
    options.option(
        "--db",
        metavar="PATH",
        help="The store: a TiKV data directory, its db/, or any RocksDB directory for --raw. Given "
        "more than once, or as a pattern ('DIR/tikv*'): the stores of one cluster.",
    ),
]
RaftLog = Annotated[
    RaftLogMode,
    options.option(
        "--raft-log",
        help="How much of it is applied: what is known to be committed, all there is, or nothing.",
    ),
]
AllowMinority = Annotated[
    bool,
    options.option(
        "--allow-minority",
        help="Take regions, too, of which fewer than a majority of voters are at hand.",
    ),
]
RaftDir = Annotated[
    Path | None,
    options.option(
        "--raft-dir",
        metavar="PATH",
        help="Where the raft log is (raft-engine/ or raft/), if not in the data directory.",
    ),
]


def source_options(
    db: Path,
    work_dir: Path | None,
    wal_dir: Path | None,
    recovery: options.Recovery,
    api_version: options.ApiVersionName | None = None,
    *,
    raft_log: RaftLogMode = RaftLogMode.COMMITTED,
    raft_dir: Path | None = None,
    master_key: Path | None = None,
) -> SourceOptions:
    """How to open the store that the options name."""
    from bkctl.store.source import SourceOptions

    number = None if api_version is None else options.api_number(api_version)
    point_in_time = recovery is options.Recovery.POINT_IN_TIME
    return SourceOptions(
        *(db, work_dir, wal_dir, point_in_time, number, raft_log, raft_dir),
        master_key=master_key,
        warn=lambda message: log.warning("key_file", message),
    )


def store_options(
    dbs: list[str] | list[Path] | None,
    work_dir: Path | None,
    wal_dir: Path | None,
    recovery: options.Recovery,
    api_version: options.ApiVersionName | None = None,
    *,
    raft_log: RaftLogMode = RaftLogMode.COMMITTED,
    raft_dir: Path | None = None,
    master_key: Path | None = None,
    name: str = "--db",
) -> list[SourceOptions]:
    """How to open the stores that the options name, by `name`; none where they name none.

    Of `dbs`, texts may be patterns.
    """
    paths = [path for text in dbs or () for path in _matches(name, text)]
    for option, given in (("--wal-dir", wal_dir), ("--raft-dir", raft_dir)):
        if given is not None and len(paths) > 1:
            raise UsageError(f"{option} is one store's; it cannot go with several {name}")
    return [
        source_options(
            *(path, work_dir, wal_dir, recovery, api_version),
            raft_log=raft_log,
            raft_dir=raft_dir,
            master_key=master_key,
        )
        for path in paths
    ]


def _matches(name: str, text: str | Path) -> list[Path]:
    """The path, or all directories that a pattern matches; UsageError for none."""
    if isinstance(text, Path) or not glob.has_magic(text) or Path(text).exists():
        return [Path(text)]
    found = [Path(each) for each in sorted(glob.glob(text)) if Path(each).is_dir()]
    if not found:
        raise UsageError(f"{name} {text}: no directory matches the pattern")
    return found
