"""Applies the raft log to a kv store: what TiKV does at its start, region by region.

    entry      a RaftCmdRequest, or a ConfChange with one in its context; a new leader's is empty
    command    checked against the region as it is at that moment, or skipped whole
    writes     puts, deletes, ranges of deletes, ingested SST files: in the kv store (`writes`)
    admin      what the region is (`admin`): splits make regions, whose logs are applied, too

A merge needs its source to be as far as the target's command says; what the source's own log lacks
of that, the command carries. Source: TiKV's components/raftstore/src/store/fsm/{apply,peer}.rs,
maybe_append_merge_entries in peer.rs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from bkctl.errors import CorruptionError
from bkctl.proto import eraftpb_pb2, raft_cmdpb_pb2
from bkctl.proto.strict import parse
from bkctl.raft import admin
from bkctl.raft.kv import KvStore
from bkctl.raft.log import RaftLog
from bkctl.raft.region import ContradictionError, RejectedError, Replica
from bkctl.raft.replicas import Replicas
from bkctl.raft.stand import Stand, find_stand, initial_apply_state
from bkctl.raft.writes import FindSst, Writer

_SIMPLE_WRITE = 0  # how the compact form of writes begins that partitioned stores use
_COMMIT_MERGE = raft_cmdpb_pb2.CommitMerge

_Cmd = raft_cmdpb_pb2.RaftCmdRequest
_Merge = raft_cmdpb_pb2.CommitMergeRequest


@dataclass(slots=True)
class Progress:
    """What came of a region: where it stood, how far its log was applied, and what it is now.

    `stand` is None where there was no log to apply. `trouble` says why not all could be applied
    that had to be. Up to `agreed`, what was applied is what a merge carried.
    """

    replica: Replica
    stand: Stand | None = None
    entries: int = 0
    size: int = 0
    trouble: CorruptionError | None = None
    agreed: int = 0

    def took(self, entry: eraftpb_pb2.Entry) -> None:
        """Count an entry that was applied."""
        self.replica.applied = entry.index
        self.entries += 1
        self.size += len(entry.data)

    @property
    def above(self) -> int:
        """The entries of the log that were not applied."""
        return 0 if self.stand is None else max(0, self.stand.last_index - self.replica.applied)


HowFar = Callable[[Replica, Stand], int]
"""Up to which index to apply now; asked again after each command that changes the region."""

_Steps = Generator[Any, None, None]
"""Work on one region. Yields such work on others that has to be done before it goes on."""


class _AbsentError(CorruptionError):
    """A merge's source is not there, unless a region whose turn is later splits it off."""


class Applier:
    """Applies the logs of a store's regions."""

    def __init__(
        self,
        kv: KvStore,
        log: RaftLog,
        replicas: Replicas,
        passes: Sequence[HowFar],
        find_sst: FindSst,
    ) -> None:
        """Apply `log` to `kv` as far as each of `passes` says: all regions by the first, and so on.

        What is not known to be committed belongs into a later pass than what is: merges among the
        latter tell which of it counts.
        """
        self._log, self._replicas = log, replicas
        self._how_far, *self._later = passes
        self._writer = Writer(kv, find_sst)
        self._progress: dict[int, Progress] = {}
        self._in_work: set[int] = set()

    def apply_all(self) -> Iterator[Progress]:
        """Apply all regions' logs, and write down what they are then.

        Yields what came of each, in no order; what is wrong with one is in that. One may come
        again: the last counts. Raises StorageError where the kv store has no room for it,
        CorruptionError where it is damaged.
        """
        for replica in self._replicas.at_first():
            region_id = replica.region.id
            if region_id in self._progress:
                continue
            self._finish(self._begin(replica))
            progress = self._progress[region_id]
            is_done = progress.trouble is None and not (self._later and progress.above)
            if is_done and not progress.entries and not replica.is_changed:
                # Most regions of a store have nothing to apply: they are not kept.
                del self._progress[region_id]
                yield progress
        self._apply_made()
        for how_far in self._later:
            self._how_far = how_far
            for progress in list(self._progress.values()):
                self._finish(self._go_on(progress))
            self._apply_made()
        for progress in self._progress.values():
            self._replicas.write(progress.replica)
            yield progress

    def _apply_made(self) -> None:
        """Apply the logs of regions that splits have made, and so on."""
        done = -1
        while True:
            for replica in self._replicas.made():
                if replica.region.id not in self._progress:
                    self._finish(self._begin(replica))
            if self._replicas.has_made:
                continue
            every = self._progress.values()
            waiting = [each for each in every if isinstance(each.trouble, _AbsentError)]
            before, done = done, len(every) + sum(each.entries for each in every)
            if not waiting or done == before:
                return
            for progress in waiting:
                progress.trouble = None
            for progress in waiting:
                self._finish(self._go_on(progress))

    @staticmethod
    def _finish(steps: _Steps) -> None:
        """Do work, and what it needs to be done before. Merges may need merges, without an end."""
        stack = [steps]
        while stack:
            needed = next(stack[-1], None)
            if needed is None:
                stack.pop()
            else:
                stack.append(needed)

    def _begin(self, replica: Replica) -> _Steps:
        """Find where a region stands, and apply its log as far as it goes."""
        progress = self._progress[replica.region.id] = Progress(replica)
        try:
            replica.check_own_peer()
            if replica.has_log:
                # Of one that takes no entries, too: its log may be the newest there is.
                progress.stand = find_stand(replica, self._log)
        except CorruptionError as e:
            progress.trouble = e
        return self._go_on(progress)

    def _go_on(self, progress: Progress, merge: _Merge | None = None) -> _Steps:
        """Apply a region's log as far as it goes, or as far as its merge needs it."""
        if progress.trouble is not None or progress.stand is None:
            return
        region_id = progress.replica.region.id
        self._in_work.add(region_id)
        try:
            if merge is None:
                yield from self._apply_up_to(progress, progress.stand, None)
            else:
                yield from self._catch_up(progress, progress.stand, merge)
        except CorruptionError as e:
            progress.trouble = e
        finally:
            self._in_work.discard(region_id)

    def _apply_up_to(self, progress: Progress, stand: Stand, limit: int | None) -> _Steps:
        """Apply up to `limit`, or as far as it goes."""
        replica = progress.replica
        end = self._how_far(replica, stand) if limit is None else limit
        while replica.applied < end and replica.takes_entries:
            region = replica.region
            for entry in self._log.entries(region.id, replica.applied + 1, end + 1):
                merge = self._take(progress, entry)
                if merge is not None:
                    yield from self._merge(progress, merge, entry)
                if replica.region is not region:
                    break  # who decides how far may have changed
            if limit is None:
                end = self._how_far(replica, stand)

    def _take(self, progress: Progress, entry: eraftpb_pb2.Entry) -> _Merge | None:
        """Apply an entry, but for one that merges another region: that is given back."""
        replica = progress.replica
        if entry.index != replica.applied + 1:
            raise _damage(replica, entry, f"it stands where {replica.applied + 1} should")
        try:
            command = _command_of(entry)
            if command is not None:
                replica.check(command)
                if not command.HasField("admin_request"):
                    self._writer.execute(replica, command.requests)
                elif command.admin_request.cmd_type == _COMMIT_MERGE:
                    return command.admin_request.commit_merge
                else:
                    self._execute_admin(replica, command.admin_request, entry)
        except RejectedError:
            pass  # as on every other replica
        except ContradictionError as e:
            raise _damage(replica, entry, f"it {e}") from None
        except CorruptionError as e:
            raise _damage(replica, entry, str(e)) from None
        progress.took(entry)
        return None

    def _execute_admin(
        self,
        replica: Replica,
        request: raft_cmdpb_pb2.AdminRequest,
        entry: eraftpb_pb2.Entry,
    ) -> None:
        kind = request.cmd_type
        if kind in (raft_cmdpb_pb2.Split, raft_cmdpb_pb2.BatchSplit):
            self._split(replica, request)
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

    def _merge(self, progress: Progress, merge: _Merge, entry: eraftpb_pb2.Entry) -> _Steps:
        """Apply an entry that merges another region, once that has come as far as it needs."""
        replica, source_id = progress.replica, merge.source.id
        if source_id in self._in_work:
            raise _damage(replica, entry, f"it merges region {source_id}, which waits for it")
        if source_id not in self._progress:
            found = self._replicas.load(source_id)
            if found is None:
                raise _AbsentError(
                    str(_damage(replica, entry, f"it merges region {source_id}, not on this store"))
                )
            yield self._begin(found)
        source = self._progress[source_id]
        yield self._go_on(source, merge)
        if source.trouble is not None:
            raise type(source.trouble)(str(source.trouble))
        try:
            admin.commit_merge(replica, source.replica, merge)
        except ContradictionError as e:
            raise _damage(replica, entry, f"it {e}") from None
        progress.took(entry)

    def _catch_up(self, progress: Progress, stand: Stand, merge: _Merge) -> _Steps:
        """Bring a merge's source as far as the merge says, by its own log and what that carries.

        What the merge carries counts from the first entry of it on, but for what is known to be
        committed: that is the same.
        """
        replica, carried = progress.replica, merge.entries
        if carried:
            self._check_agreed(progress, stand, merge)
            own = min(max(stand.commit, carried[0].index - 1), stand.last_index, merge.commit)
            yield from self._apply_up_to(progress, stand, own)
        for entry in carried:
            if entry.index == replica.applied + 1 and entry.index <= merge.commit:
                needed = self._take(progress, entry)
                if needed is not None:
                    yield from self._merge(progress, needed, entry)
                progress.agreed = replica.applied
        yield from self._apply_up_to(progress, stand, min(stand.last_index, merge.commit))
        if replica.applied < merge.commit:
            region_id = replica.region.id
            raise CorruptionError(
                f"[region {region_id}] its entries up to {merge.commit} are committed, as another "
                f"region merges it, and the raft log lacks those from {replica.applied + 1} on; "
                "back up another replica"
            )

    def _check_agreed(self, progress: Progress, stand: Stand, merge: _Merge) -> None:
        """Raise CorruptionError if others were applied already than those that a merge carries."""
        replica = progress.replica
        known = max(stand.commit, stand.applied, progress.agreed)
        for entry in merge.entries:
            if known < entry.index <= replica.applied and (
                self._log.term_of(replica.region.id, entry.index) != entry.term
            ):
                raise _damage(replica, entry, "another was applied, which never was committed")


_CHANGES: dict[int, Callable[[Replica, Any], None]] = {
    raft_cmdpb_pb2.CompactLog: admin.compact_log,
    raft_cmdpb_pb2.ChangePeer: admin.change_peer,
    raft_cmdpb_pb2.ChangePeerV2: admin.change_peer_v2,
    raft_cmdpb_pb2.RollbackMerge: admin.rollback_merge,
    raft_cmdpb_pb2.PrepareFlashback: admin.flashback,
    raft_cmdpb_pb2.FinishFlashback: admin.flashback,
    raft_cmdpb_pb2.BatchSwitchWitness: admin.switch_witnesses,
}
_WITHOUT_EFFECT = frozenset(
    {
        raft_cmdpb_pb2.TransferLeader,
        raft_cmdpb_pb2.ComputeHash,
        raft_cmdpb_pb2.VerifyHash,
        raft_cmdpb_pb2.UpdateGcPeer,
    }
)


def _command_of(entry: eraftpb_pb2.Entry) -> _Cmd | None:
    """The command of an entry; None for one without. CorruptionError for what is none."""
    data = entry.data
    if entry.entry_type == eraftpb_pb2.EntryConfChange:
        data = parse(eraftpb_pb2.ConfChange, data).context
    elif entry.entry_type == eraftpb_pb2.EntryConfChangeV2:
        data = parse(eraftpb_pb2.ConfChangeV2, data).context
    elif not data:
        return None
    elif data[0] == _SIMPLE_WRITE:
        raise CorruptionError("it is of a partitioned store, whose form is not known")
    else:
        try:
            # Most have no field that is not known: that is seen at a sixth of the price.
            command = _Cmd.FromString(data)
            size = command.ByteSize()
            command.DiscardUnknownFields()
            if command.ByteSize() == size:
                return command
        except DecodeError:
            pass
    return parse(_Cmd, data)


def _damage(replica: Replica, entry: eraftpb_pb2.Entry, what: str) -> CorruptionError:
    return CorruptionError(
        f"[region {replica.region.id}] the raft log's entry {entry.index} cannot be applied: {what}"
    )
