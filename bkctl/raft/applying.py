"""The process that pins a store's raft log and applies it to the view of its kv store.

What is in either may make RocksDB crash, or be made to take memory: it is not the process that has
to tell of it. Requests come in this order, ApplyLog any number of times, each other one once:

    PinLog     the log's files are opened; it has them as they are now
    ReadLog    the write-ahead logs are replayed, and the raft log is read through; if asked for,
               the store's StoreIdent comes back, and Standings of each region, in batches
    ApplyLog   the raft log is applied, as far as asked for; Standings of what came of it come back
    Finish     all of it is made to last
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import CorruptionError, StorageError
from bkctl.proto import metapb_pb2
from bkctl.raft.apply import Applier, HowFar, Progress
from bkctl.raft.locate import EnginePlace, RocksPlace
from bkctl.raft.log import PinnedRaftLog, RaftLog, StoreKey
from bkctl.raft.log_file import FileReader, OpenFile, PlainFile
from bkctl.raft.pin import pin_raft_log
from bkctl.raft.region import RAFT_INIT_LOG_INDEX, Replica
from bkctl.raft.replicas import Replicas
from bkctl.raft.stand import Stand, find_stand
from bkctl.raft.standing import Standing, standing_of
from bkctl.store.ident import IDENT_KEY, StoreIdent, parse_store_ident
from bkctl.store.raft_log_mode import RaftLogMode

if TYPE_CHECKING:
    from bkctl.folders import PrivateFolder
    from bkctl.raft.kv import KvStore
    from bkctl.store.atrest.dictionary import AtRest, AtRestPlace

_BATCH = 1024
# Room in memory for a copy of the log of an encrypted store that is running.
_COPY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class PinLog:
    """Asks to pin the log at `place`; see `pin_raft_log`. `at_rest` is for encrypted files."""

    place: EnginePlace | RocksPlace
    folder: Path
    is_live: bool
    point_in_time: bool
    at_rest: AtRestPlace | None = None


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Asks to read it, for the RocksDB in `folder`, of the store in `source`.

    `imports` is where the store keeps SST files that are to be ingested.
    """

    folder: Path
    source: Path
    imports: Path
    tells: bool


@dataclass(frozen=True, slots=True)
class ApplyLog:
    """Asks to apply it: logs that are `decided` to their ends, others by `mode`.

    `decided` has by region's id the conf_ver of the peers who decide. Once a log makes it greater,
    it is others' turn to.
    """

    mode: RaftLogMode
    decided: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Asks to write everything down."""


class Applying:
    """What the process does."""

    def __init__(self) -> None:
        self._pinned: PinnedRaftLog | None = None
        self._read: _Read | None = None
        self._at_rest: AtRest | None = None
        self._memory: PrivateFolder | None = None

    def __call__(self, request: PinLog | ReadLog | ApplyLog | Finish) -> Iterator[Any]:
        """Do what is asked for; see the requests."""
        if isinstance(request, PinLog):
            self._pinned = self._pin(request)
        elif isinstance(request, ReadLog):
            assert self._pinned is not None
            self._read = _Read(request, self._pinned, self._at_rest)
            if request.tells:
                yield self._read.ident
                yield from _in_batches(self._read.survey())
        elif isinstance(request, ApplyLog):
            assert self._read is not None
            yield from _in_batches(self._read.apply(request))
        else:
            assert self._read is not None
            assert self._pinned is not None
            self._read.kv.finish()
            self._pinned.close()
            if self._memory is not None:
                self._memory.close()

    def _pin(self, request: PinLog) -> PinnedRaftLog:
        folder = request.folder
        opened: OpenFile = PlainFile
        if request.at_rest is not None:
            from bkctl.store.atrest.dictionary import AtRest
            from bkctl.store.memory import memory_folder

            place = request.at_rest
            # Its warnings were given by who opened the store.
            self._at_rest = AtRest(
                place.folder, place.db_dir, place.master_key, lambda message: None
            )
            opened = functools.partial(_open_encrypted, self._at_rest)
            if request.is_live:
                self._memory = memory_folder(folder.parent, _COPY_BYTES)
                folder = self._memory.path
        return pin_raft_log(
            request.place,
            folder,
            is_live=request.is_live,
            point_in_time=request.point_in_time,
            open_file=opened,
        )


def _open_encrypted(at_rest: AtRest, path: Path) -> FileReader:
    """Open a file of raft-engine's that may be encrypted; OSError where it is gone."""
    try:
        return at_rest.open(path)
    except StorageError:
        path.stat()
        raise


class _Read:
    """A raft log that is read, and the kv store that it is for."""

    def __init__(self, request: ReadLog, pinned: PinnedRaftLog, at_rest: AtRest | None) -> None:
        self.kv = _open_kv(request, at_rest)
        self._imports = request.imports
        self.ident = _ident(self.kv, request.source)
        self._log = pinned.read(self._replicas().applied)
        _check_same_store(self._log, self.ident, request.source)

    def _replicas(self) -> Replicas:
        return Replicas(self.kv, self.ident.store_id)

    def survey(self) -> Iterator[Progress]:
        """What each region is by the kv store, and where it stands; nothing is applied."""
        seen: set[int] = set()
        for replica in self._replicas().at_first():
            seen.add(replica.region.id)
            progress = Progress(replica)
            if replica.has_log:
                try:
                    progress.stand = find_stand(replica, self._log)
                except CorruptionError as e:
                    progress.trouble = e
            yield progress
        for region_id in self._log.region_ids():
            if region_id not in seen:
                yield from _unknown(region_id, self.ident.store_id, self._log)

    def apply(self, request: ApplyLog) -> Iterator[Progress]:
        """Apply as far as asked for."""
        find = functools.partial(_find_sst, self._imports)
        passes = tuple(_deciding(usual, request.decided) for usual in _PASSES[request.mode])
        return Applier(self.kv, self._log, self._replicas(), passes, find).apply_all()


def _deciding(usual: HowFar, decided: Mapping[int, int]) -> HowFar:
    """The same, but for those regions of which all of the log is decided."""

    def how_far(replica: Replica, stand: Stand) -> int:
        region = replica.region
        is_decided = region.region_epoch.conf_ver <= decided.get(region.id, -1)
        return stand.last_index if is_decided else usual(replica, stand)

    return how_far


def _open_kv(request: ReadLog, at_rest: AtRest | None) -> KvStore:
    if at_rest is None:
        from bkctl.raft.rocks_kv import RocksKv

        return RocksKv(request.folder, request.source)
    from bkctl.raft.sealed_kv import SealedKv

    return SealedKv(request.folder, request.source, at_rest.open)


def _unknown(region_id: int, store_id: int, log: RaftLog) -> Iterator[Progress]:
    """A region that the log has something of, and the kv store nothing: a split is to come."""
    replica = Replica(metapb_pb2.Region(id=region_id), store_id)
    try:
        stand = find_stand(replica, log)
    except CorruptionError as e:
        yield Progress(replica, trouble=e)
        return
    if stand.last_index > RAFT_INIT_LOG_INDEX:
        yield Progress(replica, stand)


def _in_batches(found: Iterator[Progress]) -> Iterator[tuple[Standing, ...]]:
    while batch := tuple(map(standing_of, islice(found, _BATCH))):
        yield batch


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


_PASSES: dict[RaftLogMode, tuple[HowFar, ...]] = {
    RaftLogMode.COMMITTED: (_committed,),
    RaftLogMode.ALL: (_committed, _everything),
}
