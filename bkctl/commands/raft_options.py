"""The options of commands that open a store: what of its raft log is applied, and where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bkctl.commands import options
from bkctl.store.raft_log_mode import RaftLogMode as RaftLogMode

RaftLog = Annotated[
    RaftLogMode,
    options.option(
        "--raft-log",
        help="How much of it is applied: what is known to be committed, all there is, or nothing.",
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
