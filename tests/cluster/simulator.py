"""A cluster of the tests' own: stores that elect, replicate, commit, apply, split, merge and move.

It plays raft as TiKV does, a step at a time, with stores that are down and messages that are lost.
What is committed is applied to `truth` at once; followers and kv stores lag behind. Leaders that
were voted out go on proposing until they hear of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.commands import (
    Change,
    Command,
    Commit,
    Compact,
    Entry,
    Peer,
    Prepare,
    Region,
    Rollback,
    Split,
)
from tests.cluster.machine import TRUTH, Replica, Store, apply_next
from tests.cluster.writes import KEYS, a_write


@dataclass(slots=True)
class Lead:
    """That a store's peer leads in a term, and how far each peer's log is known to be its own."""

    term: int
    match: dict[int, int] = field(default_factory=dict)


class Cluster:
    """Three to five stores, of which the first three have the first region."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.next_id, self.ts = 100, 1000
        self.stores = {number: Store(number) for number in range(1, rng.choice((3, 4, 5)) + 1)}
        self.truth = Store(TRUTH)
        self.parents: dict[int, int] = {}
        # What each region was from an index on, as was decided.
        self.history: dict[int, list[tuple[int, Region]]] = {}
        self.leads: dict[tuple[int, int], Lead] = {}
        self.votes: dict[tuple[int, int, int], int] = {}
        self.merges = rng.random() < 0.6
        peers = tuple(Peer(number, number) for number in (1, 2, 3))
        first = Region(2, b"", b"", 1, 1, peers)
        for store in (self.truth, *(self.stores[peer.store] for peer in peers)):
            replica = store.replicas[2] = Replica(first, store.id)
            store.put_record(replica)
        self.history[2] = [(5, first)]

    def run(self, steps: int) -> None:
        acts: list[tuple[float, Callable[[int], None]]] = [
            (8, self.write_some),
            (14, self.replicate_some),
            (10, self.apply_some),
            (0.6, self.elect),
            (0.7, self.split),
            (0.3 if self.merges else 1.2, self.change_peers),
            (1.0, self.compact),
            (0.8, self.install),
            (0.6, self.remove_stale),
            (3.0 if self.merges else 0, self.merge),
            (0.6, self.turn),
        ]
        # Each cluster has its own ways.
        weights = [weight * self.rng.choice((0.3, 1, 1, 3)) for weight, _ in acts]
        for _ in range(steps):
            alive = [r.region.id for r in self.truth.replicas.values() if r.is_there]
            every = list(self.truth.replicas)
            region_id = self.rng.choice(alive if self.rng.random() < 0.9 else every)
            (act,) = self.rng.choices([act for _, act in acts], weights)
            act(region_id)

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def turn(self, region_id: int) -> None:
        """A store goes down, or comes back; mostly a majority is up."""
        store = self.rng.choice(list(self.stores.values()))
        down = sum(not each.is_up for each in self.stores.values())
        store.is_up = not store.is_up or (down > 0 and self.rng.random() < 0.8)

    def leader(self, region_id: int) -> tuple[Store, Replica, Lead] | None:
        """One that believes to lead a region, be it right or not."""
        found = [
            (store, replica, lead)
            for store in self.stores.values()
            if store.is_up
            and (replica := store.replicas.get(region_id))
            and replica.is_there
            and (lead := self.leads.get((region_id, store.id)))
            and lead.term == replica.term
        ]
        if not found and self.rng.random() < 0.5:
            self.elect(region_id)
        return self.rng.choice(found) if found else None

    def propose(self, store: Store, replica: Replica, command: Command | None) -> None:
        replica.add(Entry(replica.term, replica.last + 1, command, replica.region))
        self.leads[replica.region.id, store.id].match[replica.peer_id] = replica.last

    def peer(self, region_id: int, peer: Peer) -> Replica | None:
        """A peer's replica, if it is there; one of an older peer on that store goes."""
        store = self.stores[peer.store]
        found = store.replicas.get(region_id)
        if found is not None and found.is_there and found.peer_id < peer.id:
            store.destroy(found)
        return found if found is not None and found.peer_id == peer.id else None

    def elect(self, region_id: int) -> None:
        """A peer asks for votes, and gets those of whom it reaches and who may."""
        store = self.rng.choice(list(self.stores.values()))
        replica = store.replicas.get(region_id)
        if not store.is_up or replica is None or not replica.has_data:
            return
        own = replica.region.peer_on(store.id)
        known = range(replica.applied + 1, replica.commit + 1)
        if own is None or own.role == "learner":
            return
        if any(isinstance(replica.entries[at].command, Change) for at in known):
            return
        replica.term += 1
        granted = {store.id}
        for peer in replica.region.peers:
            other = self.stores[peer.store]
            if other is store or not other.is_up or self.rng.random() < 0.25:
                continue
            if self._grants(region_id, peer, replica):
                granted.add(other.id)
        if replica.region.has_quorum(granted):
            self.leads[region_id, store.id] = Lead(replica.term)
            self.propose(store, replica, None)

    def _grants(self, region_id: int, peer: Peer, candidate: Replica) -> bool:
        # One that has no replica yet does not vote: what it promised would be lost by a split.
        voter = self.peer(region_id, peer)
        if voter is None or not voter.is_there or voter.term > candidate.term:
            return False
        voter.term = candidate.term
        if voter.log > candidate.log:
            return False
        ballot = region_id, peer.id, candidate.term
        return self.votes.setdefault(ballot, candidate.peer_id) == candidate.peer_id

    def write_some(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None or led[1].state != "normal":
            return
        keys = [key for key in KEYS if led[1].region.has(key)]
        for _ in range(self.rng.randint(1, 3)):
            if keys:
                self.ts += 10
                self.propose(led[0], led[1], a_write(self.rng, self.rng.choice(keys), self.ts))

    def replicate_some(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None:
            return
        store, leader, lead = led
        for peer in leader.region.peers:
            other = self.stores[peer.store]
            if other is not store and other.is_up and self.rng.random() < 0.6:
                self._replicate(led, peer)
        if lead.term == leader.term:
            self._commit(leader, lead)

    def _replicate(self, led: tuple[Store, Replica, Lead], peer: Peer) -> None:
        store, leader, lead = led
        if leader.term != lead.term:
            return
        follower = self.peer(leader.region.id, peer)
        if follower is None:
            kept = self.stores[peer.store].replicas.get(leader.region.id)
            if kept is None or kept.peer_id < peer.id:
                self._send_snapshot(store, leader, peer)
            return
        if not follower.is_there:
            return
        if follower.term > leader.term:
            leader.term = follower.term
            return
        follower.term = leader.term
        at = min(follower.last, leader.last)
        while at > follower.commit and leader.term_of(at) != follower.term_of(at):
            at -= 1
        if at < leader.truncated[0]:
            if follower.has_data:
                self._send_snapshot(store, leader, peer)
            return
        assert leader.term_of(at) == follower.term_of(at)
        for index in range(at + 1, min(leader.last, at + self.rng.randint(0, 8)) + 1):
            if index <= follower.last:
                follower.keep_below(index)
            follower.add(leader.entries[index])
            at = index
        lead.match[peer.id] = max(at, lead.match.get(peer.id, 0))
        follower.commit = max(follower.commit, min(leader.commit, at))

    def _commit(self, leader: Replica, lead: Lead) -> None:
        for index in range(leader.last, leader.commit, -1):
            if leader.term_of(index) != leader.term:
                break
            have = {p.store for p in leader.region.peers if lead.match.get(p.id, 0) >= index}
            if leader.region.has_quorum(have):
                leader.commit = index
                self._record(leader)
                break

    def _record(self, leader: Replica) -> None:
        """What is committed is decided for ever."""
        truth = self.truth.replicas[leader.region.id]
        for index, entry in truth.entries.items():
            assert leader.entries.get(index, entry) is entry or index > leader.commit
        for index in range(truth.applied + 1, leader.commit + 1):
            entry = leader.entries[index]
            if not truth.is_there:
                is_idle = entry.command is None or isinstance(entry.command, Compact)
                assert is_idle or not entry.fits(truth.region), "what was merged away goes on"
                continue
            truth.add(entry)
            truth.commit = truth.term = index
            before = truth.region
            assert apply_next(self.truth, truth), "a merge was decided before its source's end"
            for region_id, each in self.truth.replicas.items():
                if region_id not in self.history:
                    self.history[region_id] = [(5, each.region)]
                    self.parents[region_id] = before.id
            if truth.region != before:
                self.history[before.id].append((index, truth.region))

    def apply_some(self, region_id: int) -> None:
        store = self.rng.choice(list(self.stores.values()))
        replica = store.replicas.get(region_id)
        for _ in range(self.rng.randint(1, 12)):
            if (
                not store.is_up
                or replica is None
                or not replica.has_data
                or replica.applied >= replica.commit
                or not apply_next(store, replica)
            ):
                return

    def _send_snapshot(self, store: Store, leader: Replica, peer: Peer) -> None:
        """What the leader has applied goes to a peer, if that has room for it."""
        other, region = self.stores[peer.store], leader.region
        term = leader.term_of(leader.applied)
        if not leader.has_data or term is None or leader.applied <= 5:
            return
        if region.peer_on(other.id) != peer and region.peer_on(other.id) is None:
            return
        found = other.replicas.get(region.id)
        replaced = []
        for each in other.replicas.values():
            if each is found or not each.is_there:
                continue
            target = None if each.merge is None else each.merge[1].id
            if not region.overlaps(each.region) and target != region.id:
                continue
            is_merged = self.truth.replicas[each.region.id].state == "tombstone"
            if not (is_merged and region.covers(each.region)):
                return
            replaced.append(each)
        for each in replaced:
            other.destroy(each, keeps_data=True)
        if found is None or not found.is_there:
            found = other.replicas[region.id] = Replica(region, peer.id)
        found.entries.clear()
        found.region, found.state, found.merge = region, "applying", None
        found.truncated = (leader.applied, term)
        found.last = found.commit = found.applied = found.floor = leader.applied
        found.term = max(found.term, leader.term)
        found.incoming = store.in_region(region)
        other.put_record(found)

    def install(self, region_id: int) -> None:
        """Stores take in the data of a snapshot."""
        for store in self.stores.values():
            replica = store.replicas.get(region_id)
            if replica is None or replica.state != "applying" or not store.is_up:
                continue
            old = dict.fromkeys(store.in_region(replica.region))
            store.write({**old, **replica.incoming}, sync=False)
            replica.state, replica.incoming = "normal", {}
            store.put_record(replica)

    def compact(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None or led[1].state != "normal":
            return
        leader = led[1]
        index = self.rng.randint(leader.truncated[0], leader.applied)
        term = leader.term_of(index)
        if index > leader.truncated[0] and term is not None:
            self.propose(led[0], leader, Compact(index, term))

    def split(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None or led[1].state != "normal" or len(self.truth.replicas) > 7:
            return
        region = led[1].region
        keys = [key for key in KEYS if region.has(key) and key != region.start]
        if keys:
            ids = tuple(self.new_id() for _ in region.peers)
            is_right = self.rng.random() < 0.5
            split = Split(self.rng.choice(keys), self.new_id(), ids, is_right)
            self.propose(led[0], led[1], split)

    def change_peers(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None or led[1].state != "normal" or led[1].pending(Change):
            return
        changes = self._changes(led[1].region, led[0].id)
        if changes is not None:
            is_old = len(changes) == 1 and self.rng.random() < 0.5
            self.propose(led[0], led[1], Change(changes, is_old))

    def _changes(self, region: Region, own: int) -> tuple[tuple[str, Peer], ...] | None:
        if region.is_joint:
            return ()
        rng = self.rng
        voters = [p for p in region.peers if p.role == "voter" and p.store != own]
        learners = [p for p in region.peers if p.role == "learner"]
        free = [number for number in self.stores if number not in region.stores]
        added = [("learn", Peer(self.new_id(), rng.choice(free), "learner"))] if free else []
        promoted = [("add", rng.choice(learners))] if learners else []
        demoted = [("learn", rng.choice(voters))] if len(voters) > 1 else []
        removed = [("remove", p) for p in (*learners, *(voters if len(voters) > 1 else ()))]
        joint = [*promoted, *demoted]
        if len(joint) == 2 and rng.random() < 0.7:
            return tuple(joint)
        single = [*added, *promoted, *promoted, *removed[:1], *removed[-1:]]
        return (rng.choice(single),) if single else None

    def remove_stale(self, region_id: int) -> None:
        """A store hears that its peer was removed, or merged away."""
        store = self.rng.choice(list(self.stores.values()))
        replica, truth = store.replicas.get(region_id), self.truth.replicas[region_id]
        if replica is None or not replica.is_there or not store.is_up or not truth.is_there:
            return
        now = truth.region.peer_on(store.id)
        if truth.region.conf_ver > replica.region.conf_ver and (
            now is None or now.id > replica.peer_id
        ):
            store.destroy(replica)

    def merge(self, region_id: int) -> None:
        """The next step of a merge, whatever that is."""
        for store in self.stores.values():
            source = store.replicas.get(region_id)
            if not store.is_up or source is None or source.state != "merging":
                continue
            assert source.merge is not None
            low, told, commit = source.merge
            target, lead = store.replicas.get(told.id), self.leads.get((told.id, store.id))
            own_lead = self.leads.get((region_id, store.id))
            if target is None or not target.has_data:
                continue
            if target.region == told and lead is not None and lead.term == target.term:
                entries = tuple(source.entries[at] for at in range(low, commit + 1))
                self.propose(store, target, Commit(source.region, commit, entries))
            elif (
                (target.region.version, target.region.conf_ver) > (told.version, told.conf_ver)
                and own_lead is not None
                and own_lead.term == source.term
                and not source.pending(Rollback)
            ):
                self.propose(store, source, Rollback(commit))
        self._prepare(region_id)

    def _prepare(self, region_id: int) -> None:
        led = self.leader(region_id)
        if led is None or led[1].state != "normal" or led[1].region.is_joint:
            return
        store, source, lead = led
        own = source.region
        low = min(lead.match.get(peer.id, 0) for peer in own.peers)
        gap = range(low + 1, source.last + 1)
        if low < source.truncated[0] or any(source.entries[at].is_admin for at in gap):
            return
        places = sorted((p.store, p.role) for p in own.peers)
        for target in store.replicas.values():
            there = target.region
            if (
                target.state == "normal"
                and sorted((p.store, p.role) for p in there.peers) == places
                and ((own.end and own.end == there.start) or (there.end and there.end == own.start))
            ):
                self.propose(store, source, Prepare(low + 1, there))
                return
