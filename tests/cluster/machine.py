"""The model's stores and replicas, and what an applied entry makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bkctl.proto import raft_serverpb_pb2
from tests.cluster.commands import (
    Change,
    Commit,
    Compact,
    Entry,
    Prepare,
    Region,
    Rollback,
    Split,
    Write,
    changed,
    local_state,
)

TRUTH = 0
"""The store that stands for what was decided: it has all regions, and is nobody's peer."""

_Record = tuple[str, bytes]


@dataclass(slots=True)
class Replica:
    """A peer's log, and what it has applied of it; `commit` is what it knows to be committed."""

    region: Region
    peer_id: int
    state: str = "normal"
    merge: tuple[int, Region, int] | None = None
    entries: dict[int, Entry] = field(default_factory=dict)
    truncated: tuple[int, int] = (5, 5)
    last: int = 5
    term: int = 5
    commit: int = 5
    applied: int = 5
    # The index that its newest snapshot had: it never knows less to be committed.
    floor: int = 5
    # What the snapshot that it waits for holds.
    incoming: dict[_Record, bytes] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        return self.state != "tombstone"

    @property
    def has_data(self) -> bool:
        return self.state in ("normal", "merging")

    @property
    def log(self) -> tuple[int, int]:
        term = self.term_of(self.last)
        assert term is not None
        return term, self.last

    def term_of(self, index: int) -> int | None:
        if index == self.truncated[0]:
            return self.truncated[1]
        entry = self.entries.get(index)
        return None if entry is None else entry.term

    def keep_below(self, index: int) -> None:
        """Forget the entries from `index` on, which were never committed."""
        assert index > self.commit
        self.entries = {at: entry for at, entry in self.entries.items() if at < index}
        self.last = index - 1

    def add(self, entry: Entry) -> None:
        assert entry.index == self.last + 1
        self.entries[entry.index] = entry
        self.last = entry.index

    def pending(self, kind: type) -> bool:
        """Whether there is a command of a kind that it has not applied."""
        return any(
            isinstance(self.entries[at].command, kind)
            for at in range(self.applied + 1, self.last + 1)
        )

    def apply_state(self) -> bytes:
        made = raft_serverpb_pb2.RaftApplyState(applied_index=self.applied)
        made.truncated_state.index, made.truncated_state.term = self.truncated
        term = self.term_of(self.commit)
        if self.commit > self.floor and term is not None:
            made.commit_index, made.commit_term = self.commit, term
        return made.SerializeToString()


class Store:
    """A store: replicas, and a kv store with its log, of which only a part is sure to last."""

    def __init__(self, store_id: int) -> None:
        self.id = store_id
        self.is_up = True
        self.replicas: dict[int, Replica] = {}
        self.data: dict[_Record, bytes] = {}
        self.batches: list[dict[_Record, bytes | None]] = []
        self.synced = 0

    def write(self, batch: dict[_Record, bytes | None], *, sync: bool) -> None:
        self.batches.append(batch)
        _take(self.data, batch)
        if sync:
            self.synced = len(self.batches)

    def at(self, cut: int) -> dict[_Record, bytes]:
        """What the kv store holds if its log is cut behind so many batches."""
        found: dict[_Record, bytes] = {}
        for batch in self.batches[:cut]:
            _take(found, batch)
        return found

    def in_region(self, region: Region) -> dict[_Record, bytes]:
        return {
            (family, key): value
            for (family, key), value in self.data.items()
            if key[:1] == b"z" and region.has(key[1:])
        }

    def put_record(self, replica: Replica, *, sync: bool = True) -> None:
        self.write(record_of(replica), sync=sync)

    def destroy(self, replica: Replica, *, keeps_data: bool = False) -> None:
        """Make it a tombstone, as it is now: its log goes."""
        replica.state = "tombstone"
        self.put_record(replica)
        bury(replica)
        if not keeps_data:
            gone: dict[_Record, bytes | None] = dict.fromkeys(self.in_region(replica.region))
            gone["raft", _key(b"\x02", replica.region.id, b"\x03")] = None
            self.write(gone, sync=False)


def bury(replica: Replica) -> None:
    """What is left of a replica whose log was removed."""
    replica.entries.clear()
    replica.truncated, replica.last = (5, 5), 5


def record_of(replica: Replica) -> dict[_Record, bytes | None]:
    """The two records that a kv store has of a replica."""
    region_id = replica.region.id
    state = local_state(replica.region, replica.state, replica.merge)
    return {
        ("raft", _key(b"\x03", region_id, b"\x01")): state,
        ("raft", _key(b"\x02", region_id, b"\x03")): replica.apply_state(),
    }


def _key(kind: bytes, region_id: int, suffix: bytes) -> bytes:
    return b"\x01" + kind + region_id.to_bytes(8, "big") + suffix


def _take(data: dict[_Record, bytes], batch: dict[_Record, bytes | None]) -> None:
    for record, value in batch.items():
        if value is None:
            data.pop(record, None)
        else:
            data[record] = value


def apply_next(store: Store, replica: Replica) -> bool:
    """Apply the next entry; False if it has to wait."""
    entry = replica.entries[replica.applied + 1]
    command, batch = entry.command, {}
    sync = False
    if command is not None and entry.fits(replica.region):
        if isinstance(command, Commit) and not _catch_up(store, command):
            return False
        sync = entry.is_admin and not isinstance(command, Compact)
        batch = _execute(store, replica, entry)
    replica.applied = entry.index
    # Before anything is removed from the log, what it holds is made to last.
    is_compaction = isinstance(command, Compact)
    store.write(batch | record_of(replica), sync=sync or is_compaction)
    if is_compaction:
        for at in [at for at in replica.entries if at <= replica.truncated[0]]:
            del replica.entries[at]
    if isinstance(command, Commit):
        source = store.replicas.get(command.source.id)
        if source is not None and source.state == "tombstone":
            bury(source)
    if replica.state == "tombstone":
        store.destroy(replica)
    return True


def _execute(store: Store, replica: Replica, entry: Entry) -> dict[_Record, bytes | None]:
    region, command = replica.region, entry.command
    if isinstance(command, Write):
        return {(command.family, b"z" + command.key): command.value}
    if isinstance(command, Split):
        return _split(store, replica, command)
    if isinstance(command, Change):
        after = changed(region, command)
        if after is not None:
            replica.region = after
            if store.id != TRUTH and after.peer_on(store.id) is None:
                replica.state = "tombstone"
    elif isinstance(command, Compact):
        if command.index > replica.truncated[0] and replica.state == "normal":
            replica.truncated = command.index, command.term
    elif isinstance(command, Prepare):
        replica.state = "merging"
        replica.merge = command.min_index, command.target, entry.index
        replica.region = replace(region, version=region.version + 1, conf_ver=region.conf_ver + 1)
    elif isinstance(command, Rollback):
        assert replica.merge is not None
        assert replica.merge[2] == command.commit
        replica.state, replica.merge = "normal", None
        replica.region = replace(region, version=region.version + 1)
    elif isinstance(command, Commit):
        return _merge(store, replica, command)
    return {}


def _split(store: Store, replica: Replica, split: Split) -> dict[_Record, bytes | None]:
    region = replace(replica.region, version=replica.region.version + 1)
    peers = tuple(
        replace(peer, id=new) for peer, new in zip(region.peers, split.peer_ids, strict=True)
    )
    left = replace(region, end=split.key)
    right = replace(region, start=split.key)
    own, other = (right, left) if split.right_derive else (left, right)
    replica.region = own
    child = replace(other, id=split.new_id, peers=peers)
    if child.id in store.replicas:
        return {}
    peer = child.peer_on(store.id)
    made = store.replicas[child.id] = Replica(child, peer.id if peer else 0)
    return record_of(made)


def _catch_up(store: Store, merge: Commit) -> bool:
    """Bring a merge's source as far as the merge says; False if it is not there yet."""
    source = store.replicas.get(merge.source.id)
    if source is None or not source.has_data:
        return False
    if merge.entries and source.last + 1 < merge.entries[0].index:
        return False
    for entry in merge.entries:
        if entry.index <= source.commit or source.term_of(entry.index) == entry.term:
            continue
        if entry.index <= source.last:
            source.keep_below(entry.index)
        source.add(entry)
    source.commit = max(source.commit, merge.commit)
    while source.applied < merge.commit:
        if not apply_next(store, source):
            return False
    return source.state == "merging" and source.region == merge.source


def _merge(store: Store, replica: Replica, merge: Commit) -> dict[_Record, bytes | None]:
    source, region = store.replicas[merge.source.id], replica.region
    version = max(merge.source.version, region.version) + 1
    if region.end and region.end == merge.source.start:
        replica.region = replace(region, version=version, end=merge.source.end)
    else:
        replica.region = replace(region, version=version, start=merge.source.start)
    source.state, source.merge = "tombstone", (0, region, 0)
    return record_of(source)
