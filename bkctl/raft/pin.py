"""Pins a store's raft log, of whichever kind it is: one entrance to this room.

The kv store is pinned first: what it lacks of acknowledged writes is then in the log.
"""

from __future__ import annotations

from pathlib import Path

from bkctl.errors import SourceError
from bkctl.raft.engine import PinnedRaftEngine
from bkctl.raft.locate import EnginePlace, RocksPlace
from bkctl.raft.log import PinnedRaftLog
from bkctl.raft.log_file import OpenFile, PlainFile
from bkctl.raft.rocksdb import PinnedRaftRocks
from bkctl.store.layout import locate


def pin_raft_log(
    place: EnginePlace | RocksPlace,
    folder: Path,
    *,
    is_live: bool,
    point_in_time: bool = False,
    open_file: OpenFile = PlainFile,
) -> PinnedRaftLog:
    """Pin the raft log at `place` as it is now.

    `folder` is a private one, for temporary files; `is_live` is whether a process has the store
    open. `point_in_time` takes what lies before a damage at the log's end, as TiKV would.
    `open_file` opens raft-engine's files. Raises SourceError for what cannot be read,
    CorruptionError for what is missing or damaged, StorageError where `folder` has no room.
    """
    if isinstance(place, EnginePlace):
        return PinnedRaftEngine(
            place.folders,
            copy_to=folder if is_live else None,
            point_in_time=point_in_time,
            open_file=open_file,
        )
    layout = locate(place.path, place.wal_dir)
    if open_file is not PlainFile or layout.at_rest is not None:
        raise SourceError(
            f"{place.path}: the raft log of a store that is encrypted at rest is in a RocksDB, "
            "which bkctl reads only plain; --raft-log ignore takes what the kv store has"
        )
    return PinnedRaftRocks(layout, folder, point_in_time=point_in_time)
