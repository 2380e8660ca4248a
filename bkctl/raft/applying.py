"""The process that pins a store's raft log and applies it to the view of its kv store.

What is in either may make RocksDB crash, or be made to take memory: it is not the process that has
to tell of it. Requests come in this order, each once:

    PinLog     the log's files are opened; it has them as they are now
    ApplyLog   the write-ahead logs are replayed, then the raft log: Standings come back in batches
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import CorruptionError
from bkctl.raft.apply import Applier, HowFar
from bkctl.raft.locate import EnginePlace, RocksPlace
from bkctl.raft.log import PinnedRaftLog, RaftLog, StoreKey
from bkctl.raft.pin import pin_raft_log
from bkctl.raft.region import Replica
from bkctl.raft.replicas import Replicas
from bkctl.raft.stand import Stand
from bkctl.raft.standing import standing_of
from bkctl.store.ident import IDENT_KEY, StoreIdent, parse_store_ident
from bkctl.store.raft_log_mode import RaftLogMode

if TYPE_CHECKING:
    from bkctl.raft.kv import KvStore

_BATCH = 1024


@dataclass(frozen=True, slots=True)
class PinLog:
    """Asks to pin the log at `place`; see `pin_raft_log`."""

    place: EnginePlace | RocksPlace
    folder: Path
    is_live: bool
    point_in_time: bool


@dataclass(frozen=True, slots=True)
class ApplyLog:
    """Asks to apply it to the RocksDB in `folder`, of the store in `source`.

    `imports` is where the store keeps SST files that are to be ingested.
    """

    folder: Path
    source: Path
    imports: Path
    mode: RaftLogMode


class Applying:
    """What the process does."""

    def __init__(self) -> None:
        self._pinned: PinnedRaftLog | None = None

    def __call__(self, request: PinLog | ApplyLog) -> Iterator[Any]:
        """Do what is asked for; see the requests."""
        if isinstance(request, PinLog):
            self._pinned = pin_raft_log(
                request.place,
                request.folder,
                is_live=request.is_live,
                point_in_time=request.point_in_time,
            )
            return
        assert self._pinned is not None
        with self._pinned as pinned:
            yield from _apply(request, pinned)


def _apply(request: ApplyLog, pinned: PinnedRaftLog) -> Iterator[Any]:
    """Yield tuples of Standing."""
    from bkctl.raft.rocks_kv import RocksKv

    kv = RocksKv(request.folder, request.source)
    ident = _ident(kv, request.source)
    replicas = Replicas(kv, ident.store_id)
    log = pinned.read(replicas.applied)
    _check_same_store(log, ident, request.source)
    find = functools.partial(_find_sst, request.imports)
    done = Applier(kv, log, replicas, _HOW_FAR[request.mode], find).apply_all()
    while batch := list(islice(done, _BATCH)):
        yield tuple(map(standing_of, batch))
    kv.finish()


def _ident(kv: KvStore, source: Path) -> StoreIdent:
    record = next(kv.records("default", IDENT_KEY, IDENT_KEY + b"\0"), None)
    return StoreIdent() if record is None else parse_store_ident(record[1], source)


def _check_same_store(log: RaftLog, own: StoreIdent, source: Path) -> None:
    value = log.store_value(StoreKey.IDENT)
    if value is None:
        return
    other = parse_store_ident(value, log.path)
    if (other.cluster_id, other.store_id) != (own.cluster_id, own.store_id):
        raise CorruptionError(
            f"{log.path}: the raft log is of store {other.store_id} of cluster {other.cluster_id}, "
            f"{source} of store {own.store_id} of cluster {own.cluster_id}"
        )


def _find_sst(imports: Path, name: str) -> Path | None:
    path = imports / name
    return path if path.is_file() else None


def _committed(replica: Replica, stand: Stand) -> int:
    # Nobody can outvote it: what its log has will be committed.
    return stand.last_index if replica.is_sole_voter else stand.commit


def _everything(replica: Replica, stand: Stand) -> int:
    return stand.last_index


_HOW_FAR: dict[RaftLogMode, HowFar] = {
    RaftLogMode.COMMITTED: _committed,
    RaftLogMode.ALL: _everything,
}
