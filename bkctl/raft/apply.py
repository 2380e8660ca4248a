"""Applies the raft log to a kv store: what TiKV does at its start, region by region.

    entry      a RaftCmdRequest, or a ConfChange with one in its context; a new leader's is empty
    command    checked against the region as it is at that moment, or skipped whole
    writes     puts, deletes, ranges of deletes, ingested SST files: in the kv store
    admin      what the region is (`admin`): splits make regions, whose logs are applied, too

A merge needs its source to be as far as the target's command says; what the source's own log lacks
of that, the command carries. Source: TiKV's components/raftstore/src/store/fsm/{apply,peer}.rs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkctl.errors import CorruptionError
from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2
from bkctl.proto.strict import parse
from bkctl.raft import admin
from bkctl.raft.kv import KvStore
from bkctl.raft.log import RaftLog
from bkctl.raft.region import RejectedError, Replica
from bkctl.raft.replicas import Replicas
from bkctl.raft.stand import Stand, find_stand, initial_apply_state

DEFAULT, WRITE = "default", "write"
_DATA, _DATA_END = b"z", b"{"
_FAMILIES = frozenset({DEFAULT, "lock", WRITE, "raft"})
_SIMPLE_WRITE = 0  # how the compact form of writes begins that partitioned stores use

_Cmd = raft_cmdpb_pb2.RaftCmdRequest
_Write = tuple[str, str, bytes, bytes]
"""What to do (put, delete, range, ingest), the family, key, and value, end key or file name."""

FindSst = Callable[[str], Path | None]
"""Where a file of the store's import folder is, by its name; None if it is not there."""


@dataclass(slots=True)
class Progress:
    """What came of a region: where it stood, how far its log was applied, and what it is now.

    `stand` is None where there was no log to apply. `trouble` says why not all could be applied
    that had to be.
    """

    replica: Replica
    stand: Stand | None = None
    entries: int = 0
    size: int = 0
    trouble: CorruptionError | None = None

    @property
    def above(self) -> int:
        """The entries of the log that were not applied."""
        return 0 if self.stand is None else max(0, self.stand.last_index - self.replica.applied)


HowFar = Callable[[Replica, Stand], int]
"""Up to which index to apply now; asked again after each command that changes the region."""


class Applier:
    """Applies the logs of a store's regions."""

    def __init__(
        self, kv: KvStore, log: RaftLog, replicas: Replicas, how_far: HowFar, find_sst: FindSst
    ) -> None:
        self._kv, self._log, self._replicas = kv, log, replicas
        self._how_far, self._find_sst = how_far, find_sst
        self._progress: dict[int, Progress] = {}

    def apply_all(self) -> Iterator[Progress]:
        """Apply all regions' logs, and write down what they are then.

        Yields what came of each, in no order; what is wrong with one is in that. Raises
        StorageError where the kv store has no room for it, CorruptionError where it is damaged.
        """
        for replica in self._replicas.at_first():
            if replica.region.id in self._progress:
                continue
            progress = self._apply(replica)
            if not progress.entries and not replica.is_changed:
                # Most regions of a store have nothing to apply: they are not kept.
                del self._progress[replica.region.id]
                yield progress
        while made := self._replicas.made():
            for replica in made:
                if replica.region.id not in self._progress:
                    self._apply(replica)
        for progress in self._progress.values():
            self._replicas.write(progress.replica)
            yield progress

    def _apply(self, replica: Replica) -> Progress:
        """Apply a region's log as far as it goes; once."""
        progress = self._progress[replica.region.id] = Progress(replica)
        if not replica.takes_entries:
            return progress
        try:
            progress.stand = find_stand(replica, self._log)
            self._apply_up_to(progress, None)
        except CorruptionError as e:
            progress.trouble = e
        return progress

    def _apply_up_to(self, progress: Progress, limit: int | None) -> None:
        """Apply up to `limit`, or as far as it goes."""
        replica, stand = progress.replica, progress.stand
        if stand is None:
            return
        end = self._how_far(replica, stand) if limit is None else limit
        while replica.applied < end and replica.takes_entries:
            region = replica.region
            for entry in self._log.entries(region.id, replica.applied + 1, end + 1):
                self._take(progress, entry)
                if replica.region is not region:
                    break  # who decides how far may have changed
            if limit is None:
                end = self._how_far(replica, stand)

    def _take(self, progress: Progress, entry: eraftpb_pb2.Entry) -> None:
        replica = progress.replica
        if entry.index != replica.applied + 1:
            raise _damage(replica, entry, f"it stands where {replica.applied + 1} should")
        command = _command_of(replica, entry)
        if command is not None:
            try:
                self._execute(replica, command, entry)
            except RejectedError:
                pass  # as on every other replica
            except admin.ContradictionError as e:
                raise _damage(replica, entry, f"it {e}") from None
        replica.applied = entry.index
        progress.entries += 1
        progress.size += len(entry.data)

    def _execute(self, replica: Replica, command: _Cmd, entry: eraftpb_pb2.Entry) -> None:
        replica.check(command)
        if command.HasField("admin_request"):
            self._execute_admin(replica, command.admin_request, entry)
            return
        # All is looked at before anything is done: a command has its whole effect or none.
        for what, family, key, value in list(_writes_of(replica, command, entry)):
            if what == "put":
                self._kv.put(family, key, value)
            elif what == "delete":
                self._kv.delete(family, key)
            elif what == "range":
                self._kv.delete_range(family, key, value)
            else:
                self._ingest(replica, family, value.decode(), entry)

    def _ingest(self, replica: Replica, family: str, name: str, entry: eraftpb_pb2.Entry) -> None:
        # Names of TiKV since 7.5, and before.
        for known in (name, f"{name.removesuffix('_2.sst')}.sst"):
            path = self._find_sst(known)
            if path is not None:
                self._kv.ingest(family, path, known)
                return
        raise _damage(
            replica, entry, f"it ingests import/{name}, which is gone; back up another replica"
        )

    def _execute_admin(
        self,
        replica: Replica,
        request: raft_cmdpb_pb2.AdminRequest,
        entry: eraftpb_pb2.Entry,
    ) -> None:
        kind = request.cmd_type
        if kind in (raft_cmdpb_pb2.Split, raft_cmdpb_pb2.BatchSplit):
            self._split(replica, request)
        elif kind == raft_cmdpb_pb2.CommitMerge:
            self._commit_merge(replica, request, entry)
        elif kind == raft_cmdpb_pb2.PrepareMerge:
            admin.prepare_merge(replica, request, entry.index)
        elif (change := _CHANGES.get(kind)) is not None:
            change(replica, request)
        elif kind not in _WITHOUT_EFFECT:
            raise RejectedError("it is of no kind that is known")

    def _split(self, replica: Replica, request: raft_cmdpb_pb2.AdminRequest) -> None:
        for region in admin.split(replica, request, self._replicas.has):
            self._replicas.add(
                Replica(
                    region,
                    replica.store_id,
                    apply_state=initial_apply_state(),
                    is_changed=True,
                )
            )

    def _commit_merge(
        self,
        replica: Replica,
        request: raft_cmdpb_pb2.AdminRequest,
        entry: eraftpb_pb2.Entry,
    ) -> None:
        merge = request.commit_merge
        source_id = merge.source.id
        source = self._progress.get(source_id)
        if source is None:
            found = self._replicas.load(source_id)
            if found is None:
                raise _damage(replica, entry, f"it merges region {source_id}, not on this store")
            source = self._apply(found)
        if source.trouble is not None:
            raise CorruptionError(str(source.trouble))
        self._catch_up(source, merge)
        admin.commit_merge(replica, source.replica, request)

    def _catch_up(self, source: Progress, merge: raft_cmdpb_pb2.CommitMergeRequest) -> None:
        """Bring a merge's source as far as the merge says, by its own log or what that carries.

        What its own log holds up to the known commit index is the same; above, the merge's counts.
        """
        replica, stand = source.replica, source.stand
        known = 0 if stand is None else stand.commit
        if replica.applied < min(known, merge.commit):
            self._apply_up_to(source, min(known, merge.commit))
        for entry in merge.entries:
            if entry.index == replica.applied + 1 and entry.index <= merge.commit:
                self._take(source, entry)
        if replica.applied < merge.commit and stand is not None:
            self._apply_up_to(source, min(stand.last_index, merge.commit))


_CHANGES: dict[int, Callable[[Replica, Any], None]] = {
    raft_cmdpb_pb2.ChangePeer: admin.change_peer,
    raft_cmdpb_pb2.ChangePeerV2: admin.change_peer_v2,
    raft_cmdpb_pb2.RollbackMerge: admin.rollback_merge,
    raft_cmdpb_pb2.PrepareFlashback: admin.flashback,
    raft_cmdpb_pb2.FinishFlashback: admin.flashback,
    raft_cmdpb_pb2.BatchSwitchWitness: admin.switch_witnesses,
}
_WITHOUT_EFFECT = frozenset(
    {
        raft_cmdpb_pb2.CompactLog,
        raft_cmdpb_pb2.TransferLeader,
        raft_cmdpb_pb2.ComputeHash,
        raft_cmdpb_pb2.VerifyHash,
        raft_cmdpb_pb2.UpdateGcPeer,
    }
)


def _command_of(replica: Replica, entry: eraftpb_pb2.Entry) -> _Cmd | None:
    """The command of an entry; None for one without."""
    data = entry.data
    try:
        if entry.entry_type == eraftpb_pb2.EntryConfChange:
            data = parse(eraftpb_pb2.ConfChange, data).context
        elif entry.entry_type == eraftpb_pb2.EntryConfChangeV2:
            data = parse(eraftpb_pb2.ConfChangeV2, data).context
        elif not data:
            return None
        elif data[0] == _SIMPLE_WRITE:
            raise CorruptionError("it is of a partitioned store, whose form is not known")
        return parse(_Cmd, data)
    except CorruptionError as e:
        raise _damage(replica, entry, str(e)) from None


def _writes_of(replica: Replica, command: _Cmd, entry: eraftpb_pb2.Entry) -> Iterator[_Write]:
    """What a command writes; RejectedError if any of it is not for the region."""
    for request in command.requests:
        kind = request.cmd_type
        if kind == raft_cmdpb_pb2.Put:
            replica.check_key(request.put.key)
            yield "put", request.put.cf or DEFAULT, _DATA + request.put.key, request.put.value
        elif kind == raft_cmdpb_pb2.Delete:
            replica.check_key(request.delete.key)
            yield "delete", request.delete.cf or DEFAULT, _DATA + request.delete.key, b""
        elif kind == raft_cmdpb_pb2.DeleteRange:
            yield from _delete_range(replica, request.delete_range)
        elif kind == raft_cmdpb_pb2.IngestSST:
            yield _ingestion(replica, request.ingest_sst.sst)
        elif kind not in (raft_cmdpb_pb2.Get, raft_cmdpb_pb2.Snap):
            raise RejectedError("it is of no kind that is known")


def _delete_range(replica: Replica, request: raft_cmdpb_pb2.DeleteRangeRequest) -> Iterator[_Write]:
    start, end, family = request.start_key, request.end_key, request.cf or DEFAULT
    if end and start >= end:
        raise RejectedError("its range ends before it begins")
    replica.check_key(start)
    region_end = replica.region.end_key
    if region_end and (not end or end > region_end):
        raise RejectedError("its range is not in the region")
    if family not in _FAMILIES:
        raise RejectedError("its family is not known")
    if not request.notify_only:
        yield "range", family, _DATA + start, _DATA + end if end else _DATA_END


def _ingestion(replica: Replica, sst: Any) -> _Write:
    region = replica.region
    if len(sst.uuid) != 16 or sst.cf_name not in (DEFAULT, WRITE):
        raise RejectedError("its file is none to ingest")
    if sst.region_id != region.id or sst.region_epoch != region.region_epoch:
        raise RejectedError("its file is not for the region as it is")
    replica.check_key(sst.range.start)
    replica.check_key(sst.range.end)
    digits = sst.uuid.hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    epoch = region.region_epoch
    name = f"{uuid}_{region.id}_{epoch.conf_ver}_{epoch.version}_{sst.cf_name}_2.sst"
    return "ingest", sst.cf_name, b"", name.encode()


def _damage(replica: Replica, entry: eraftpb_pb2.Entry, what: str) -> CorruptionError:
    return CorruptionError(
        f"[region {replica.region.id}] the raft log's entry {entry.index} cannot be applied: {what}"
    )
